"""Keep outcomes until they are recorded in the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, TypeVar
from uuid import UUID

import psycopg
from psycopg.pq.abc import PGresult

from peers import events
from peers.database import statements
from peers.database.connection import is_connection_lost
from peers.database.pipeline import Statement
from peers.database.pooler import SYMPTOMS as POOLER_SYMPTOMS
from peers.database.rows import Verdict
from peers.errors import BadTask, NotPermitted, SchemaMissing
from peers.metrics.counts import Counts
from peers.peer.batch import Batch, record
from peers.peer.outcome import CompletedRun, Failure, Outcome, in_ascii, plain_failure
from peers.peer.waiting_logs import WaitingLogs
from peers.pool.claim import TaskRun
from peers.pool.lease import Lease

BATCH_MAX: Final = 500
"""Failures, or releases, in one statement."""
COMPLETED_MAX: Final = 2000
"""Results in one statement."""
_BYTES_MAX: Final = 16 << 20
"""Bytes of results in one statement, to spare the server's memory."""
_RETRY_REFUSED_AFTER: Final = 1.0
"""Seconds until the next try for a refused outcome. They double up to one of the maxima below."""
_RETRY_REFUSED_MAX: Final = 60.0
_RETRY_TRANSIENT_MAX: Final = 5.0
_TRANSIENT_ERRORS_MAX: Final = 2
"""After so many transient errors in a row (a batch, then its first outcome alone) no outcome is the
cause. Stop then: each may have waited for a lock as long as the main loop can spare."""
_RESULT_TOO_LARGE: Final = (
    "the result exceeds 1 MiB of JSON; store it elsewhere and return a reference to it"
)

_SESSION_ERRORS: Final = (*POOLER_SYMPTOMS, psycopg.errors.FeatureNotSupported)
"""The session is the cause: its prepared statements are gone, or a migration outdated them."""
_TRANSIENT_ERRORS: Final = (psycopg.OperationalError, NotPermitted, SchemaMissing)
"""The database is the cause: a lock, a full disk, missing rights. These errors may pass."""

Run: TypeAlias = Callable[[Statement], PGresult]
Part = TypeVar("Part", CompletedRun | Outcome, Outcome)


class Outbox:
    """Outcomes wait here, also through outages, until the database has recorded or refused them.

    The peer takes a batch for each transaction. When the database refuses one, nothing of it was
    recorded, and `flush` records the outcomes in parts, so that one bad outcome does not fail the
    others. An outcome that the database refuses for good becomes a failure that says so. If that is
    refused as well, it is kept and tried again. The outbox calls `on_recorded` with a token and the
    number of its tasks that are done.
    """

    def __init__(self, on_recorded: Callable[[bytes, int], None], counts: Counts) -> None:
        self._on_recorded = on_recorded
        self._counts = counts
        self._completed: list[CompletedRun | Outcome] = []
        self._failed: list[Outcome] = []
        self._released: list[Outcome] = []
        self._put_off: list[Outcome] = []
        self._taken: Batch | None = None
        """What the transaction in progress records."""
        self._transient_errors = 0
        self.logs = WaitingLogs()
        """What attempts have printed, of kinds that keep their logs."""

    def __bool__(self) -> bool:
        return bool(self._completed or self._failed or self._released or self.logs)

    @property
    def is_pending(self) -> bool:
        """Return whether an outcome waits that the database has not refused for good."""
        return (
            bool(self._completed or self._failed or self._released)
            or self._taken is not None
            or any(not outcome.refused for outcome in self._put_off)
        )

    def completed_run(self, run: TaskRun, results: bytes) -> None:
        """Add the results of tasks of one claim, which are a JSON array."""
        self._completed.append(CompletedRun(run, results))

    def failed(self, lease: Lease, failure: Failure) -> None:
        """Add a failed attempt."""
        self._failed.append(Outcome(lease, failure=failure))

    def released(self, leases: list[Lease]) -> None:
        """Add leases to release: their attempts do not count."""
        self._released += map(Outcome, leases)

    def next_due(self) -> float:
        """Return when (monotonic) the next try for a busy or refused outcome is due."""
        return min((outcome.due for outcome in self._put_off), default=float("inf"))

    # --------------------------------------------------------------------------- transactions

    def take(self) -> Batch:
        """Take what the next transaction records. `concluded` or `put_back` must follow."""
        assert self._taken is None
        self._requeue_due(time.monotonic())
        self._taken = Batch(
            _take(self._completed, COMPLETED_MAX), _take(self._failed, BATCH_MAX),
            _take(self._released, BATCH_MAX), self.logs.take(),
        )  # fmt: skip
        return self._taken

    def conclude(self, results: Sequence[PGresult]) -> None:
        """Forget what the transaction has recorded, and keep what it has not."""
        batch, self._taken = self._taken, None
        assert batch is not None
        if batch.logs:
            *results, stored = results
            self.logs.conclude(batch.logs, stored)
        for part, result in zip(batch.parts(), results, strict=True):
            self._conclude(part, result)

    def put_back(self) -> None:
        """Take back what the transaction has not recorded, or perhaps not."""
        batch, self._taken = self._taken, None
        if batch is not None:
            self._completed[:0] = batch.completed
            self._failed[:0] = batch.failed
            self._released[:0] = batch.released
            self.logs.put_back(batch.logs)

    # ----------------------------------------------------------------------------- one by one

    def flush(self, run: Run, peer_id: UUID, encoding: str, *, last: bool = False) -> None:
        """Record all outcomes; in parts those of a batch that is refused.

        When this raises, the remaining outcomes stay for another try. `last`: there will be no
        other try, so that busy and refused outcomes are tried now.
        """
        self._requeue_due(float("inf") if last else time.monotonic())
        self._transient_errors = 0

        def verb(batch: Sequence[Outcome]) -> PGresult:
            return run(record(peer_id, batch, encoding))

        completed, self._completed = _one_by_one(self._completed), []
        try:
            for waiting in (completed, self._failed, self._released):
                while waiting:
                    self._record(waiting, waiting[: _fitting(waiting, BATCH_MAX)], verb)
        finally:
            self._completed += completed
        self.logs.store(run, peer_id, encoding)

    def _record(
        self, waiting: list[Outcome], batch: list[Outcome],
        verb: Callable[[Sequence[Outcome]], PGresult],
    ) -> None:  # fmt: skip
        """Record a batch from the front of `waiting`, in parts if the whole batch is refused."""
        try:
            result = verb(batch)
        except Exception as error:  # an outcome may hold anything, and the peer must survive it
            if is_connection_lost(error) or isinstance(error, _SESSION_ERRORS):
                raise
            if len(batch) > 1:
                transient = isinstance(error, _TRANSIENT_ERRORS)
                self._transient_errors += transient
                # If outcomes are the cause, halves find them with few statements. If the database
                # is, the first outcome alone shows it.
                size = 1 if transient else (len(batch) + 1) // 2
                for start in range(0, len(batch), size):
                    self._record(waiting, batch[start : start + size], verb)
                return
            del waiting[:1]
            self._refuse(batch[0], error)
            return
        self._transient_errors = 0
        del waiting[: len(batch)]
        self._conclude(batch, result)

    def _refuse(self, outcome: Outcome, error: Exception) -> None:
        """Replace or put off an outcome that was refused alone. Raises if all would be refused."""
        transient = isinstance(error, _TRANSIENT_ERRORS)
        message = in_ascii(error)
        _log_refusal(outcome.lease, message)
        if not transient and not outcome.refused:
            self._counts.of(outcome.lease.local_queue.queue, outcome.lease.task.kind).refused += 1
        if not transient and isinstance(error, BadTask) and outcome.result is not None:
            self._failed.append(Outcome(outcome.lease, failure=_result_invalid(message)))
        elif not transient and not outcome.refused and not outcome.is_release:
            failure = plain_failure(outcome, message)
            self._failed.append(Outcome(outcome.lease, failure=failure, refused=True))
        else:
            outcome.refused = outcome.refused or not transient
            outcome.refusals += 1
            cap = _RETRY_TRANSIENT_MAX if transient else _RETRY_REFUSED_MAX
            self._retry_in(outcome, min(cap, _RETRY_REFUSED_AFTER * 2 ** (outcome.refusals - 1)))
        self._transient_errors = self._transient_errors + 1 if transient else 0
        if self._transient_errors >= _TRANSIENT_ERRORS_MAX:
            raise error

    def _conclude(self, part: Sequence[CompletedRun | Outcome], result: PGresult) -> None:
        verdicts: dict[tuple[int, bytes], Verdict] = {
            (task_id, token.bytes): verdict
            for task_id, token, verdict in statements.read_unrecorded(result)
        }
        for each in part:
            if not isinstance(each, CompletedRun):
                self._conclude_one(each, verdicts)
            elif any(each.run.claim.token == token and each.has(id_) for id_, token in verdicts):
                for outcome in each.outcomes():
                    self._conclude_one(outcome, verdicts)
            else:
                claim = each.run.claim
                self._counts.completed(
                    claim.local_queue.queue, claim.kind(each.run.first), each.run.count
                )
                self._on_recorded(claim.token, each.run.count)

    def _conclude_one(self, outcome: Outcome, verdicts: dict[tuple[int, bytes], Verdict]) -> None:
        lease = outcome.lease
        verdict = verdicts.get((lease.task.task_id, lease.token)) if verdicts else None
        if verdict == "busy":
            self._retry_in(outcome, outcome.was_busy())
        elif verdict == "too large":
            self._failed.append(Outcome(lease, failure=_result_invalid(_RESULT_TOO_LARGE)))
        else:
            if verdict == "stale":
                _log_refusal(lease, verdict)
            self._count(outcome, verdict)
            self._on_recorded(lease.token, 1)

    def _count(self, outcome: Outcome, verdict: Verdict | None) -> None:
        queue, kind = outcome.lease.local_queue.queue, outcome.lease.task.kind
        if verdict == "stale":
            self._counts.of(queue, kind).stale += 1
        elif outcome.result is not None:
            self._counts.completed(queue, kind, 1)
        elif outcome.failure is not None:
            self._counts.recorded_failure(queue, kind, verdict)

    def _retry_in(self, outcome: Outcome, seconds: float) -> None:
        outcome.due = time.monotonic() + seconds
        self._put_off.append(outcome)

    def _requeue_due(self, now: float) -> None:
        if not self._put_off:
            return
        due = [outcome for outcome in self._put_off if outcome.due <= now]
        self._put_off = [outcome for outcome in self._put_off if outcome.due > now]
        for outcome in due:
            if outcome.result is not None:
                self._completed.append(outcome)
            elif outcome.failure is not None:
                self._failed.append(outcome)
            else:
                self._released.append(outcome)


def _take(waiting: list[Part], most: int) -> list[Part]:
    count = _fitting(waiting, most)
    taken = waiting[:count]
    del waiting[:count]
    return taken


def _fitting(waiting: Sequence[CompletedRun | Outcome], most: int) -> int:
    """Return how many of these fit in one statement; at least one."""
    tasks = size = 0
    for count, each in enumerate(waiting):
        tasks += each.tasks
        size += each.size
        if count and (tasks > most or size > _BYTES_MAX):
            return count
    return len(waiting)


def _one_by_one(completed: Sequence[CompletedRun | Outcome]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for each in completed:
        outcomes += each.outcomes() if isinstance(each, CompletedRun) else [each]
    return outcomes


def _log_refusal(lease: Lease, verdict: str) -> None:
    task = lease.task
    events.outcome_refused(
        task_id=task.task_id, kind=task.kind, attempt=task.attempt, token=task.token,
        verdict=verdict,
    )  # fmt: skip


def _result_invalid(message: str) -> Failure:
    return {"error_type": "ResultInvalid", "error_message": message}
