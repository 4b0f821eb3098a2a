"""Define the states, policies and bounds of tasks, which every part of Peers uses.

Durations are seconds, as a float.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

CONTRACT_VERSION: Final = 1
"""The version of the SQL functions that this package calls."""

JSON_MAX_BYTES: Final = 1 << 20
"""The bytes of JSON text that args, result and metadata may each have."""

NAME_MAX_LENGTH: Final = 200
"""The characters that the name of a kind or queue may have; it has at least 1."""

IDEMPOTENCY_KEY_MAX_LENGTH: Final = 500
UNIQUE_KEY_MAX_LENGTH: Final = 400
PEEK_REPORT_MAX_BYTES: Final = 64 << 10
UNIQUE_SPAN_MIN: Final = 0.001
UNIQUE_SPAN_MAX: Final = 365 * 86400.0
"""For an interval as `unique_while`, and for `wait` and `max_wait`."""

PRIORITY_MIN: Final = -(1 << 15)
PRIORITY_MAX: Final = (1 << 15) - 1
DEFAULT_PRIORITY: Final = 100
"""Tasks with a smaller priority run first."""

DEFAULT_QUEUE: Final = "default"

MAX_ATTEMPTS_MAX: Final = 1000
DEFAULT_MAX_ATTEMPTS: Final = 5
"""For a kind whose handler declares none."""

BATCH_SIZE_MAX: Final = 1000
BATCH_WAIT_MAX: Final = 4.0
"""Seconds that a task may wait for its batch to be full."""
RELEASE_AFTER: Final = 5.0
"""Seconds after which a peer releases a claimed task that no worker could start."""
assert BATCH_WAIT_MAX < RELEASE_AFTER, "a task must not be released while it waits for its batch"

TIMEOUT_MIN: Final = 0.001
TIMEOUT_MAX: Final = 30 * 86400.0


class TaskState(StrEnum):
    """The states of a task."""

    BLOCKED = "blocked"
    SCHEDULED = "scheduled"
    READY = "ready"
    RUNNING = "running"
    COMPLETED = "completed"
    DEAD = "dead"
    CANCELLED = "cancelled"


class ParentFailure(StrEnum):
    """The effect of a dead or cancelled parent on its child."""

    HOLD = "hold"
    CANCEL = "cancel"
    RUN = "run"


class UniqueWhile(StrEnum):
    """How long a task holds its unique key: until it starts, or until it ends."""

    WAITING = "waiting"
    UNFINISHED = "unfinished"


class OnDuplicate(StrEnum):
    """What a submission does while another task holds its unique key."""

    KEEP = "keep"
    REPLACE = "replace"
    DEBOUNCE = "debounce"


class TaskId(int):
    """The id of the task that a submission stands for. It is an int in all other respects.

    is_new: the submission made the task; with an `idempotency_key` or a `unique_key` it can stand
    for an older one. replaced: that one took over the args and options of this submission.
    """

    is_new: bool
    replaced: bool

    def __new__(cls, id: int, *, is_new: bool = True, replaced: bool = False) -> Self:
        """Return the id of a task."""
        self = super().__new__(cls, id)
        self.is_new = is_new
        self.replaced = replaced
        return self


@dataclass(frozen=True, slots=True)
class KindPolicy:
    """What a handler declares about its kind. None means the database's default."""

    kind: str
    max_attempts: int | None = None
    timeout: float | None = None
    backoff_base: float | None = None
    backoff_cap: float | None = None
    queue: str | None = None
    priority: int | None = None

    def as_json(self) -> dict[str, str | int | None]:
        """Return one element of the document that peers.join takes."""
        return {
            "kind": self.kind,
            "queue": self.queue,
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "timeout": _interval(self.timeout),
            "backoff_base": _interval(self.backoff_base),
            "backoff_cap": _interval(self.backoff_cap),
        }


def _interval(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.6f} seconds"
