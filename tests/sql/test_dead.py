"""Dead letters and what operators do: retry, discard, cancel, change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.world import (
    Peer,
    World,
    advance,
    column,
    problems,
    promote,
    row,
    rows,
    run,
    state,
    states,
    submit,
    value,
)

if TYPE_CHECKING:
    from tests.support.server import Connection

OPERATIONS = ["cancel", "retry", "discard", "change", "explain"]


def make_dead(peer: Peer, **options: object) -> int:
    """A task that was rejected."""
    task_id = submit(peer.db, **options)  # type: ignore[arg-type]  # **options are submit's
    peer.fail(*peer.claim(), reject=True, error_type="Reject", error_message="no good")
    assert state(peer.db, task_id) == "dead"
    return task_id


def test_a_dead_letter_shows_everything(db: Connection, peer: Peer) -> None:
    """One wide row tells what was asked, what went wrong, where, and what waits for it."""
    task_id = submit(db, args={"x": 1}, max_attempts=1)
    for _ in range(2):
        submit(db, depends_on=[task_id])
    submit(db, depends_on=[task_id], on_parent_failure="run")
    peer.fail(
        *peer.claim(), error_type="ValueError", error_message="bad", traceback="tb", exit_code=1
    )
    letter = row(db, "select * from peers.dead_letter")
    expected = {
        "task_id": task_id,
        "kind": "a",
        "queue": "default",
        "args": {"x": 1},
        "attempts": 1,
        "error_type": "ValueError",
        "error_message": "bad",
        "traceback": "tb",
        "exit_signal": None,
        "peer": peer.id,
        "host": "host-a",
        "held_children": 2,
    }
    assert {name: letter[name] for name in expected} == expected
    [failure] = letter["failures"]
    assert (failure["attempt"], failure["error_type"]) == (1, "ValueError")


def test_retry_gives_fresh_attempts(db: Connection, peer: Peer) -> None:
    """A retried dead letter runs at once, counts from 1 again, and keeps its old failures."""
    task_id = make_dead(peer, max_attempts=2)
    assert value(db, "select peers.retry(%s)", task_id) == task_id
    assert value(db, "select count(*) from peers.dead_letter") == 0
    [claim] = peer.claim()
    assert (claim.task_id, claim.attempt) == (task_id, 1)
    peer.fail(claim, retry_in=0)
    peer.fail(*peer.claim())
    assert row(db, "select * from peers.dead_letter")["attempts"] == 3
    assert problems(db) == []


def test_retry_with_other_args(db: Connection, peer: Peer) -> None:
    """A dead letter can be repaired: the next attempt gets the new args."""
    task_id = make_dead(peer, args={"path": "wrong"})
    run(db, """select peers.retry(%s, '{"path": "right"}')""", task_id)
    [claim] = peer.claim()
    assert claim.args == {"path": "right"}
    peer.complete(claim)
    assert state(db, task_id) == "completed"


def test_retry_with_malformed_args_is_refused(db: Connection, peer: Peer) -> None:
    """Args are checked as at the submission, and the letter stays."""
    task_id = make_dead(peer)
    with pytest.raises(psycopg.DatabaseError, match="JSON object") as refused:
        run(db, "select peers.retry(%s, '[]')", task_id)
    assert refused.value.sqlstate == "PE009"
    assert state(db, task_id) == "dead"


def test_retry_in_bulk(db: Connection, peer: Peer) -> None:
    """The documented bulk form revives all letters of a kind."""
    dead = [make_dead(peer) for _ in range(5)]
    query = "select peers.retry(task_id) as id from peers.dead_letter where kind = 'a'"
    assert sorted(column(db, query)) == dead
    assert len(peer.claim()) == 5


def test_discard_accepts_the_death(db: Connection, peer: Peer) -> None:
    """A discarded task is cancelled, its failures stay to be read."""
    task_id = make_dead(peer)
    assert value(db, "select peers.discard(%s)", task_id) == task_id
    assert state(db, task_id) == "cancelled"
    assert column(db, "select error_type from peers.failure") == ["Reject"]
    assert rows(db, "select * from peers.dead_letter") == []
    assert problems(db) == []


@pytest.mark.parametrize("verb", ["retry", "discard"])
@pytest.mark.parametrize("before", ["ready", "scheduled", "running", "completed", "cancelled"])
def test_only_dead_letters_are_retried_or_discarded(
    db: Connection, peer: Peer, verb: str, before: str
) -> None:
    """The refusal names the task and its state."""
    task_id = submit(db)
    claims = peer.claim() if before in ("running", "completed", "scheduled") else []
    if before == "completed":
        peer.complete(*claims)
    elif before == "scheduled":
        peer.fail(*claims, retry_in=1000)
    elif before == "cancelled":
        run(db, "select peers.cancel(%s)", task_id)
    with pytest.raises(psycopg.DatabaseError, match=f"task {task_id} is {before}") as refused:
        run(db, f"select peers.{verb}(%s)", task_id)
    assert refused.value.sqlstate == "PE004"
    assert state(db, task_id) == before


@pytest.mark.parametrize("verb", OPERATIONS)
def test_an_unknown_task_is_named(db: Connection, verb: str) -> None:
    """A task id that isn't there is refused by number."""
    with pytest.raises(psycopg.DatabaseError, match="no task 4711") as refused:
        run(db, f"select peers.{verb}(4711)")
    assert refused.value.sqlstate == "PE008"


def test_what_waits_is_cancelled_at_once(db: Connection, peer: Peer) -> None:
    """Ready, scheduled, retrying, blocked and dead tasks end now, and never run."""
    dead = make_dead(peer)
    retrying = submit(db)
    peer.fail(*peer.claim(), retry_in=10)
    ready = submit(db, priority=200)
    later = value(db, "select peers.submit('a', scheduled_at => now() + interval '5 s')")
    blocked = submit(db, depends_on=[submit(db)])
    everything = (dead, retrying, ready, later, blocked)
    for task_id in everything:
        assert value(db, "select peers.cancel(%s)", task_id) == "cancelled"
        assert value(db, "select peers.cancel(%s)", task_id) == "cancelled"
    advance(db, "20 s")
    peer.heartbeat()
    promote(db)
    assert len(peer.complete(*peer.claim())) == 0
    assert promote(db) == 0
    assert states(db, *everything) == ["cancelled"] * 5
    assert problems(db) == []


def test_a_running_task_is_asked_to_stop(world: World) -> None:
    """Cancel tells the peer with its next heartbeat; a completion that comes first wins."""
    submit(world.db)
    peer = world.peer()
    [claim] = peer.claim()
    assert value(world.db, "select peers.cancel(%s)", claim.task_id) == "running"
    beat = peer.heartbeat()
    assert (beat["cancelled_tasks"], beat["cancelled_tokens"]) == ([claim.task_id], [claim.token])
    assert value(world.db, "select cancel_requested from peers.running") is True
    assert peer.complete(claim, result=1) == {}
    assert state(world.db, claim.task_id) == "completed"
    assert value(world.db, "select peers.cancel(%s)", claim.task_id) == "completed"


def test_cancel_rings_the_peers(world: World) -> None:
    """A peer hears of a cancellation at once, not only with its next heartbeat."""
    submit(world.db)
    peer, listener = world.peer(), world.connect()
    peer.claim()
    listener.execute("listen peers")
    run(world.db, "select peers.cancel(id) from peers.task")
    [bell] = listener.notifies(timeout=10, stop_after=1)
    assert bell.payload == "cancel"


def test_a_stopped_task_is_cancelled_not_retried(db: Connection, peer: Peer) -> None:
    """When the handler of a cancelled task fails, whatever attempts are left, that is the end."""
    task_id = submit(db, max_attempts=9)
    [claim] = peer.claim()
    run(db, "select peers.cancel(%s)", task_id)
    assert peer.fail(claim, error_type="cancelled") == {}
    assert (state(db, task_id), peer.claim()) == ("cancelled", [])
    failure = row(db, "select * from peers.failure")
    assert (failure["error_type"], failure["retry_at"]) == ("cancelled", None)


def test_a_cancelled_task_that_is_released_is_cancelled(db: Connection, peer: Peer) -> None:
    """A task that was cancelled before its handler started does not come back."""
    task_id = submit(db)
    [claim] = peer.claim()
    run(db, "select peers.cancel(%s)", task_id)
    peer.release(claim)
    assert (state(db, task_id), peer.claim()) == ("cancelled", [])


def test_a_cancelled_task_of_a_lost_peer_is_cancelled(world: World) -> None:
    """A durable flag: the death of the peer that was told changes nothing."""
    task_id = submit(world.db)
    lost, steady = world.peer(), world.peer("other")
    lost.claim()
    run(world.db, "select peers.cancel(%s)", task_id)
    steady.advance_steadily(30)
    assert len(steady.reclaim()) == 1
    assert state(world.db, task_id) == "cancelled"


def test_change_changes_what_waits(db: Connection, peer: Peer) -> None:
    """Each value can be changed alone; null leaves it as it is."""
    task_id = submit(db, args={"n": 1}, timeout="5 s", max_attempts=2)
    run(db, """select peers.change(%s, args => '{"n": 2}')""", task_id)
    run(db, "select peers.change(%s, max_attempts => 7)", task_id)
    run(db, "select peers.change(%s, timeout => '9 s')", task_id)
    task = row(db, "select * from peers.task where id = %s", task_id)
    assert (task["args"], task["max_attempts"], task["priority"]) == ({"n": 2}, 7, 100)
    [claim] = peer.claim()
    assert (claim.args, claim.timeout) == ({"n": 2}, 9)


def test_change_moves_between_now_and_later(db: Connection, peer: Peer) -> None:
    """A ready task can be put off, and a scheduled one brought forward."""
    task_id = submit(db)
    run(db, "select peers.change(%s, scheduled_at => now() + interval '1 hour')", task_id)
    assert (state(db, task_id), peer.claim()) == ("scheduled", [])
    run(db, "select peers.change(%s, scheduled_at => now() + interval '2 hours')", task_id)
    run(db, "select peers.change(%s, scheduled_at => now())", task_id)
    assert state(db, task_id) == "ready"
    [claim] = peer.claim()
    assert claim.task_id == task_id
    advance(db, "3 hours")
    promote(db)
    assert state(db, task_id) == "running"
    assert problems(db) == []


def test_change_of_a_blocked_task_holds_when_it_is_released(db: Connection, peer: Peer) -> None:
    """A blocked task keeps waiting for its parents, under its new values."""
    parent = submit(db)
    child = submit(db, depends_on=[parent])
    rival = submit(db, depends_on=[parent])
    run(db, "select peers.change(%s, priority => 1)", rival)
    assert state(db, rival) == "blocked"
    peer.complete(*peer.claim())
    assert [claim.task_id for claim in peer.claim()] == [rival, child]


@pytest.mark.parametrize(
    ("change", "bound"),
    [
        ("priority => 40000", "-32768 to 32767"),
        ("args => '7'", "JSON object"),
        ("max_attempts => 0", "1 to 1000"),
        ("timeout => '0 s'", "1 millisecond to 30 days"),
    ],
)
def test_change_refuses_what_a_submission_would(db: Connection, change: str, bound: str) -> None:
    """The bounds of a change are those of the submission."""
    task_id = submit(db)
    with pytest.raises(psycopg.DatabaseError, match=bound) as refused:
        run(db, f"select peers.change({task_id}, {change})")
    assert refused.value.sqlstate == "PE009"


@pytest.mark.parametrize("ended", ["running", "completed", "dead", "cancelled"])
def test_what_has_started_or_ended_cannot_be_changed(
    db: Connection, peer: Peer, ended: str
) -> None:
    """The refusal names task and state."""
    task_id = make_dead(peer) if ended == "dead" else submit(db)
    if ended == "running":
        peer.claim()
    elif ended == "completed":
        peer.complete(*peer.claim())
    elif ended == "cancelled":
        run(db, "select peers.cancel(%s)", task_id)
    with pytest.raises(psycopg.DatabaseError, match=f"task {task_id} is {ended}") as refused:
        run(db, "select peers.change(%s, priority => 1)", task_id)
    assert refused.value.sqlstate == "PE002"
