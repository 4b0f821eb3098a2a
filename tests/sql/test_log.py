"""The table of logs: bounded, of its tasks only, and never worth an outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from tests.support.world import Peer, column, rows, run, submit, value

if TYPE_CHECKING:
    from tests.support.server import Connection


def store(
    db: Connection, peer_id: UUID, *logs: tuple[int, UUID, int, str | None, int, bytes | None]
) -> str | None:
    """Call peers.store_logs."""
    columns: list[list[Any]] = [list(each) for each in zip(*logs, strict=True)]
    error: str | None = value(
        db, "select peers.store_logs(%s, %s::bigint[], %s::uuid[], %s::integer[], %s::text[],"
        " %s::bigint[], %s::bytea[])", peer_id, *columns,
    )  # fmt: skip
    return error


def test_one_line_of_psql_shows_the_text(db: Connection, peer: Peer) -> None:
    """With everything that is known about the attempt."""
    task_id, token = submit(db), uuid4()
    assert store(db, peer.id, (task_id, token, 2, "failed", 9, b"some text")) is None
    assert column(db, "SELECT text FROM peers.task_log WHERE task_id = 1") == ["some text"]
    [log] = rows(db, "select * from peers.task_log")
    assert (log["token"], log["attempt"], log["peer_id"], log["host"]) == (
        token, 2, peer.id, value(db, "select host from peers.peer"),
    )  # fmt: skip
    assert (log["outcome"], log["size"], log["cut"]) == ("failed", 9, False)


def test_a_later_state_replaces_the_earlier_one(db: Connection, peer: Peer) -> None:
    """Only that of the peer which runs the attempt; a null text removes it."""
    task_id, token = submit(db), uuid4()
    store(db, peer.id, (task_id, token, 1, None, 3, b"one"))
    store(db, peer.id, (task_id, token, 1, None, 70_000, b"two"))
    store(db, uuid4(), (task_id, token, 1, None, 5, b"three"), (task_id, token, 1, None, 0, None))
    assert rows(db, "select text, cut, outcome from peers.task_log") == [
        {"text": "two", "cut": True, "outcome": None}
    ]
    store(db, peer.id, (task_id, token, 1, "completed", 0, None))
    assert rows(db, "select from peers.task_log") == []


def test_a_task_has_at_most_ten_logs(db: Connection, peer: Peer) -> None:
    """The oldest go."""
    task_id, other = submit(db), submit(db)
    store(db, peer.id, (other, uuid4(), 1, "failed", 1, b"x"))
    for attempt in range(1, 16):
        store(db, peer.id, (task_id, uuid4(), attempt, "failed", 1, b"x"))
    kept = column(db, "select attempt from peers.task_log where task_id = %s order by 1", task_id)
    assert kept == list(range(6, 16))
    assert value(db, "select count(*) from peers.task_log where task_id = %s", other) == 1


def test_what_cannot_be_stored_is_returned_as_text(db: Connection, peer: Peer) -> None:
    """It raises nothing: outcomes are recorded in the same transaction."""
    task_id = submit(db)
    for bad in (b"\xff", b"a\0b", b"x" * 300_000):
        error = store(db, peer.id, (task_id, uuid4(), 1, "failed", 1, bad))
        assert error is not None
    assert store(db, peer.id, (task_id, uuid4(), 1, "odd", 1, b"x")) is not None
    assert rows(db, "select from peers.task_log") == []


def test_a_log_of_no_task_is_not_stored(db: Connection, peer: Peer) -> None:
    """It was pruned meanwhile."""
    assert store(db, peer.id, (4711, uuid4(), 1, "failed", 1, b"x")) is None
    assert rows(db, "select from peers.task_log") == []


def test_logs_are_pruned_with_their_task(db: Connection, peer: Peer) -> None:
    """And stay with others."""
    task_id, other = submit(db), submit(db)
    first, _ = peer.claim()
    for each in (task_id, other):
        store(db, peer.id, (each, uuid4(), 1, "failed", 1, b"x"))
    peer.complete(first)
    run(db, "select peers.prune('0')")
    assert column(db, "select task_id from peers.task_log") == [other]


def test_a_full_disk_is_helped_at_once(db: Connection, peer: Peer) -> None:
    """Nothing depends on a log: the owner may delete them all."""
    store(db, peer.id, (submit(db), uuid4(), 1, "failed", 1, b"x"))
    run(db, "truncate peers.task_log")
    assert rows(db, "select from peers.task_log") == []
    assert rows(db, "select * from peers.check()") == []
