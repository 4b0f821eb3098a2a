"""Retention: ended tasks go after their time, and young ones cost nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest

from tests.support.world import (
    Patch,
    Peer,
    World,
    advance,
    apply_patches,
    column,
    problems,
    result,
    row,
    rows,
    run,
    state,
    states,
    submit,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Connection


def retain(
    db: Connection, completed: str | None, dead: str | None, most: int = 10_000
) -> tuple[int, int, bool]:
    """Return what one step did: looked_at, deleted, finished."""
    query = "select * from peers.apply_retention(%s::interval, %s::interval, %s)"
    found = row(db, query, completed, dead, most)
    return found["looked_at"], found["deleted"], found["finished"]


def completed(peer: Peer, count: int) -> list[int]:
    """Return new tasks that were completed."""
    ids = [submit(peer.db) for _ in range(count)]
    assert peer.complete(*peer.claim(count)) == {}
    return ids


def died(peer: Peer, **options: Any) -> int:
    """Return a new dead letter."""
    task_id = submit(peer.db, **options)
    peer.fail(*peer.claim(), reject=True)
    return task_id


def test_each_kind_of_end_has_its_own_time(db: Connection, peer: Peer) -> None:
    """Cancelled tasks go with completed ones; dead letters stay longer; null keeps for ever."""
    [done] = completed(peer, 1)
    cancelled = submit(db)
    run(db, "select peers.cancel(%s)", cancelled)
    dead = died(peer, priority=1)
    advance(db, "40 days")
    assert retain(db, None, None)[1:] == (0, True)
    assert retain(db, "30 days", "90 days")[1:] == (2, True)
    assert column(db, "select id from peers.task") == [dead]
    advance(db, "60 days")
    assert retain(db, "30 days", None)[1:] == (0, True)
    assert retain(db, None, "90 days")[1:] == (1, True)
    assert rows(db, "select from peers.failure") == []
    assert problems(db) == []
    assert done < cancelled < dead


def test_what_a_dead_letter_holds_is_cancelled_with_it(db: Connection, peer: Peer) -> None:
    """Held descendants can never run: they are cancelled now, and deleted like cancelled tasks."""
    dead = died(peer)
    child = submit(db, depends_on=[dead])
    grandchild = submit(db, depends_on=[child])
    advance(db, "91 days")
    assert retain(db, "30 days", "90 days")[1] == 1
    assert states(db, child, grandchild) == ["cancelled", "cancelled"]
    assert rows(db, "select from peers.dependency where parent_id = %s", dead) == []
    assert rows(db, "select from peers.dead") == []
    assert problems(db) == []
    advance(db, "31 days")
    assert retain(db, "30 days", "90 days")[1] == 2
    assert rows(db, "select from peers.task") == []


def test_a_dead_letter_stays_while_a_child_may_ask_for_it(db: Connection, peer: Peer) -> None:
    """A child that runs in spite of the death keeps its parent until it has ended."""
    dead = died(peer)
    child = submit(db, depends_on=[dead], on_parent_failure="run")
    [claim] = peer.claim()
    advance(db, "91 days")
    assert retain(db, None, "90 days")[1] == 0
    assert column(db, "select parent_id from peers.parent_results(%s)", child) == [dead]
    peer.heartbeat()
    peer.complete(claim)
    assert retain(db, None, "90 days")[1] == 1
    assert state(db, child) == "completed"


def test_dead_letters_go_in_steps(db: Connection, peer: Peer) -> None:
    """One call deletes a bounded number of them."""
    for _ in range(5):
        died(peer)
    advance(db, "91 days")
    assert [retain(db, None, "90 days", 2) for _ in range(3)] == [
        (2, 2, False), (2, 2, False), (1, 1, True),
    ]  # fmt: skip


def test_a_locked_dead_letter_does_not_keep_others_waiting(world: World) -> None:
    """It stays, and goes with a later round."""
    peer, application = world.peer(), world.connect()
    first, second = died(peer), died(peer)
    advance(world.db, "91 days")
    with application.transaction():
        run(application, "select from peers.task where id = %s for share", first)
        assert retain(world.db, None, "90 days")[1] == 1
    assert column(world.db, "select id from peers.task") == [first]
    assert retain(world.db, None, "90 days")[1] == 1
    assert second > first


def test_retention_by_a_peer_is_no_action(db: Connection, peer: Peer) -> None:
    """What an operator deletes by hand is one, with its reason."""
    completed(peer, 2)
    died(peer)
    advance(db, "1 day")
    assert retain(db, "0 s", None)[1] == 2
    assert rows(db, "select from peers.action") == []
    peer.heartbeat()
    completed(peer, 2)
    advance(db, "1 day")
    expected = {"deleted": 2, "finished": True}
    dry = row(db, "select * from peers.prune('1 hour', dry_run => true)")
    assert {name: dry[name] for name in expected} == expected
    real = row(db, "select * from peers.prune('1 hour', reason => 'disk full')")
    assert {name: real[name] for name in expected} == expected
    dry = row(db, "select * from peers.prune_dead('1 hour', dry_run => true)")
    assert dry == row(db, "select * from peers.prune_dead('1 hour', reason => 'old')")
    written = rows(db, "select verb, tasks, reason from peers.action order by id")
    assert written == [
        {"verb": "prune", "tasks": 2, "reason": "disk full"},
        {"verb": "prune_dead", "tasks": 1, "reason": "old"},
    ]


def test_old_actions_go(db: Connection) -> None:
    """After 400 days, where any retention is set."""
    run(db, "select peers.pause('q')")
    advance(db, "399 days")
    retain(db, "1 day", None)
    assert value(db, "select count(*) from peers.action") == 1
    advance(db, "2 days")
    retain(db, "1 day", None)
    assert value(db, "select count(*) from peers.action") == 0


def young_tasks_end_a_round(world: World) -> None:
    """A round that finds only young tasks examines one step of them, not all."""
    run(
        world.db, "insert into peers.task (kind, created_at)"
        " select 'a', now() from generate_series(1, 50)",
    )  # fmt: skip
    assert retain(world.db, "1 day", None, 10) == (10, 0, True)


def an_old_task_behind_young_ones(world: World) -> None:
    """A long transaction submits early and commits late: what is old in truth is found."""
    peer, application = world.peer(), world.connect()
    with application.transaction():
        run(application, "select now()")
        run(world.db, "select pg_sleep(0.01)")
        [before] = completed(peer, 1)
        late = submit(application)
    peer.complete(*peer.claim())
    advance(world.db, "1 day")
    assert retain(world.db, "1 hour", None, 1)[1] == 1
    while not retain(world.db, "1 hour", None, 1)[2]:
        pass
    assert rows(world.db, "select from peers.task where id in (%s, %s)", before, late) == []


def a_round_passes_no_deleted_tasks(world: World) -> None:
    """It begins at the first task that the last round kept, and once a day at the very first."""
    db, peer, application = world.db, world.peer(), world.connect()
    with application.transaction():
        early = submit(application, kind="b")  # not visible to the next rounds
        completed(peer, 3)
        kept = submit(db, kind="b")
        advance(db, "1 hour")
        retain(db, "1 minute", None)
        retain(db, "1 minute", None)
        assert value(db, "select after_id from peers.prune_cursor") == kept - 1
    run(db, "select peers.cancel(%s)", early)
    advance(db, "2 hours")
    retain(db, "1 minute", None)
    assert value(db, "select count(*) from peers.task where id = %s", early) == 1
    advance(db, "1 day")
    for _ in range(2):
        retain(db, "1 minute", None)
    assert value(db, "select count(*) from peers.task where id = %s", early) == 0
    assert state(db, kept) == "ready"


def a_child_is_added_while_its_parent_is_pruned(world: World) -> None:
    """A session adds a child to a dead letter that retention has chosen: it ends cancelled."""
    db, peer, application = world.db, world.peer(), world.connect()
    dead = died(peer)
    advance(db, "91 days")
    with application.transaction():
        child = submit(application, depends_on=[dead])
        work = world.background(retain, world.connect(), None, "90 days")
        assert result(work)[1] == 0
    assert state(db, child) == "blocked"
    assert retain(db, None, "90 days")[1] == 1
    assert state(db, child) == "cancelled"
    assert problems(db) == []


def a_prune_by_hand_meets_a_peer(world: World) -> None:
    """It waits for the peer's step. A loop until finished would end in the middle otherwise."""
    completed(world.peer(), 3)
    operator, other = world.connect(), world.connect()
    with other.transaction():
        run(other, "select * from peers.apply_retention('1 day', null)")
        query = "select deleted, finished from peers.prune('0 s', max_tasks => 2)"
        work = world.background(row, operator, query)
        world.until_waiting_or_done(operator, work)
    assert result(work) == {"deleted": 2, "finished": False}


SCENARIOS = (
    young_tasks_end_a_round, an_old_task_behind_young_ones, a_round_passes_no_deleted_tasks,
    a_child_is_added_while_its_parent_is_pruned, a_prune_by_hand_meets_a_peer,
)  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_retention_scenarios(world: World, scenario: Callable[[World], None]) -> None:
    """They pass as shipped."""
    scenario(world)


class Variant(NamedTuple):
    """A patch that takes one safeguard out, and the scenario that must notice."""

    scenario: Callable[[World], None]
    patch: Patch
    fails_with: type[BaseException] | tuple[type[BaseException], ...] = AssertionError


VARIANTS = {
    "every young task is read": Variant(
        young_tasks_end_a_round,
        Patch("85_prune.sql", " or _first_submitted >= _ended_before;", ";"),
    ),
    "a round never begins at the first of all tasks": Variant(
        a_round_passes_no_deleted_tasks,
        Patch("85_prune.sql", "p.whole_at < _now - interval '1 day' or ", ""),
    ),
    "each round begins at the first of all tasks": Variant(
        a_round_passes_no_deleted_tasks,
        Patch("85_prune.sql", "coalesce(_first_kept - 1, _last, p.after_id)", "0"),
    ),
    "a prune by hand skips its turn": Variant(
        a_prune_by_hand_meets_a_peer,
        Patch("85_prune_by_hand.sql", "    perform peers._await_other_prune();\n", ""),
    ),
    "retention waits for a locked dead letter": Variant(
        a_child_is_added_while_its_parent_is_pruned,
        Patch(
            "85_prune.sql",
            "peers._skip_locked(peers._match_long_dead(_died_before), _most);",
            "(peers._match_long_dead(_died_before))[:_most];",
        ),
        (AssertionError, psycopg.errors.LockNotAvailable),
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_without_its_safeguard_the_scenario_fails(world: World, name: str) -> None:
    """A scenario that passes all the same would prove nothing."""
    variant = VARIANTS[name]
    apply_patches(world.db, [variant.patch])
    with pytest.raises(variant.fails_with):
        variant.scenario(world)
