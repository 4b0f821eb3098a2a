"""What became of a task, as it waits to be recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from peers.database.backoff import Backoff
from peers.pool.claim import TaskRun
from peers.pool.lease import Lease

Failure: TypeAlias = dict[str, object]
"""The fields that peers.fail takes for a task."""

_BUSY_MAX: Final = 3
_RETRY_BUSY_AFTER: Final = 0.1
"""Seconds, at most, until the next try when another session has locked the task. They double,
because a patient try keeps the connection from other work while it waits for the lock."""
_RETRY_BUSY_MAX: Final = 1.0
_MESSAGE_MAX: Final = 1000
"""Characters of the database's message in a failure."""
_split: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclass(slots=True, eq=False)
class Outcome:
    """A result, a failure, or (with neither) a lease to release."""

    lease: Lease
    result: bytes | None = None
    failure: Failure | None = None
    refused: bool = False
    """The database has refused this outcome, or the one that it replaces, for good."""
    refusals: int = 0
    busy: int = 0
    """How often its task was locked by another session."""
    due: float = 0.0
    _backoff: Backoff | None = None

    def was_busy(self) -> float:
        """Note that its task was locked; return the seconds until the next try."""
        self.busy += 1
        if self._backoff is None:
            self._backoff = Backoff(_RETRY_BUSY_AFTER, _RETRY_BUSY_MAX)
        return self._backoff.next()

    @property
    def is_patient(self) -> bool:
        """Return whether to wait for the sessions that have locked the task: there may be many."""
        return self.busy >= _BUSY_MAX

    @property
    def is_release(self) -> bool:
        """Return whether it releases the lease, so that the attempt does not count."""
        return self.result is None and self.failure is None

    @property
    def tasks(self) -> int:
        """Return how many tasks this is about."""
        return 1

    @property
    def size(self) -> int:
        """Return how many bytes the result has."""
        return len(self.result or b"")


@dataclass(slots=True, eq=False)
class CompletedRun:
    """The results of consecutive tasks of a claim, as one JSON array."""

    run: TaskRun
    results: bytes

    @property
    def tasks(self) -> int:
        """Return how many tasks this is about."""
        return self.run.count

    @property
    def is_patient(self) -> bool:
        """Return False: none of the tasks was locked so far."""
        return False

    @property
    def size(self) -> int:
        """Return how many bytes the results have."""
        return len(self.results)

    def has(self, task_id: int) -> bool:
        """Return whether one of these tasks has this id."""
        index = self.run.claim.find(task_id)
        return index is not None and 0 <= index - self.run.first < self.run.count

    def outcomes(self) -> list[Outcome]:
        """Return an outcome for each task."""
        results = _split(self.results)
        return [
            Outcome(lease, result=bytes(result))
            for lease, result in zip(self.run.leases(), results, strict=True)
        ]


def plain_failure(outcome: Outcome, message: str) -> Failure:
    """Return a failure that any database can hold, to replace an outcome that this one refused."""
    failure = outcome.failure or {}
    what = in_ascii(failure["error_type"]) if "error_type" in failure else "the result"
    plain: Failure = {
        "error_type": "OutcomeRefused",
        "error_message": f"the database refused to record {what}: {message}",
    }
    return plain | {"reject": True} if failure.get("reject") is True else plain


def in_ascii(value: object) -> str:
    """Return the value's text in printable characters that every encoding has."""
    try:
        text = str(value).strip() or type(value).__name__
    except Exception:  # noqa: BLE001  # describing must not raise
        text = type(value).__name__
    return "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text[:_MESSAGE_MAX])
