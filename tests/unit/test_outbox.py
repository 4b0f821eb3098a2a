"""The outbox: no outcome is lost, and none prevents another from being recorded."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple, cast
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.pq.abc import PGresult

from peers.database import statements
from peers.database.binary import count as count_in
from peers.database.binary import pack_ids, read_ids
from peers.database.connection import is_connection_lost
from peers.database.pipeline import Statement
from peers.database.rows import ClaimReply, Unrecorded, Verdict
from peers.errors import BadTask, from_database
from peers.metrics.counts import Counts
from peers.peer.batch import Batch
from peers.peer.outbox import BATCH_MAX, COMPLETED_MAX, Outbox
from peers.peer.outcome import Outcome
from peers.pool.claim import Claim, TaskRun
from peers.pool.durations import DurationEstimate
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue
from tests.support.claims import ONE_ATTEMPT

PEER = uuid4()
_ids = count(1)


class Call(NamedTuple):
    """A call of a verb, in place of a statement."""

    verb: str
    task_ids: list[int]
    values: list[Any]
    tokens: int = 0
    patient: bool = False


class Database:
    """A database that records outcomes, with verdicts for some, and that refuses one text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.completed: list[bytes] = []
        self.calls: list[Call] = []
        self.failed: list[dict[str, Any]] = []
        self.released: list[int] = []
        self.verdicts: dict[int, Verdict] = {}
        self.too_large: int | None = None
        self.broken = False
        self.refuses: dict[int, Exception] = {}
        """By task: how every verb but those in `takes` ends, if it is among the batch."""
        self.takes: set[str] = set()
        self.only_plain = False
        self.statements = 0
        monkeypatch.setattr(statements, "complete", self._write_complete)
        monkeypatch.setattr(statements, "fail", self._write_fail)
        monkeypatch.setattr(statements, "release", self._write_release)
        monkeypatch.setattr(statements, "read_unrecorded", lambda result: result)

    def run(self, statement: Statement) -> PGresult:
        """Execute a call alone."""
        call = cast("Call", statement)
        self.statements += 1
        if self.broken:
            raise psycopg.OperationalError("gone")
        for task_id in call.task_ids:
            if call.verb not in self.takes and task_id in self.refuses:
                raise self.refuses[task_id]
        self.calls.append(call)
        unrecorded: list[Unrecorded] = getattr(self, f"_{call.verb}")(call)
        return cast("PGresult", unrecorded)

    def _complete(self, call: Call) -> list[Unrecorded]:
        [document] = call.values
        if b"poison" in document:
            raise BadTask("jsonb cannot hold poison")
        self.completed.append(document)
        if self.too_large is not None:
            return [Unrecorded(self.too_large, self.tokens[self.too_large], "too large")]
        return self._unrecorded(call)

    def _fail(self, call: Call) -> list[Unrecorded]:
        if self.only_plain and any(f["error_type"] != "OutcomeRefused" for f in call.values):
            raise an_error("22P05", "nein, zu teuer: 5 €")
        self.failed += call.values
        return self._unrecorded(call)

    def _release(self, call: Call) -> list[Unrecorded]:
        self.released += call.task_ids
        return self._unrecorded(call)

    def _unrecorded(self, call: Call) -> list[Unrecorded]:
        return [
            Unrecorded(task, self.tokens[task], said)
            for task, said in self.verdicts.items()
            if task in call.task_ids
        ]

    @staticmethod
    def _write_complete(
        _peer: UUID, tokens: bytes, task_ids: bytes, results: bytes, *, patient: bool
    ) -> Call:
        return Call("complete", list(read_ids(task_ids)), [results], count_in(tokens), patient)

    @staticmethod
    def _write_fail(
        _peer: UUID, failures: Sequence[Mapping[str, Any]], _encoding: str, *, patient: bool
    ) -> Call:
        return Call("fail", [each["task_id"] for each in failures], list(failures), 0, patient)

    @staticmethod
    def _write_release(
        _peer: UUID, task_ids: Sequence[int], _tokens: object, reasons: Sequence[Any],
        *, patient: bool,
    ) -> Call:  # fmt: skip
        return Call("release", list(task_ids), list(reasons), 0, patient)

    tokens: dict[int, UUID] = {}  # noqa: RUF012  # ids are unique across tests


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    """Replace the functions of the database."""
    return Database(monkeypatch)


def a_claim(tasks: int) -> Claim:
    """Make a claim of so many tasks."""
    token, ids = uuid4(), [next(_ids) for _ in range(tasks)]
    Database.tokens |= dict.fromkeys(ids, token)
    args = b"[" + b",".join([b"{}"] * tasks) + b"]"
    reply = ClaimReply(
        token.bytes,
        tasks,
        pack_ids(ids),
        ONE_ATTEMPT,
        ("kind",),
        (100,),
        None,
        args,
        None,
        False,
    )
    return Claim(reply, LocalQueue("default", 1, DurationEstimate(), {}), 0.0)


def a_lease() -> Lease:
    """Make the lease of a claimed task."""
    return a_claim(1).lease(0)


class Box:
    """An outbox, and the leases that it has recorded."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.done: dict[bytes, int] = {}
        self.counts = Counts()
        self.outbox = Outbox(self._recorded, self.counts)

    def _recorded(self, token: bytes, tasks: int) -> None:
        self.done[token] = self.done.get(token, 0) + tasks

    def completed(self, lease: Lease, result: bytes) -> None:
        """Add the result of one task."""
        self.outbox.completed_run(TaskRun(lease.claim, lease.index, 1), b"[%b]" % result)

    def flush(self, *, last: bool = False) -> None:
        """Record everything one by one."""
        self.outbox.flush(self.database.run, PEER, "UTF8", last=last)

    def turn(self) -> None:
        """Record a batch in a transaction. When the database refuses it, nothing is recorded."""
        batch = self.outbox.take()
        try:
            results = [self.database.run(each) for each in batch.statements(PEER, "UTF8")]
        except Exception:
            self.outbox.put_back()
            raise
        self.outbox.conclude(results)

    def has(self, *leases: Lease) -> bool:
        """Whether these leases are done, and no others."""
        return self.done == {lease.token: 1 for lease in leases}


@pytest.fixture
def box(database: Database) -> Box:
    """Make an outbox."""
    return Box(database)


def test_everything_is_recorded_in_batches(box: Box, database: Database) -> None:
    """Completions, failures and releases, each lease once, in one transaction or one by one."""
    for record in (box.flush, box.turn):
        completed, failed, released = [a_lease() for _ in range(5)], a_lease(), a_lease()
        for lease in completed:
            box.completed(lease, b"1")
        box.outbox.failed(failed, {"error_type": "E"})
        box.outbox.released([released])
        assert box.outbox.is_pending
        record()
        assert database.completed == [b"[1,1,1,1,1]"]
        assert [failure["task_id"] for failure in database.failed] == [failed.task.task_id]
        assert database.released == [released.task.task_id]
        assert box.has(*completed, failed, released)
        box.done.clear()
        for recorded in (database.completed, database.failed, database.released):
            recorded.clear()
    assert not box.outbox.is_pending


def test_a_run_is_recorded_whole(box: Box, database: Database) -> None:
    """Runs of claims and single outcomes go in one call: a token for each task, or one for all."""
    one, other = a_claim(1000), a_claim(3)
    box.outbox.completed_run(TaskRun(one, 0, 600), b"[%b]" % b",".join([b"1"] * 600))
    box.outbox.completed_run(TaskRun(one, 600, 400), b"[%b]" % b",".join([b"2"] * 400))
    box.turn()
    box.outbox.completed_run(TaskRun(other, 0, 2), b"[3,4]")
    box.completed(one.lease(0), b"5")
    box.turn()
    first, second = database.calls
    assert (first.tokens, second.tokens) == (1, 3)
    assert first.task_ids == [one.task_id(index) for index in range(1000)]
    assert json.loads(first.values[0]) == [1] * 600 + [2] * 400
    assert second.task_ids == [other.task_id(0), other.task_id(1), one.task_id(0)]
    assert json.loads(second.values[0]) == [3, 4, 5]
    assert box.done == {one.token: 1001, other.token: 2}


def test_a_run_of_which_one_is_refused_is_recorded_in_parts(box: Box, database: Database) -> None:
    """The transaction was refused; then the others of the run are completed."""
    claim = a_claim(5)
    box.outbox.completed_run(TaskRun(claim, 0, 5), b'[1,2,"poison",4,5]')
    with pytest.raises(BadTask):
        box.turn()
    assert (box.done, box.outbox.is_pending) == ({}, True)
    box.flush()
    assert [failure["task_id"] for failure in database.failed] == [claim.task_id(2)]
    assert database.completed == [b"[1,2]", b"[4,5]"]
    assert box.done == {claim.token: 5}


def test_one_busy_task_of_a_run_is_tried_again_later(box: Box, database: Database) -> None:
    """With its own result; the others are recorded."""
    claim, other = a_claim(5), a_claim(5)
    database.verdicts = {claim.task_id(3): "busy"}
    box.outbox.completed_run(TaskRun(claim, 0, 5), b"[1,2,3,4,5]")
    box.outbox.completed_run(TaskRun(other, 0, 5), b"[1,2,3,4,5]")
    box.turn()
    assert box.done == {claim.token: 4, other.token: 5}
    assert box.outbox.is_pending
    database.verdicts = {}
    while box.done[claim.token] < 5:
        box.turn()
    assert database.completed[-1] == b"[4]"
    assert not box.outbox.is_pending


def test_a_transaction_whose_fate_is_unknown_is_repeated(box: Box, database: Database) -> None:
    """What came meanwhile is recorded behind it."""
    early, late = a_claim(2), a_claim(2)
    box.outbox.completed_run(TaskRun(early, 0, 2), b"[1,2]")
    box.outbox.take()
    box.outbox.completed_run(TaskRun(late, 0, 2), b"[3,4]")
    assert box.outbox.is_pending
    box.outbox.put_back()
    box.turn()
    assert database.completed == [b"[1,2,3,4]"]


def test_a_transaction_is_bounded(box: Box, database: Database) -> None:
    """By the number of tasks."""
    for _ in range(5):
        run = TaskRun(a_claim(1000), 0, 1000)
        box.outbox.completed_run(run, b"[%b]" % b",".join([b"1"] * 1000))
        box.outbox.failed(a_lease(), {"error_type": "E"})
    for _ in range(BATCH_MAX):
        box.outbox.released([a_lease()])
        box.outbox.failed(a_lease(), {"error_type": "E"})
    for expected in (2000, 2000, 1000):
        box.turn()
        sizes = [len(call.task_ids) for call in database.calls if call.verb == "complete"]
        assert sizes[-1] == expected <= COMPLETED_MAX
    others = [len(call.task_ids) for call in database.calls if call.verb != "complete"]
    assert max(others) <= BATCH_MAX
    assert sum(others) == 2 * BATCH_MAX + 5


def test_outcomes_survive_a_broken_connection(box: Box, database: Database) -> None:
    """All of them are tried again."""
    box.completed(a_lease(), b"1")
    box.outbox.failed(a_lease(), {"error_type": "E"})
    box.outbox.released([a_lease()])
    database.broken = True
    with pytest.raises(psycopg.OperationalError):
        box.flush()
    assert box.has()
    assert box.outbox.is_pending
    database.broken = False
    box.flush()
    assert len(box.done) == 3
    assert not box.outbox.is_pending


def test_a_result_that_jsonb_refuses_becomes_a_failure_of_its_own_task(
    box: Box, database: Database
) -> None:
    """The others of the batch are completed."""
    good, bad = [a_lease(), a_lease()], a_lease()
    box.completed(good[0], b"1")
    box.completed(bad, b'"poison"')
    box.completed(good[1], b"2")
    box.flush()
    [failure] = database.failed
    assert (failure["task_id"], failure["error_type"]) == (bad.task.task_id, "ResultInvalid")
    assert "poison" in failure["error_message"]
    assert box.has(*good, bad)


def test_a_busy_outcome_is_tried_again_later(box: Box, database: Database) -> None:
    """Until then it waits, and its lease is kept."""
    lease = a_lease()
    box.completed(lease, b"1")
    database.verdicts = {lease.task.task_id: "busy"}
    box.flush()
    assert (box.done, box.outbox.is_pending, bool(box.outbox)) == ({}, True, False)
    database.verdicts = {}
    while not box.done:
        box.flush()
    assert not box.outbox.is_pending


@pytest.mark.parametrize("outcome", ["completed", "failed", "released"])
def test_an_outcome_that_is_busy_again_and_again_waits_for_the_lock(
    box: Box, database: Database, outcome: str
) -> None:
    """Not the first times: a stream of sessions that lock the task would starve it for ever."""
    lease = a_lease()
    if outcome == "completed":
        box.completed(lease, b"1")
    elif outcome == "failed":
        box.outbox.failed(lease, {"error_type": "E"})
    else:
        box.outbox.released([lease])
    database.verdicts = {lease.task.task_id: "busy"}
    for _ in range(5):
        box.flush(last=True)
    assert [call.patient for call in database.calls] == [False, False, False, True, True]


def test_a_task_that_stays_locked_is_tried_less_and_less_often(
    box: Box, database: Database
) -> None:
    """Each try may wait for the lock, while the connection can do nothing else."""
    lease = a_lease()
    box.completed(lease, b"1")
    database.verdicts = {lease.task.task_id: "busy"}
    waits = []
    for _ in range(30):
        box.flush(last=True)
        waits.append(box.outbox.next_due() - time.monotonic())
    assert waits[0] <= 0.1
    assert 0.3 < max(waits) <= 1.0  # a random part of at most a second


@pytest.mark.usefixtures("database")
def test_the_first_statement_waits_for_the_lock_and_no_later_one() -> None:
    """A later one would wait while it holds what the sessions that it waits for may want."""
    often_busy = Outcome(a_lease(), busy=9)
    failure = Outcome(a_lease(), failure={"error_type": "E"})
    batch = Batch(failed=[failure], released=[often_busy])
    calls = cast("list[Call]", batch.statements(PEER, "UTF8"))
    assert [(call.verb, call.patient) for call in calls] == [("fail", True), ("release", False)]


def test_a_result_that_is_too_large_becomes_a_failure(box: Box, database: Database) -> None:
    """Of the same task, in the same flush."""
    lease = a_lease()
    box.completed(lease, b"1")
    database.too_large = lease.task.task_id
    box.flush()
    [failure] = database.failed
    assert (failure["task_id"], failure["error_type"]) == (lease.task.task_id, "ResultInvalid")
    assert box.has(lease)


@pytest.mark.parametrize("verdict", ["stale", "already"])
def test_a_stale_outcome_is_dropped(box: Box, database: Database, verdict: Verdict) -> None:
    """The lease was lost, so that the outcome can never be recorded."""
    lease = a_lease()
    box.completed(lease, b"1")
    database.verdicts = {lease.task.task_id: verdict}
    box.flush()
    assert (box.has(lease), box.outbox.is_pending) == (True, False)


def test_a_batch_of_large_results_is_bounded_by_its_size(box: Box, database: Database) -> None:
    """A hundred results of 1 MiB do not go in one statement."""
    for _ in range(100):
        box.completed(a_lease(), b'"%s"' % (b"x" * (1 << 20)))
    box.flush()
    assert max(map(len, database.completed)) <= 18 << 20
    assert sum(len(call.task_ids) for call in database.calls) == 100


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
    box: Box, database: Database, outcome: str
) -> None:
    """For every SQLSTATE: the others of the batch are recorded, and the outcome becomes a failure,
    or is kept and tried again. Only errors of the connection or session are raised, and then every
    outcome is kept.
    """
    for kind in _EVERY_ERROR:
        assert kind.sqlstate is not None
        box = Box(database)
        leases = [a_lease() for _ in range(5)]
        culprit = leases[2]
        for lease in leases:
            if outcome == "completed":
                box.completed(lease, b"1")
            elif outcome == "failed":
                box.outbox.failed(lease, {"error_type": "E", "error_message": "m"})
            else:
                box.outbox.released([lease])
        error = an_error(kind.sqlstate)
        database.refuses = {culprit.task.task_id: error}
        if is_connection_lost(error) or kind.sqlstate in _SESSION_OVER:
            with pytest.raises(type(error)):
                box.flush()
            assert box.has(), kind
            assert box.outbox.is_pending, kind
            continue
        box.flush()
        assert box.has(*(lease for lease in leases if lease is not culprit)), kind
        assert box.outbox.next_due() < float("inf"), kind
        database.refuses = {}
        box.flush(last=True)
        assert box.has(*leases), kind
        assert box.outbox.next_due() == float("inf"), kind


def test_few_statements_find_a_refused_outcome(box: Box, database: Database) -> None:
    """Each is a transaction, and the main loop does nothing else meanwhile."""
    leases = [a_lease() for _ in range(BATCH_MAX)]
    for lease in leases:
        box.outbox.completed_run(TaskRun(lease.claim, lease.index, 1), b"[1]")
    database.refuses = {leases[123].task.task_id: an_error("P0001")}
    database.takes = {"fail"}
    box.flush()
    assert box.has(*leases)
    assert database.statements < 30


def test_an_outcome_that_is_refused_becomes_a_plain_failure(box: Box, database: Database) -> None:
    """It has the database's message, in ASCII and within bounds. It drops what could not be
    recorded (a time that no interval holds, a text), and keeps that the task was rejected.
    """
    result, failure = a_lease(), a_lease()
    box.completed(result, b"1")
    box.outbox.failed(
        failure,
        {"error_type": "A\0€", "error_message": "m", "retry_in": float("inf"), "reject": True},
    )
    said = "nein, zu teuer: 5 €\n\x1b[31m" + "x" * 5000
    for lease in (result, failure):
        database.refuses[lease.task.task_id] = an_error("P0001", said)
    database.takes = {"fail"}
    database.only_plain = True
    box.flush()
    assert box.has(result, failure)
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


def test_an_outcome_that_is_refused_again_is_kept_and_tried_less_and_less_often(
    box: Box, database: Database
) -> None:
    """A trigger raises at every update of a task: its outcome does not delay the end of a drain,
    and is not tried all the time.
    """
    lease = a_lease()
    box.completed(lease, b"1")
    database.refuses = {lease.task.task_id: an_error("P0001")}
    box.flush()
    assert (box.done, bool(box.outbox), box.outbox.is_pending) == ({}, False, False)
    first = box.outbox.next_due() - time.monotonic()
    tried = database.statements
    box.flush()
    assert database.statements == tried, "it is not due yet"
    for _ in range(10):
        box.flush(last=True)
    assert first < 2 < box.outbox.next_due() - time.monotonic() < 61


def test_a_database_that_refuses_everything_is_not_tried_for_each_outcome(
    box: Box, database: Database
) -> None:
    """A full disk is the cause: after a few tries the flush ends, and every outcome is kept."""
    leases = [a_lease() for _ in range(BATCH_MAX)]
    for lease in leases:
        box.completed(lease, b"1")
    full = an_error("53100", "no space left on device")
    database.refuses = dict.fromkeys((lease.task.task_id for lease in leases), full)
    with pytest.raises(psycopg.errors.DiskFull):
        box.flush()
    assert database.statements < 10
    assert (box.done, box.outbox.is_pending) == ({}, True)
    database.refuses = {}
    box.flush(last=True)
    assert box.has(*leases)


def test_missing_rights_do_not_fail_completed_tasks(box: Box, database: Database) -> None:
    """A function that a migration replaces does not either: the results are kept."""
    for sqlstate in ("42501", "42883"):
        box.done.clear()
        lease = a_lease()
        box.completed(lease, b"1")
        database.refuses = {lease.task.task_id: an_error(sqlstate, "function peers.complete")}
        box.flush()
        database.refuses = {}
        box.flush(last=True)
        assert (box.has(lease), database.failed) == (True, [])
