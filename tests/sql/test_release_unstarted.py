"""What a peer had not started when it was lost: its witness releases it, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
import pytest

from tests.sql.test_lost_peers import declare_lost, join_on
from tests.support.world import (
    Patch,
    Peer,
    World,
    apply_patches,
    problems,
    rows,
    run,
    states,
    submit,
    unknown_token,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID


def declare(
    witness: Peer, lost: list[Peer], unstarted: list[tuple[UUID, int, int]]
) -> dict[UUID, int]:
    """Declare peers lost that had not started these tasks; return how many each has released."""
    columns: list[list[Any]] = [[each[n] for each in unstarted] for n in range(3)]
    found = rows(
        witness.db,
        "select lost_peer_id, released"
        " from peers.declare_lost(%s, %s::uuid[], %s::uuid[], %s::integer[], %s::integer[])",
        witness.id,
        [peer.id for peer in lost],
        *columns,
    )
    return {each["lost_peer_id"]: each["released"] for each in found}


def unstarted_tasks_are_released(world: World) -> None:
    """They are ready again, and their attempts do not count. The others of the same claim are
    reclaimed, as failures.
    """
    task_ids = [submit(world.db, max_attempts=1) for _ in range(5)]
    dead, witness = join_on(world.connect(), "one"), join_on(world.connect(), "one", 2)
    claims = dead.claim()
    assert [claim.task_id for claim in claims] == task_ids
    token = claims[0].token
    released = declare(witness, [dead], [(token, 1, 1), (token, 3, 2)])
    assert released == {dead.id: 3}
    assert states(world.db, *task_ids) == ["running", "ready", "running", "ready", "ready"]
    assert sorted(each["task_id"] for each in witness.reclaim()) == [task_ids[0], task_ids[2]]
    assert states(world.db, *task_ids) == ["dead", "ready", "dead", "ready", "ready"]
    failed = rows(world.db, "select task_id from peers.failure order by task_id")
    assert [each["task_id"] for each in failed] == [task_ids[0], task_ids[2]]
    again = witness.claim()
    assert [claim.task_id for claim in again] == [task_ids[n] for n in (1, 3, 4)]
    assert [claim.attempt for claim in again] == [1, 1, 1]
    assert dead.complete(claims[1]) == {claims[1].pair: "stale"}
    assert problems(world.db) == []


def test_unstarted_tasks_are_released(world: World) -> None:
    """By the witness, in the moment in which the peer is lost."""
    unstarted_tasks_are_released(world)


def a_file_cannot_release_what_its_peer_does_not_hold(world: World) -> None:
    """Whatever a file says: tasks of live peers, of other lost peers, and tasks that have ended do
    not change.
    """
    for _ in range(4):
        submit(world.db)
    dead, witness, alive, other = (join_on(world.connect(), "one", n) for n in range(4))
    [mine], [theirs], [ended], [of_other] = (p.claim(1) for p in (dead, alive, dead, other))
    dead.complete(ended)
    declare_lost(witness, other)
    odd = [
        (theirs.token, 0, 1), (of_other.token, 0, 1), (ended.token, 0, 1), (unknown_token(), 0, 1),
        (mine.token, 1, 5), (mine.token, -1, 1), (mine.token, 0, 0), (mine.token, 0, -5),
        (mine.token, 2**31 - 1, 2**31 - 1), (mine.token, 5, 2**31 - 1), (mine.token, -(2**31), 1),
    ]  # fmt: skip
    assert declare(witness, [dead, other], odd) == {dead.id: 0, other.id: 0}
    ids = [claim.task_id for claim in (mine, theirs, ended, of_other)]
    assert states(world.db, *ids) == ["running", "running", "completed", "running"]
    assert alive.complete(theirs) == {}
    assert problems(world.db) == []


def test_a_file_cannot_release_what_its_peer_does_not_hold(world: World) -> None:
    """The leases decide."""
    a_file_cannot_release_what_its_peer_does_not_hold(world)


def only_a_witness_releases(world: World) -> None:
    """A peer that cannot declare another one lost cannot release its tasks."""
    submit(world.db)
    peer, stranger = join_on(world.connect(), "one"), join_on(world.connect(), "two")
    [claim] = peer.claim()
    assert declare(stranger, [peer], [(claim.token, 0, 1)]) == {}
    assert declare(peer, [peer], [(claim.token, 0, 1)]) == {}
    assert peer.complete(claim) == {}


def test_only_a_witness_releases(world: World) -> None:
    """The same host, and another peer."""
    only_a_witness_releases(world)


def test_a_task_that_is_named_twice_is_released_once(world: World) -> None:
    """Also by overlapping runs."""
    task_ids = [submit(world.db) for _ in range(3)]
    dead, witness = join_on(world.db, "one"), join_on(world.db, "one", 2)
    token = dead.claim()[0].token
    spans = [(token, 0, 2), (token, 1, 2), (token, 0, 3)]
    assert declare(witness, [dead], spans) == {dead.id: 3}
    assert states(world.db, *task_ids) == ["ready"] * 3
    assert value(world.db, "select count(*) from peers.ready") == 3
    assert value(world.db, "select count(*) from peers.lease") == 0
    assert problems(world.db) == []


def test_a_cancelled_task_that_had_not_started_is_cancelled(world: World) -> None:
    """As with every release."""
    task_id = submit(world.db)
    dead, witness = join_on(world.db, "one"), join_on(world.db, "one", 2)
    [claim] = dead.claim()
    run(world.db, "select peers.cancel(%s)", task_id)
    assert declare(witness, [dead], [(claim.token, 0, 1)]) == {dead.id: 1}
    assert states(world.db, task_id) == ["cancelled"]
    assert problems(world.db) == []


def test_a_locked_task_is_left_to_reclaim(world: World) -> None:
    """The witness does not wait for a session that has it locked."""
    task_ids = [submit(world.db) for _ in range(2)]
    dead, witness = join_on(world.connect(), "one"), join_on(world.connect(), "one", 2)
    token = dead.claim()[0].token
    with world.db.transaction():
        run(world.db, "select from peers.task where id = %s for update", task_ids[0])
        assert declare(witness, [dead], [(token, 0, 2)]) == {dead.id: 1}
    assert [each["task_id"] for each in witness.reclaim()] == [task_ids[0]]
    assert states(world.db, *task_ids) == ["ready", "ready"]
    assert problems(world.db) == []


WITNESS: Final = "42_witness.sql"


class Variant(NamedTuple):
    """Patches that take one safeguard out, and the scenario that must notice."""

    scenario: Callable[[World], None]
    patches: list[Patch]


VARIANTS: Final = {
    "the attempts of unstarted tasks count": Variant(
        unstarted_tasks_are_released,
        [Patch(WITNESS, "'release', null, true", "'fail', null, true")],
    ),
    "a witness leaves all to reclaim": Variant(
        unstarted_tasks_are_released,
        [Patch(WITNESS, "if lost_peer_id = any (_declared) then", "if false then")],
    ),
    "the peer of a lease is not compared": Variant(
        a_file_cannot_release_what_its_peer_does_not_hold,
        [
            Patch(WITNESS, "l.token = u.token and l.peer_id = _peer_id", "l.token = u.token"),
            Patch(
                WITNESS,
                "_record_without_waiting(_peer_id,",
                "_record_without_waiting("
                "(select l.peer_id from peers.lease l where l.token = _task_tokens[1]),",
            ),
        ],
    ),
    "whoever names a peer releases its tasks": Variant(
        only_a_witness_releases,
        [
            Patch(
                WITNESS,
                "    for lost_peer_id, host in",
                "    perform peers._release_unstarted("
                "l.id, unstarted_tokens, unstarted_firsts, unstarted_numbers)"
                " from unnest(lost_peer_ids) l(id);\n    for lost_peer_id, host in",
            )
        ],
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_broken_variants_are_caught(world: World, name: str) -> None:
    """Each of these safeguards is needed."""
    variant = VARIANTS[name]
    apply_patches(world.db, variant.patches)
    with pytest.raises((AssertionError, psycopg.DatabaseError)):
        variant.scenario(world)
