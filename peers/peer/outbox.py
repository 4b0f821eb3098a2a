"""Keep outcomes until they are recorded in the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

import psycopg

from peers import events
from peers.database import functions
from peers.database.connection import Connection, is_connection_lost
from peers.database.pooler import SYMPTOMS as POOLER_SYMPTOMS
from peers.database.rows import Unrecorded
from peers.errors import BadTask, NotPermitted, SchemaMissing
from peers.pool.lease import Lease

BATCH_MAX: Final = 500
_BYTES_MAX: Final = 16 << 20
"""Bytes of results in one statement, to spare the server's memory."""
_RETRY_BUSY_AFTER: Final = 0.1
"""Seconds until the next try for an outcome whose task was locked by another session."""
_RETRY_REFUSED_AFTER: Final = 1.0
"""Seconds until the next try for a refused outcome. They double up to one of the maxima below."""
_RETRY_REFUSED_MAX: Final = 60.0
_RETRY_TRANSIENT_MAX: Final = 5.0
_TRANSIENT_ERRORS_MAX: Final = 2
"""After so many transient errors in a row (a batch, then its first outcome alone) no outcome is the
cause. Stop then: each may have waited for a lock as long as the main loop can spare."""
_MESSAGE_MAX: Final = 1000
"""Characters of the database's message in a failure."""
_RESULT_TOO_LARGE: Final = (
    "the result exceeds 1 MiB of JSON; store it elsewhere and return a reference to it"
)

_SESSION_ERRORS: Final = (*POOLER_SYMPTOMS, psycopg.errors.FeatureNotSupported)
"""The session is the cause: its prepared statements are gone, or a migration outdated them."""
_TRANSIENT_ERRORS: Final = (psycopg.OperationalError, NotPermitted, SchemaMissing)
"""The database is the cause: a lock, a full disk, missing rights. These errors may pass."""

Failure: TypeAlias = dict[str, object]
"""The fields that peers.fail takes for a task."""


@dataclass(slots=True, eq=False)
class _Outcome:
    """A result, a failure, or (with neither) a lease to release."""

    lease: Lease
    result: bytes | None = None
    failure: Failure | None = None
    refused: bool = False
    """The database has refused this outcome, or the one that it replaces, for good."""
    refusals: int = 0
    due: float = 0.0

    @property
    def is_release(self) -> bool:
        """Return whether it releases the lease, so that the attempt does not count."""
        return self.result is None and self.failure is None


class Outbox:
    """Outcomes wait here, also through outages, until the database has recorded or refused them.

    One bad outcome does not fail a batch: the batch is then recorded one by one. An outcome that
    the database refuses for good becomes a failure that says so. If that is refused as well, it is
    kept and tried again. The outbox calls `on_recorded` for each lease that is done.
    """

    def __init__(self, on_recorded: Callable[[Lease], None]) -> None:
        self._on_recorded = on_recorded
        self._completed: list[_Outcome] = []
        self._failed: list[_Outcome] = []
        self._released: list[_Outcome] = []
        self._put_off: list[_Outcome] = []
        self._transient_errors = 0

    def __len__(self) -> int:
        return len(self._completed) + len(self._failed) + len(self._released)

    @property
    def is_pending(self) -> bool:
        """Return whether an outcome waits that the database has not refused for good."""
        return bool(len(self) or any(not outcome.refused for outcome in self._put_off))

    def completed(self, lease: Lease, result: bytes) -> None:
        """Add a result, which is JSON."""
        self._completed.append(_Outcome(lease, result=result))

    def failed(self, lease: Lease, failure: Failure) -> None:
        """Add a failed attempt."""
        self._failed.append(_Outcome(lease, failure=failure))

    def released(self, leases: list[Lease]) -> None:
        """Add leases to release: their attempts do not count."""
        self._released += map(_Outcome, leases)

    def next_due(self) -> float:
        """Return when (monotonic) the next try for a busy or refused outcome is due."""
        return min((outcome.due for outcome in self._put_off), default=float("inf"))

    def flush(self, connection: Connection, peer_id: UUID, *, last: bool = False) -> None:
        """Record all outcomes. When this raises, the remaining outcomes stay for another try.

        `last`: there will be no other try, so that busy and refused outcomes are tried now.
        """
        self._requeue_due(float("inf") if last else time.monotonic())
        self._transient_errors = 0
        while self._completed:
            batch = self._completed[: self._batch_size()]
            self._record(connection, peer_id, self._completed, batch, _complete)
        while self._failed:
            self._record(connection, peer_id, self._failed, self._failed[:BATCH_MAX], _fail)
        while self._released:
            # a busy task stays leased in the database, and a later reconcile releases it
            self._record(connection, peer_id, self._released, self._released[:BATCH_MAX], _release)

    def _requeue_due(self, now: float) -> None:
        due = [outcome for outcome in self._put_off if outcome.due <= now]
        self._put_off = [outcome for outcome in self._put_off if outcome.due > now]
        for outcome in due:
            if outcome.result is not None:
                self._completed.append(outcome)
            elif outcome.failure is not None:
                self._failed.append(outcome)
            else:
                self._released.append(outcome)

    def _batch_size(self) -> int:
        size = 0
        for count, outcome in enumerate(self._completed[:BATCH_MAX], start=1):
            size += len(outcome.result or b"")
            if size > _BYTES_MAX:
                return count
        return BATCH_MAX

    def _record(
        self, connection: Connection, peer_id: UUID, waiting: list[_Outcome],
        batch: list[_Outcome], verb: Verb,
    ) -> None:  # fmt: skip
        """Record a batch from the front of `waiting`, one by one if the whole batch is refused."""
        try:
            unrecorded = verb(connection, peer_id, batch)
        except Exception as error:  # an outcome may hold anything, and the peer must survive it
            if is_connection_lost(error) or isinstance(error, _SESSION_ERRORS):
                raise
            if len(batch) > 1:
                self._transient_errors += isinstance(error, _TRANSIENT_ERRORS)
                for outcome in batch:
                    self._record(connection, peer_id, waiting, [outcome], verb)
                return
            del waiting[:1]
            self._refuse(batch[0], error)
            return
        self._transient_errors = 0
        del waiting[: len(batch)]
        self._conclude(batch, unrecorded)

    def _refuse(self, outcome: _Outcome, error: Exception) -> None:
        """Replace or put off an outcome that was refused alone. Raises if all would be refused."""
        transient = isinstance(error, _TRANSIENT_ERRORS)
        task, message = outcome.lease.task, _in_ascii(error)
        events.outcome_refused(task_id=task.task_id, kind=task.kind, verdict=message)
        if not transient and isinstance(error, BadTask) and outcome.result is not None:
            self._failed.append(_Outcome(outcome.lease, failure=_result_invalid(message)))
        elif not transient and not outcome.refused and not outcome.is_release:
            plain = _plain(outcome, message)
            self._failed.append(_Outcome(outcome.lease, failure=plain, refused=True))
        else:
            outcome.refused = outcome.refused or not transient
            outcome.refusals += 1
            cap = _RETRY_TRANSIENT_MAX if transient else _RETRY_REFUSED_MAX
            wait = min(cap, _RETRY_REFUSED_AFTER * 2 ** (outcome.refusals - 1))
            outcome.due = time.monotonic() + wait
            self._put_off.append(outcome)
        self._transient_errors = self._transient_errors + 1 if transient else 0
        if self._transient_errors >= _TRANSIENT_ERRORS_MAX:
            raise error

    def _conclude(self, batch: list[_Outcome], unrecorded: list[Unrecorded]) -> None:
        verdicts = {(task_id, token): verdict for task_id, token, verdict in unrecorded}
        for outcome in batch:
            lease = outcome.lease
            verdict = verdicts.get((lease.task.task_id, lease.task.token)) if verdicts else None
            if verdict == "busy":
                outcome.due = time.monotonic() + _RETRY_BUSY_AFTER
                self._put_off.append(outcome)
            elif verdict == "too large":
                invalid = _result_invalid(_RESULT_TOO_LARGE)
                self._failed.append(_Outcome(lease, failure=invalid))
            else:
                if verdict == "stale":
                    events.outcome_refused(
                        task_id=lease.task.task_id, kind=lease.task.kind, verdict=verdict
                    )
                self._on_recorded(lease)


Verb: TypeAlias = Callable[[Connection, UUID, list[_Outcome]], list[Unrecorded]]


def _complete(connection: Connection, peer_id: UUID, batch: list[_Outcome]) -> list[Unrecorded]:
    document = b",".join(
        b'{"task_id":%d,"token":"%s","result":%s}'
        % (outcome.lease.task.task_id, outcome.lease.token, outcome.result)
        for outcome in batch
    )
    return functions.complete(connection, peer_id, b"[%s]" % document)


def _fail(connection: Connection, peer_id: UUID, batch: list[_Outcome]) -> list[Unrecorded]:
    failures = [
        {
            "task_id": outcome.lease.task.task_id,
            "token": outcome.lease.task.token,
            **(outcome.failure or {}),
        }
        for outcome in batch
    ]
    return functions.fail(connection, peer_id, failures)


def _release(connection: Connection, peer_id: UUID, batch: list[_Outcome]) -> list[Unrecorded]:
    tasks = [outcome.lease.task for outcome in batch]
    reasons = [outcome.lease.stopped_because for outcome in batch]
    ids, tokens = [task.task_id for task in tasks], [task.token for task in tasks]
    functions.release(connection, peer_id, ids, tokens, reasons)
    return []


def _result_invalid(message: str) -> Failure:
    return {"error_type": "ResultInvalid", "error_message": message}


def _plain(outcome: _Outcome, message: str) -> Failure:
    """Return a failure that any database can hold, to replace an outcome that this one refused."""
    failure = outcome.failure or {}
    what = _in_ascii(failure["error_type"]) if "error_type" in failure else "the result"
    plain: Failure = {
        "error_type": "OutcomeRefused",
        "error_message": f"the database refused to record {what}: {message}",
    }
    return plain | {"reject": True} if failure.get("reject") is True else plain


def _in_ascii(value: object) -> str:
    """Return the value's text in printable characters that every encoding has."""
    try:
        text = str(value).strip() or type(value).__name__
    except Exception:  # noqa: BLE001  # describing must not raise
        text = type(value).__name__
    return "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text[:_MESSAGE_MAX])
