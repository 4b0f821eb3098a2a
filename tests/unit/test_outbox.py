"""Outcomes on their way to the database: none is lost, none keeps another out."""

from __future__ import annotations

from itertools import count
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest

from peers import kernel
from peers.db import Connection
from peers.errors import BadTask
from peers.lane import Lease
from peers.model import Claimed, Unsettled, Verdict
from peers.outbox import MOST_SETTLED, Outbox

PEER = uuid4()
CONNECTION = cast("Connection", None)
_ids = count(1)


class Database:
    """Takes outcomes down, with a verdict for some, and a dislike for one text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.completed: list[bytes] = []
        self.failed: list[dict[str, Any]] = []
        self.released: list[int] = []
        self.verdicts: dict[int, Verdict] = {}
        self.too_large: int | None = None
        self.broken = False
        monkeypatch.setattr(kernel, "complete", self.complete)
        monkeypatch.setattr(kernel, "fail", self.fail)
        monkeypatch.setattr(kernel, "release", self.release)

    def complete(self, _connection: object, _peer: UUID, document: bytes) -> list[Unsettled]:
        """Settles; refuses the whole document if it has the word poison."""
        self._answer()
        if b"poison" in document:
            raise BadTask("jsonb cannot hold poison")
        self.completed.append(document)
        if self.too_large is not None:
            return [Unsettled(self.too_large, self.tokens[self.too_large], "too large")]
        return self._unsettled()

    def fail(
        self, _connection: object, _peer: UUID, failures: list[dict[str, Any]]
    ) -> list[Unsettled]:
        """Settles."""
        self._answer()
        self.failed += failures
        return self._unsettled()

    def release(
        self,
        _connection: object,
        _peer: UUID,
        task_ids: list[int],
        _tokens: list[UUID],
        _reasons: list[str | None],
    ) -> int:
        """Gives back."""
        self._answer()
        self.released += task_ids
        return len(task_ids)

    def _answer(self) -> None:
        if self.broken:
            raise psycopg.OperationalError("gone")

    def _unsettled(self) -> list[Unsettled]:
        return [Unsettled(task, self.tokens[task], said) for task, said in self.verdicts.items()]

    tokens: dict[int, UUID] = {}  # noqa: RUF012  # ids are unique across tests


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    """The verbs of a database that this test controls."""
    return Database(monkeypatch)


def a_lease() -> Lease:
    """A claimed task."""
    task_id, token = next(_ids), uuid4()
    Database.tokens[task_id] = token
    task = Claimed(task_id, token, 1, "kind", b"{}", None, 100)
    return Lease(task, str(token).encode(), "default", 0.0, 100)


def an_outbox() -> tuple[Outbox, list[Lease]]:
    """An outbox, and the leases that it is done with."""
    done: list[Lease] = []
    return Outbox(done.append), done


def test_everything_is_recorded_in_batches(database: Database) -> None:
    """Completions, failures and releases, each lease once."""
    outbox, done = an_outbox()
    completed, failed, aborted = [a_lease() for _ in range(MOST_SETTLED + 1)], a_lease(), a_lease()
    for lease in completed:
        outbox.completed(lease, b"1")
    outbox.failed(failed, {"error_type": "E"})
    outbox.aborted([aborted])
    assert len(outbox) == MOST_SETTLED + 3
    outbox.flush(CONNECTION, PEER)
    assert len(database.completed) == 2
    assert [failure["task_id"] for failure in database.failed] == [failed.task.task_id]
    assert database.released == [aborted.task.task_id]
    assert done == [*completed, failed, aborted]
    assert not outbox.waits


def test_what_a_broken_connection_did_not_take_is_kept(database: Database) -> None:
    """Nothing is forgotten, and all of it is offered again."""
    outbox, done = an_outbox()
    outbox.completed(a_lease(), b"1")
    outbox.failed(a_lease(), {"error_type": "E"})
    outbox.aborted([a_lease()])
    database.broken = True
    with pytest.raises(psycopg.OperationalError):
        outbox.flush(CONNECTION, PEER)
    assert (len(outbox), done) == (3, [])
    database.broken = False
    outbox.flush(CONNECTION, PEER)
    assert (len(outbox), len(done)) == (0, 3)


def test_a_result_that_jsonb_refuses_becomes_a_failure_of_its_own_task(database: Database) -> None:
    """The others of the batch are completed."""
    outbox, done = an_outbox()
    good, bad = [a_lease(), a_lease()], a_lease()
    outbox.completed(good[0], b"1")
    outbox.completed(bad, b'"poison"')
    outbox.completed(good[1], b"2")
    outbox.flush(CONNECTION, PEER)
    [failure] = database.failed
    assert (failure["task_id"], failure["error_type"]) == (bad.task.task_id, "ResultInvalid")
    assert "poison" in failure["error_message"]
    assert done == [*good, bad]


def test_what_is_busy_is_offered_again_later(database: Database) -> None:
    """Until then it waits, and its lease is not done with."""
    outbox, done = an_outbox()
    lease = a_lease()
    outbox.completed(lease, b"1")
    database.verdicts = {lease.task.task_id: "busy"}
    outbox.flush(CONNECTION, PEER)
    assert (done, outbox.waits, len(outbox)) == ([], True, 0)
    database.verdicts = {}
    while not done:
        outbox.flush(CONNECTION, PEER)
    assert not outbox.waits


def test_a_result_that_is_too_large_becomes_a_failure(database: Database) -> None:
    """Of the same task, in the same flush."""
    outbox, done = an_outbox()
    lease = a_lease()
    outbox.completed(lease, b"1")
    database.too_large = lease.task.task_id
    outbox.flush(CONNECTION, PEER)
    [failure] = database.failed
    assert (failure["task_id"], failure["error_type"]) == (lease.task.task_id, "ResultInvalid")
    assert done == [lease]


@pytest.mark.parametrize("verdict", ["stale", "already"])
def test_an_outcome_that_is_void_is_over(database: Database, verdict: Verdict) -> None:
    """Nobody will ever take it: the lease is done with."""
    outbox, done = an_outbox()
    lease = a_lease()
    outbox.completed(lease, b"1")
    database.verdicts = {lease.task.task_id: verdict}
    outbox.flush(CONNECTION, PEER)
    assert (done, outbox.waits) == ([lease], False)


def test_a_batch_of_large_results_is_bounded_by_its_size(database: Database) -> None:
    """A hundred results of 1 MiB do not go in one statement."""
    outbox, _ = an_outbox()
    for _ in range(100):
        outbox.completed(a_lease(), b'"%s"' % (b"x" * (1 << 20)))
    outbox.flush(CONNECTION, PEER)
    assert max(map(len, database.completed)) <= 18 << 20
    assert sum(document.count(b"task_id") for document in database.completed) == 100
