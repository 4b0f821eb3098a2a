"""What is over on this peer and not yet recorded in the database."""

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

MOST_SETTLED: Final = 500
_MOST_BYTES: Final = 16 << 20
"""Of results in one statement: Postgres would take more, its memory need not."""
_BUSY_AGAIN: Final = 0.1
"""Seconds after which an outcome is offered again that somebody's lock kept out."""
_REFUSED_AGAIN: Final = 1.0
"""So too for one that was refused; each time twice as long, at most _REFUSED_CAP."""
_REFUSED_CAP: Final = 60.0
_PASSING_CAP: Final = 5.0
"""What may be over in a moment is looked at more often."""
_GIVE_UP_AFTER: Final = 2
"""When so much in a row is refused for want of something (a batch, then its first outcome alone),
it is no outcome's fault; and each may have waited for a lock as long as the main loop can spare."""
_MOST_SAID: Final = 1000
"""Characters of what the database said in a failure's message."""

_OF_SESSION: Final = (*POOLER_SYMPTOMS, psycopg.errors.FeatureNotSupported)
"""No outcome's fault: a session whose prepared statements are gone, or outlived a migration."""
_OF_DATABASE: Final = (psycopg.OperationalError, NotPermitted, SchemaMissing)
"""Nor these: locks, full disks, rights that were taken away. They may be over in a moment."""

Failure: TypeAlias = dict[str, object]
"""The fields that peers.fail takes for a task."""


@dataclass(slots=True, eq=False)
class _Outcome:
    """One of three: a result, a failure, or (with neither) a lease that is given back."""

    lease: Lease
    result: bytes | None = None
    failure: Failure | None = None
    refused: bool = False
    """For good, or it stands for one that was: what is left is to offer it now and then."""
    refusals: int = 0
    due: float = 0.0

    @property
    def gives_back(self) -> bool:
        """Whether the attempt shall not count."""
        return self.result is None and self.failure is None


class Outbox:
    """Outcomes wait here, through outages too, until the database has taken or refused them.

    One that it refuses keeps no other out: then they are recorded one by one. What it refuses for
    good becomes a failure that says so; one that is refused even so is kept and offered again.
    `done` is called for each lease that is settled, one way or the other.
    """

    def __init__(self, done: Callable[[Lease], None]) -> None:
        self._done = done
        self._completed: list[_Outcome] = []
        self._failed: list[_Outcome] = []
        self._aborted: list[_Outcome] = []
        self._later: list[_Outcome] = []
        self._in_a_row = 0

    def __len__(self) -> int:
        return len(self._completed) + len(self._failed) + len(self._aborted)

    @property
    def waits(self) -> bool:
        """Whether anything is left, now or later, that the database has not refused for good."""
        return bool(len(self) or any(not outcome.refused for outcome in self._later))

    def completed(self, lease: Lease, result: bytes) -> None:
        """The handler returned this JSON."""
        self._completed.append(_Outcome(lease, result=result))

    def failed(self, lease: Lease, failure: Failure) -> None:
        """The attempt failed."""
        self._failed.append(_Outcome(lease, failure=failure))

    def aborted(self, leases: list[Lease]) -> None:
        """The attempt shall not count."""
        self._aborted += map(_Outcome, leases)

    def next_due(self) -> float:
        """When (monotonic) something that was busy or refused shall be offered again."""
        return min((outcome.due for outcome in self._later), default=float("inf"))

    def flush(self, connection: Connection, peer_id: UUID, *, last: bool = False) -> None:
        """Record what there is. When this raises, what was not recorded stays for another try.

        `last`: there will be no other, so that what was busy or refused is offered now.
        """
        self._bring_back(float("inf") if last else time.monotonic())
        self._in_a_row = 0
        while self._completed:
            batch = self._completed[: self._batch_size()]
            self._record(connection, peer_id, self._completed, batch, _complete)
        while self._failed:
            self._record(connection, peer_id, self._failed, self._failed[:MOST_SETTLED], _fail)
        while self._aborted:
            # what is busy stays leased in the database; a later reconcile gives it back
            self._record(connection, peer_id, self._aborted, self._aborted[:MOST_SETTLED], _release)

    def _bring_back(self, now: float) -> None:
        due = [outcome for outcome in self._later if outcome.due <= now]
        self._later = [outcome for outcome in self._later if outcome.due > now]
        for outcome in due:
            if outcome.result is not None:
                self._completed.append(outcome)
            elif outcome.failure is not None:
                self._failed.append(outcome)
            else:
                self._aborted.append(outcome)

    def _batch_size(self) -> int:
        size = 0
        for count, outcome in enumerate(self._completed[:MOST_SETTLED], start=1):
            size += len(outcome.result or b"")
            if size > _MOST_BYTES:
                return count
        return MOST_SETTLED

    def _record(
        self, connection: Connection, peer_id: UUID, waiting: list[_Outcome],
        batch: list[_Outcome], verb: Verb,
    ) -> None:  # fmt: skip
        """Record the first of those that wait; one by one if they are refused together."""
        try:
            unsettled = verb(connection, peer_id, batch)
        except Exception as error:  # an outcome may hold anything, and the peer must outlive it
            if is_connection_lost(error) or isinstance(error, _OF_SESSION):
                raise
            if len(batch) > 1:
                self._in_a_row += isinstance(error, _OF_DATABASE)
                for outcome in batch:
                    self._record(connection, peer_id, waiting, [outcome], verb)
                return
            del waiting[:1]
            self._refused(batch[0], error)
            return
        self._in_a_row = 0
        del waiting[: len(batch)]
        self._conclude(batch, unsettled)

    def _refused(self, outcome: _Outcome, error: Exception) -> None:
        """It was refused alone. Raises when the next ones would be as well."""
        passing = isinstance(error, _OF_DATABASE)
        task, said = outcome.lease.task, _in_ascii(error)
        events.outcome_refused(task_id=task.task_id, kind=task.kind, verdict=said)
        if not passing and isinstance(error, BadTask) and outcome.result is not None:
            self._failed.append(_Outcome(outcome.lease, failure=_result_invalid(said)))
        elif not passing and not outcome.refused and not outcome.gives_back:
            plain = _plain(outcome, said)
            self._failed.append(_Outcome(outcome.lease, failure=plain, refused=True))
        else:
            outcome.refused = outcome.refused or not passing
            outcome.refusals += 1
            cap = _PASSING_CAP if passing else _REFUSED_CAP
            wait = min(cap, _REFUSED_AGAIN * 2 ** (outcome.refusals - 1))
            outcome.due = time.monotonic() + wait
            self._later.append(outcome)
        self._in_a_row = self._in_a_row + 1 if passing else 0
        if self._in_a_row >= _GIVE_UP_AFTER:
            raise error

    def _conclude(self, batch: list[_Outcome], unsettled: list[Unrecorded]) -> None:
        verdicts = {(task_id, token): verdict for task_id, token, verdict in unsettled}
        for outcome in batch:
            lease = outcome.lease
            verdict = verdicts.get((lease.task.task_id, lease.task.token)) if verdicts else None
            if verdict == "busy":
                outcome.due = time.monotonic() + _BUSY_AGAIN
                self._later.append(outcome)
            elif verdict == "too large":
                invalid = _result_invalid("the result exceeds 1 MiB of JSON")
                self._failed.append(_Outcome(lease, failure=invalid))
            else:
                if verdict == "stale":
                    events.outcome_refused(
                        task_id=lease.task.task_id, kind=lease.task.kind, verdict=verdict
                    )
                self._done(lease)


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


def _plain(outcome: _Outcome, said: str) -> Failure:
    """A failure that any database can hold, in the place of an outcome that this one refused."""
    told = outcome.failure or {}
    what = _in_ascii(told["error_type"]) if "error_type" in told else "the result"
    plain: Failure = {
        "error_type": "OutcomeRefused",
        "error_message": f"the database refused to record {what}: {said}",
    }
    return plain | {"reject": True} if told.get("reject") is True else plain


def _in_ascii(said: object) -> str:
    """What was said, in printable characters that every encoding has."""
    try:
        text = str(said).strip() or type(said).__name__
    except Exception:  # noqa: BLE001  # describing must not raise
        text = type(said).__name__
    return "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text[:_MOST_SAID])
