"""The outbox: no outcome is lost, and none prevents another from being recorded."""

from __future__ import annotations

import json
import time
from itertools import count
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest

from peers.database import functions
from peers.database.connection import Connection, is_connection_lost
from peers.database.rows import Claimed, Unrecorded, Verdict
from peers.errors import BadTask, from_database
from peers.peer.outbox import BATCH_MAX, Outbox
from peers.pool.durations import DurationEstimate
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue

PEER = uuid4()
CONNECTION = cast("Connection", None)
_ids = count(1)


class Database:
    """A database that records outcomes, with verdicts for some, and that refuses one text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.completed: list[bytes] = []
        self.failed: list[dict[str, Any]] = []
        self.released: list[int] = []
        self.verdicts: dict[int, Verdict] = {}
        self.too_large: int | None = None
        self.broken = False
        self.refuses: dict[int, Exception] = {}
        """By task: how every verb but those in `takes` ends, if it is among the batch."""
        self.takes: set[str] = set()
        self.statements = 0
        monkeypatch.setattr(functions, "complete", self.complete)
        monkeypatch.setattr(functions, "fail", self.fail)
        monkeypatch.setattr(functions, "release", self.release)

    def complete(self, _connection: object, _peer: UUID, document: bytes) -> list[Unrecorded]:
        """Record results; refuse the whole document if it has the word poison."""
        self._answer("complete", [each["task_id"] for each in json.loads(document)])
        if b"poison" in document:
            raise BadTask("jsonb cannot hold poison")
        self.completed.append(document)
        if self.too_large is not None:
            return [Unrecorded(self.too_large, self.tokens[self.too_large], "too large")]
        return self._unsettled()

    def fail(
        self, _connection: object, _peer: UUID, failures: list[dict[str, Any]]
    ) -> list[Unrecorded]:
        """Record failures."""
        self._answer("fail", [each["task_id"] for each in failures])
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
        """Release leases."""
        self._answer("release", task_ids)
        self.released += task_ids
        return len(task_ids)

    def _answer(self, verb: str, task_ids: list[int]) -> None:
        self.statements += 1
        if self.broken:
            raise psycopg.OperationalError("gone")
        for task_id in task_ids:
            if verb not in self.takes and task_id in self.refuses:
                raise self.refuses[task_id]

    def _unsettled(self) -> list[Unrecorded]:
        return [Unrecorded(task, self.tokens[task], said) for task, said in self.verdicts.items()]

    tokens: dict[int, UUID] = {}  # noqa: RUF012  # ids are unique across tests


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    """Replace the functions of the database."""
    return Database(monkeypatch)


def a_lease() -> Lease:
    """Make the lease of a claimed task."""
    task_id, token = next(_ids), uuid4()
    Database.tokens[task_id] = token
    task = Claimed(task_id, token, 1, "kind", b"{}", None, 100)
    return Lease(task, LocalQueue("default", 1, DurationEstimate(), {}), 0.0)


def an_outbox() -> tuple[Outbox, list[Lease]]:
    """Make an outbox, and the list of leases that it has recorded."""
    done: list[Lease] = []
    return Outbox(done.append), done


def test_everything_is_recorded_in_batches(database: Database) -> None:
    """Completions, failures and releases, each lease once."""
    outbox, done = an_outbox()
    completed, failed, aborted = [a_lease() for _ in range(BATCH_MAX + 1)], a_lease(), a_lease()
    for lease in completed:
        outbox.completed(lease, b"1")
    outbox.failed(failed, {"error_type": "E"})
    outbox.released([aborted])
    assert len(outbox) == BATCH_MAX + 3
    outbox.flush(CONNECTION, PEER)
    assert len(database.completed) == 2
    assert [failure["task_id"] for failure in database.failed] == [failed.task.task_id]
    assert database.released == [aborted.task.task_id]
    assert done == [*completed, failed, aborted]
    assert not outbox.is_pending


def test_outcomes_survive_a_broken_connection(database: Database) -> None:
    """All of them are tried again."""
    outbox, done = an_outbox()
    outbox.completed(a_lease(), b"1")
    outbox.failed(a_lease(), {"error_type": "E"})
    outbox.released([a_lease()])
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


def test_a_busy_outcome_is_tried_again_later(database: Database) -> None:
    """Until then it waits, and its lease is kept."""
    outbox, done = an_outbox()
    lease = a_lease()
    outbox.completed(lease, b"1")
    database.verdicts = {lease.task.task_id: "busy"}
    outbox.flush(CONNECTION, PEER)
    assert (done, outbox.is_pending, len(outbox)) == ([], True, 0)
    database.verdicts = {}
    while not done:
        outbox.flush(CONNECTION, PEER)
    assert not outbox.is_pending


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
def test_a_stale_outcome_is_dropped(database: Database, verdict: Verdict) -> None:
    """The lease was lost, so that the outcome can never be recorded."""
    outbox, done = an_outbox()
    lease = a_lease()
    outbox.completed(lease, b"1")
    database.verdicts = {lease.task.task_id: verdict}
    outbox.flush(CONNECTION, PEER)
    assert (done, outbox.is_pending) == ([lease], False)


def test_a_batch_of_large_results_is_bounded_by_its_size(database: Database) -> None:
    """A hundred results of 1 MiB do not go in one statement."""
    outbox, _ = an_outbox()
    for _ in range(100):
        outbox.completed(a_lease(), b'"%s"' % (b"x" * (1 << 20)))
    outbox.flush(CONNECTION, PEER)
    assert max(map(len, database.completed)) <= 18 << 20
    assert sum(document.count(b"task_id") for document in database.completed) == 100


# --------------------------------------------------------------------- what the database refuses


_EVERY_ERROR = sorted(
    {
        error
        for error in vars(psycopg.errors).values()
        if isinstance(error, type) and issubclass(error, psycopg.Error) and error.sqlstate
    },
    key=lambda error: str(error.sqlstate),
)
_SESSION_OVER = {"26000", "42P05", "0A000"}
assert len(_EVERY_ERROR) > 200


def an_error(sqlstate: str, message: str = "no") -> Exception:
    """Return the error that psycopg raises for this SQLSTATE."""
    error = psycopg.errors.lookup(sqlstate)(message)
    ours = from_database(error)
    return ours if ours is not None else error


@pytest.mark.parametrize("outcome", ["completed", "failed", "aborted"])
def test_no_error_for_one_outcome_prevents_another_from_being_recorded(
    database: Database, outcome: str
) -> None:
    """For every SQLSTATE: the others of the batch are recorded, and the outcome becomes a failure,
    or is kept and tried again. Only errors of the connection or session are raised, and then every
    outcome is kept.
    """
    for kind in _EVERY_ERROR:
        assert kind.sqlstate is not None
        outbox, done = an_outbox()
        leases = [a_lease() for _ in range(5)]
        culprit = leases[2]
        for lease in leases:
            if outcome == "completed":
                outbox.completed(lease, b"1")
            elif outcome == "failed":
                outbox.failed(lease, {"error_type": "E", "error_message": "m"})
            else:
                outbox.released([lease])
        error = an_error(kind.sqlstate)
        database.refuses = {culprit.task.task_id: error}
        if is_connection_lost(error) or kind.sqlstate in _SESSION_OVER:
            with pytest.raises(type(error)):
                outbox.flush(CONNECTION, PEER)
            assert (len(outbox), done) == (5, []), kind
            continue
        outbox.flush(CONNECTION, PEER)
        assert set(done) == {*leases} - {culprit}, kind
        assert outbox.next_due() < float("inf"), kind
        database.refuses = {}
        outbox.flush(CONNECTION, PEER, last=True)
        assert set(done) == {*leases}, kind
        assert outbox.next_due() == float("inf"), kind


def test_an_outcome_that_is_refused_becomes_a_plain_failure(database: Database) -> None:
    """It has the database's message, in ASCII and within bounds. It drops what could not be
    recorded (a time that no interval holds, a text), and keeps that the task was rejected.
    """
    outbox, done = an_outbox()
    result, failure = a_lease(), a_lease()
    outbox.completed(result, b"1")
    outbox.failed(
        failure,
        {"error_type": "A\0€", "error_message": "m", "retry_in": float("inf"), "reject": True},
    )
    said = "nein, zu teuer: 5 €\n\x1b[31m" + "x" * 5000
    for lease in (result, failure):
        database.refuses[lease.task.task_id] = an_error("P0001", said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functions, "fail", lambda _c, _p, batch: _only_plain(database, batch))
        outbox.flush(CONNECTION, PEER)
    assert set(done) == {result, failure}
    for recorded in database.failed:
        assert recorded["error_type"] == "OutcomeRefused"
        assert recorded["error_message"].isascii()
        assert recorded["error_message"].isprintable()
        assert "zu teuer" in recorded["error_message"]
        assert len(recorded["error_message"]) < 2000
        assert "retry_in" not in recorded
    by_task = {recorded["task_id"]: recorded for recorded in database.failed}
    assert by_task[failure.task.task_id]["reject"] is True
    assert "reject" not in by_task[result.task.task_id]


def _only_plain(database: Database, batch: list[dict[str, Any]]) -> list[Unrecorded]:
    if any(failure["error_type"] != "OutcomeRefused" for failure in batch):
        raise an_error("22P05", "nein, zu teuer: 5 €")
    database.failed += batch
    return []


def test_an_outcome_that_is_refused_again_is_kept_and_tried_less_and_less_often(
    database: Database,
) -> None:
    """A trigger raises at every update of a task: its outcome does not delay the end of a drain,
    and is not tried all the time.
    """
    outbox, done = an_outbox()
    lease = a_lease()
    outbox.completed(lease, b"1")
    database.refuses = {lease.task.task_id: an_error("P0001")}
    outbox.flush(CONNECTION, PEER)
    assert (done, len(outbox), outbox.is_pending) == ([], 0, False)
    first = outbox.next_due() - time.monotonic()
    tried = database.statements
    outbox.flush(CONNECTION, PEER)
    assert database.statements == tried, "it is not due yet"
    for _ in range(10):
        outbox.flush(CONNECTION, PEER, last=True)
    assert first < 2 < outbox.next_due() - time.monotonic() < 61


def test_a_database_that_refuses_everything_is_not_tried_for_each_outcome(
    database: Database,
) -> None:
    """A full disk is the cause: after a few tries the flush ends, and every outcome is kept."""
    outbox, done = an_outbox()
    leases = [a_lease() for _ in range(BATCH_MAX)]
    for lease in leases:
        outbox.completed(lease, b"1")
    full = an_error("53100", "no space left on device")
    database.refuses = dict.fromkeys((lease.task.task_id for lease in leases), full)
    with pytest.raises(psycopg.errors.DiskFull):
        outbox.flush(CONNECTION, PEER)
    assert database.statements < 10
    assert (done, outbox.is_pending) == ([], True)
    database.refuses = {}
    outbox.flush(CONNECTION, PEER, last=True)
    assert set(done) == set(leases)


def test_missing_rights_do_not_fail_completed_tasks(database: Database) -> None:
    """A function that a migration replaces does not either: the results are kept."""
    for sqlstate in ("42501", "42883"):
        outbox, done = an_outbox()
        lease = a_lease()
        outbox.completed(lease, b"1")
        database.refuses = {lease.task.task_id: an_error(sqlstate, "function peers.complete")}
        outbox.flush(CONNECTION, PEER)
        database.refuses = {}
        outbox.flush(CONNECTION, PEER, last=True)
        assert (done, database.failed) == ([lease], [])
