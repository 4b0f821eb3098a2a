"""Bulk verbs beside other sessions: what is locked is left out, and nobody deadlocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest

from tests.support.world import (
    Patch,
    Peer,
    World,
    apply_patches,
    problems,
    result,
    row,
    run,
    states,
    submit,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ALL = '{"all": true}'


def died(peer: Peer, count: int) -> list[int]:
    """Return new dead letters."""
    ids = [submit(peer.db) for _ in range(count)]
    peer.fail(*peer.claim(), reject=True)
    return ids


def a_locked_dead_letter_is_left_out(world: World, verb: str = "retry_dead") -> None:
    """Nobody waits for an application's transaction; the call says so, and a second one finds it.

    With max_tasks, a locked head does not hide what is free behind it.
    """
    peer, application, operator = world.peer(), world.connect(), world.connect()
    notices: list[str] = []
    operator.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    dead = died(peer, 3)
    query = f"select tasks, task_ids from peers.{verb}('{ALL}', max_tasks => %s)"
    with application.transaction():
        run(application, "select from peers.task where id = %s for share", dead[0])
        first = result(world.background(row, operator, query, 1))
        assert first == {"tasks": 1, "task_ids": [dead[1]]}
        assert result(world.background(row, operator, query, 9))["task_ids"] == [dead[2]]
        assert [notice for notice in notices if "1 task is left out" in notice] != []
    assert row(operator, query, 9)["task_ids"] == [dead[0]]
    assert problems(world.db) == []


def a_locked_dead_letter_is_not_discarded(world: World) -> None:
    """The same for a discard."""
    a_locked_dead_letter_is_left_out(world, "discard_dead")


def two_operators_act_on_the_same_tasks(world: World) -> None:
    """Each task is retried or discarded once, and counted once."""
    peer, one, two = world.peer(), world.connect(), world.connect()
    died(peer, 20)
    with one.transaction():
        retried = row(one, f"select tasks from peers.retry_dead('{ALL}', max_tasks => 12)")
        work = world.background(row, two, f"select tasks from peers.discard_dead('{ALL}')")
        assert not world.waits_long(work)
        discarded = result(work)
    assert (retried["tasks"], discarded["tasks"]) == (12, 8)
    assert value(world.db, "select sum(tasks) from peers.action") == 20
    assert len(peer.claim()) == 12
    assert problems(world.db) == []


def a_discard_against_a_new_child(world: World) -> None:
    """A task that waits for a dead letter and for that letter's child, whose id is smaller."""
    db, peer = world.db, world.peer()
    low = value(db, "select peers.submit('b')")
    gap = value(db, "select peers.submit('b')")
    [root] = died(peer, 1)
    run(db, "insert into peers.dependency (parent_id, child_id) values (%s, %s)", root, low)
    holder, operator, application = world.connect(), world.connect(), world.connect()
    with holder.transaction():
        run(holder, "select from peers.task where id = %s for update", gap)
        adding = world.background(submit, application, "b", depends_on=[low, gap, root])
        world.until_waiting(application)
        discarding = world.background(run, operator, f"select peers.discard_dead('{ALL}')")
        world.until_waiting_or_done(operator, discarding)
    result(discarding)
    child = result(adding)
    assert states(db, low, root, child) == ["cancelled"] * 3
    assert problems(db) == []


def a_task_is_claimed_while_many_are_cancelled(world: World) -> None:
    """A claim skips what a bulk verb has locked, and the verb sees what a claim has taken."""
    db, peer, operator = world.db, world.peer(), world.connect()
    ids = [submit(db) for _ in range(6)]
    [claimed] = peer.claim(1)
    with operator.transaction():
        query = 'select tasks from peers.cancel_tasks(\'{"kind": "a"}\')'
        assert row(operator, query) == {"tasks": 6}
        assert peer.claim() == []
    assert peer.heartbeat()["cancelled_tasks"] == [claimed.task_id]
    assert peer.claim() == []
    assert peer.complete(claimed) == {}
    assert states(db, *ids) == ["completed", *["cancelled"] * 5]
    assert problems(db) == []


SCENARIOS = (
    a_locked_dead_letter_is_left_out, a_locked_dead_letter_is_not_discarded,
    two_operators_act_on_the_same_tasks, a_discard_against_a_new_child,
    a_task_is_claimed_while_many_are_cancelled,
)  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_bulk_scenarios(world: World, scenario: Callable[[World], None]) -> None:
    """They pass as shipped."""
    scenario(world)


class Variant(NamedTuple):
    """A patch that takes one safeguard out, and the scenario that must notice."""

    scenario: Callable[[World], None]
    patch: Patch
    fails_with: type[BaseException] | tuple[type[BaseException], ...] = AssertionError


VARIANTS = {
    "the limit comes before the locks": Variant(
        a_locked_dead_letter_is_left_out,
        Patch(
            "71_bulk.sql",
            "select t.id from peers.task t where t.id = any (_matched) and t.state = 'dead'",
            "select t.id from peers.task t"
            " where t.id = any (_matched[:retry_dead.max_tasks]) and t.state = 'dead'",
        ),
    ),
    "a discard limits before it locks": Variant(
        a_locked_dead_letter_is_not_discarded,
        Patch(
            "71_filter.sql", "where t.id = any (_ids)\n        order by t.id for no key",
            "where t.id = any (_ids[:_most])\n        order by t.id for no key",
        ),
    ),
    "a bulk discard does not look again": Variant(
        two_operators_act_on_the_same_tasks,
        Patch(
            "71_filter.sql", "for no key update skip locked limit _most", "limit _most",
        ),
    ),
    "a discard locks the letter before what it holds": Variant(
        a_discard_against_a_new_child,
        Patch("71_bulk.sql", "perform peers._lock_with_descendants(_ids);\n    tasks :=",
              "perform from peers.task t where t.id = any (_ids) for no key update;\n    tasks :="),
        (AssertionError, psycopg.errors.DeadlockDetected),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_without_its_safeguard_the_scenario_fails(world: World, name: str) -> None:
    """A scenario that passes all the same would prove nothing."""
    variant = VARIANTS[name]
    apply_patches(world.db, [variant.patch])
    with pytest.raises(variant.fails_with):
        variant.scenario(world)
