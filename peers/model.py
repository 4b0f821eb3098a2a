"""What passes between the layers, and over the pipe to the workers: plain values, no I/O.

Durations are seconds, as a float.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

CONTRACT_VERSION: Final = 1
"""The version of the SQL functions that this package calls."""

JSON_MAX_BYTES: Final = 1 << 20
"""args, result and metadata: 1 MiB of JSON text each."""

NAME_MAX_LENGTH: Final = 200
"""Kinds and queues: 1 to 200 characters."""

IDEMPOTENCY_KEY_MAX_LENGTH: Final = 500

PRIORITY_MIN: Final = -(1 << 15)
PRIORITY_MAX: Final = (1 << 15) - 1
DEFAULT_PRIORITY: Final = 100
"""Smaller runs first."""

DEFAULT_QUEUE: Final = "default"

MAX_ATTEMPTS_MAX: Final = 1000
DEFAULT_MAX_ATTEMPTS: Final = 5
"""For a kind whose handler declares none."""

BATCH_SIZE_MAX: Final = 1000
BATCH_WAIT_MAX: Final = 4.0
"""Seconds; what has been claimed and waits for 5 s is given back."""

TIMEOUT_MIN: Final = 0.001
TIMEOUT_MAX: Final = 30 * 86400.0


class TaskState(StrEnum):
    """Where a task is in its life."""

    BLOCKED = "blocked"
    SCHEDULED = "scheduled"
    READY = "ready"
    RUNNING = "running"
    COMPLETED = "completed"
    DEAD = "dead"
    CANCELLED = "cancelled"


class ParentFailure(StrEnum):
    """What a parent's death or cancellation does to the child."""

    HOLD = "hold"
    CANCEL = "cancel"
    RUN = "run"


class Claimed(NamedTuple):
    """A task that was leased to this peer."""

    task_id: int
    token: UUID
    attempt: int
    kind: str
    args: bytes
    """JSON text of an object, never parsed by the parent process."""
    timeout: float | None
    priority: int


Verdict = Literal["stale", "already", "busy", "too large"]


class Unsettled(NamedTuple):
    """An outcome that was not recorded, and why.

    stale: the lease is gone. already: this very outcome was recorded before. busy: ask again in a
    moment. too large: the result exceeds 1 MiB, fail the task instead.
    """

    task_id: int
    token: UUID
    verdict: Verdict


class Heartbeat(NamedTuple):
    """What the database answers to a beat; `alive` is False when the leases are gone."""

    contract_version: int
    alive: bool
    cancelled: frozenset[tuple[int, UUID]]
    """(task_id, token) of what runs here and shall stop."""


class Reclaimed(NamedTuple):
    """A lease that was taken back from a peer that stopped sending heartbeats."""

    task_id: int
    attempt: int
    lost_peer_id: UUID
    host: str | None


class ParentResult(NamedTuple):
    """A parent of a task; `result` is JSON text, None unless the parent is completed."""

    parent_id: int
    kind: str
    state: TaskState
    result: bytes | None


class Unrunnable(NamedTuple):
    """A kind with ready tasks in a queue, and no live peer that serves both."""

    queue: str
    kind: str
    tasks: int
    oldest_ready_at: datetime


class Pruned(NamedTuple):
    """What one call of prune did; call again until it has `finished`."""

    looked_at: int
    deleted: int
    finished: bool


class Problem(NamedTuple):
    """A difference between what the triggers keep and a recount."""

    task_id: int
    problem: str
    mended: bool


@dataclass(frozen=True, slots=True)
class KindPolicy:
    """What a handler declares about its kind; None leaves a value to the database's default."""

    kind: str
    max_attempts: int | None = None
    timeout: float | None = None
    backoff_base: float | None = None
    backoff_cap: float | None = None

    def as_json(self) -> dict[str, str | int | None]:
        """One element of the document that peers.join takes."""
        return {
            "kind": self.kind,
            "max_attempts": self.max_attempts,
            "timeout": _interval(self.timeout),
            "backoff_base": _interval(self.backoff_base),
            "backoff_cap": _interval(self.backoff_cap),
        }


def _interval(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.6f} seconds"
