"""What a handler submits can only be committed while its lease holds."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import psycopg
import pytest

from tests.support.server import Connection
from tests.support.world import (
    Claim,
    Patch,
    Peer,
    World,
    apply_patches,
    problems,
    rows,
    run,
    state,
    submit,
    unknown_token,
    value,
)

GONE = "is no longer leased to this peer: nothing was committed"


def hold(db: Connection, peer: UUID, claim: Claim) -> None:
    """Begin a submission of this task's handler."""
    run(db, "select peers.hold_lease(%s, %s, %s)", peer, claim.task_id, claim.token)


def running(world: World) -> tuple[Peer, Claim]:
    """A peer and the task that it runs."""
    submit(world.db)
    peer = world.peer()
    [claim] = peer.claim()
    return peer, claim


def a_lease_outlives_a_submission(world: World) -> None:
    """Nobody ends the lease before the submission is committed; then it ends as usual."""
    peer, claim = running(world)
    steady, handler = world.peer("other"), world.connect()
    with handler.transaction():
        hold(handler, peer.id, claim)
        submit(handler, "child")
        steady.advance_steadily(60)
        assert steady.reclaim() == []
        assert peer.fail(claim) == {claim.pair: "busy"}
        assert peer.complete(claim) == {claim.pair: "busy"}
        assert peer.release(claim) == {claim.pair: "busy"}
    assert [each["task_id"] for each in steady.reclaim()] == [claim.task_id]
    assert problems(world.db) == []


def a_lease_that_is_gone_submits_nothing(world: World) -> None:
    """Under another token, for another peer, and after the task was given back."""
    peer, claim = running(world)
    other = world.peer()
    for who, what in (
        (peer.id, Claim(**{**vars(claim), "token": unknown_token()})),
        (other.id, claim),
    ):
        with pytest.raises(psycopg.ProgrammingError, match=GONE):
            hold(world.db, who, what)
    assert peer.release(claim) == {}
    [again] = other.claim()
    assert again.task_id == claim.task_id
    with pytest.raises(psycopg.ProgrammingError, match=GONE):
        hold(world.db, peer.id, claim)


def a_lease_that_ends_meanwhile_submits_nothing(world: World) -> None:
    """A session that waits for the end of the lease finds it gone."""
    peer, claim = running(world)
    handler = world.connect()
    with peer.db.transaction():
        assert peer.release(claim) == {}
        waiting = world.background(hold, handler, peer.id, claim)
        world.until_waiting_or_done(handler, waiting)
        assert not waiting.done()
    with pytest.raises(psycopg.ProgrammingError, match=GONE):
        waiting.result()


SCENARIOS: list[Callable[[World], None]] = [
    a_lease_outlives_a_submission,
    a_lease_that_is_gone_submits_nothing,
    a_lease_that_ends_meanwhile_submits_nothing,
]
LEASE = "40_peers.sql"
_CHECK = (
    "t.token = hold_lease.token and t.state = 'running'\n      and exists (select from"
    " peers.lease l where l.token = hold_lease.token and l.peer_id = hold_lease.peer_id);"
)
VARIANTS = {
    "the row is not locked": (
        a_lease_outlives_a_submission,
        Patch(LEASE, "hold_lease.task_id for share", "hold_lease.task_id"),
    ),
    "the lock lets an outcome pass": (
        a_lease_outlives_a_submission,
        Patch(LEASE, "hold_lease.task_id for share", "hold_lease.task_id for key share"),
    ),
    "neither token nor peer count": (
        a_lease_that_is_gone_submits_nothing,
        Patch(LEASE, _CHECK, "t.state = 'running';"),
    ),
    "the lease is looked at before the lock": (
        a_lease_that_ends_meanwhile_submits_nothing,
        Patch(LEASE, "if not found then\n        raise exception 'task % is no longer",
              "if false then\n        raise exception 'task % is no longer"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_submission_and_its_lease(world: World, scenario: Callable[[World], None]) -> None:
    """Each scenario says what it promises."""
    scenario(world)


@pytest.mark.parametrize("name", VARIANTS)
def test_without_its_safeguard_the_submission_fails(world: World, name: str) -> None:
    """A scenario that passes all the same would prove nothing."""
    scenario, patch = VARIANTS[name]
    apply_patches(world.db, [patch])
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        scenario(world)


def test_many_submissions_of_one_task_do_not_wait_for_one_another(world: World) -> None:
    """A handler may submit from several threads; an outcome that met a lock comes again."""
    peer, claim = running(world)
    first, second = world.connect(), world.connect()
    with first.transaction(), second.transaction():
        hold(first, peer.id, claim)
        hold(second, peer.id, claim)
        child = submit(second, "child", depends_on=[claim.task_id])
        assert peer.complete(claim) == {claim.pair: "busy"}
    assert peer.complete(claim) == {}
    assert state(world.db, child) == "ready"
    assert rows(world.db, "select from peers.lease") == []
    assert value(world.db, "select count(*) from peers.task") == 2
