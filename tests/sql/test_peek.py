"""Peeks: what an operator asks about a running task reaches its peer, and nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.world import Peer, advance, column, refusal, row, run, submit, value

if TYPE_CHECKING:
    from tests.support.server import Connection

REQUEST = "select peers.request_peek(%s)"
REPLY = "select peers.reply_to_peek(%s, %s, %s::jsonb, %s)"


def running(db: Connection, peer: Peer) -> int:
    """A task that this peer runs."""
    task_id = submit(db)
    [claim] = peer.claim()
    assert claim.task_id == task_id
    return task_id


def asked(peer: Peer) -> list[dict[str, Any]]:
    """What the peer's next heartbeat returns."""
    return peer.heartbeat()["peeks"] or []


def test_the_peer_of_the_task_gets_the_request_until_it_replies(db: Connection, peer: Peer) -> None:
    """With the token of the attempt; and its reply counts once."""
    other = Peer.join(db)
    task_id = running(db, peer)
    assert asked(peer) == []
    number = value(db, REQUEST, task_id)
    token = value(db, "select token::text from peers.task where id = %s", task_id)
    expected = [{"id": number, "task_id": task_id, "token": token}]
    assert (asked(peer), asked(peer), asked(other)) == (expected, expected, [])
    assert value(db, REPLY, other.id, number, "{}", "wrong") is False
    assert value(db, REPLY, peer.id, number, '{"phase": "running"}', "right") is True
    assert value(db, REPLY, peer.id, number, "{}", "late") is False
    found = row(db, "select report, facts, requested_by from peers.peek where id = %s", number)
    assert (found["report"], found["facts"]) == ("right", {"phase": "running"})
    assert found["requested_by"] == value(db, "select session_user")
    assert asked(peer) == []


def test_operators_who_ask_at_the_same_time_share_a_request(db: Connection, peer: Peer) -> None:
    """A later one is a new request, and so is one about the next attempt."""
    task_id = running(db, peer)
    first = value(db, REQUEST, task_id)
    assert value(db, REQUEST, task_id) == first
    advance(db, "11 seconds")
    second = value(db, REQUEST, task_id)
    assert second != first
    run(db, REPLY, peer.id, second, "{}", "")
    assert value(db, REQUEST, task_id) not in (first, second)


def test_only_a_running_task_on_a_live_peer_can_be_asked_about(db: Connection, peer: Peer) -> None:
    """The error says what the task is instead."""
    assert refusal(db, REQUEST, 999)[0] == "PE008"
    waiting = submit(db, "z")
    state, message = refusal(db, REQUEST, waiting)
    assert state == "PE016"
    assert f"task {waiting} is not running. Ready" in message
    task_id = running(db, peer)
    advance(db, "31 seconds")
    state, message = refusal(db, REQUEST, task_id)
    assert state == "PE016"
    assert "on a peer that is lost" in message


def test_requests_and_replies_are_deleted_after_five_minutes(db: Connection, peer: Peer) -> None:
    """Whether the peer has replied or not."""
    task_id = running(db, peer)
    old = value(db, REQUEST, task_id)
    run(db, REPLY, peer.id, old, "{}", "old")
    for _ in range(21):
        advance(db, "15 seconds")
        peer.heartbeat()
    new = value(db, REQUEST, task_id)
    assert column(db, "select id from peers.peek") == [new]
    for _ in range(21):
        advance(db, "15 seconds")
        peer.heartbeat()
    assert value(db, "select peers.delete_peeks()") == 1
    assert column(db, "select id from peers.peek") == []


@pytest.mark.parametrize(("size", "fits"), [(65536, True), (65537, False)])
def test_a_report_is_bounded(db: Connection, peer: Peer, size: int, fits: bool) -> None:
    """Also for a peer that does not cut it."""
    number = value(db, REQUEST, running(db, peer))
    if fits:
        assert value(db, REPLY, peer.id, number, "{}", "x" * size) is True
    else:
        assert refusal(db, REPLY, peer.id, number, "{}", "x" * size)[0] == "23514"
