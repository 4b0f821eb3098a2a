"""Define the rows that the functions of the database return. Durations are in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from peers.types import TaskState


@dataclass(slots=True)  # frozen would cost a call for each field
class ClaimReply:
    """The reply to one claim: all of its tasks have one token. The arrays stay as they came."""

    token: bytes
    """16 bytes; b"": there was nothing to claim."""
    count: int
    task_ids: bytes
    """A bigint[] in binary form, in the order in which the tasks are to start."""
    attempts: bytes
    """A smallint[] in binary form, of one element if all are the same, else one for each task."""
    kinds: tuple[str, ...]
    """One if all are the same, else one for each task."""
    priorities: tuple[int, ...]
    """One if all are the same, else one for each task."""
    timeouts: tuple[float | None, ...] | None
    """None if no task has a timeout of its own, else one for each task."""
    args: bytes
    """A JSON array of objects, in the same order. The peer process never parses it."""
    resume: bytes | None
    """Where the next claim of the queue is to begin. Only the database reads it."""
    more: bool
    """Call again at once: the claim spent its limits, and there may be more."""
    limited: bool = False
    """Some kinds of the peer are under limits: claim with `claim_limited`."""
    is_limited: bool = False
    """These tasks are under limits, all with the same keys."""
    most_running: int | None = None
    """How many of them may run at once; None: all."""
    start_in: float | None = None
    """They must not start before; None: they may start now."""
    waits: str | None = None
    """Why limited tasks wait: full, busy, more or slots (see peers.claim_limited)."""
    opens_in: float | None = None
    """When a limit opens."""
    key: int | None = None
    """The hash of the limits and keys of these tasks, for `try_keys` of a later claim."""
    limited_resume: bytes | None = None
    """Where the next claim of limited tasks is to begin. Only the database reads it."""
    ready_at: bytes = b""
    """When each task became ready: a timestamptz[] in binary form, of microseconds."""
    claimed_at: int = 0
    """The time of the claim on the same clock."""


class Claimed(NamedTuple):
    """A task that was leased to this peer."""

    task_id: int
    token: UUID
    attempt: int
    kind: str
    args: bytes
    """JSON text of an object. The peer process never parses it."""
    timeout: float | None
    priority: int


Verdict = Literal[
    "stale", "already", "busy", "too large", "retried", "dead", "cancelled", "snoozed"
]


class Unrecorded(NamedTuple):
    """An outcome that was not recorded, and why; or a failure that was, and what follows from it.

    stale: the lease is gone. already: this outcome was recorded before. busy: try again in a
    moment. too large: the result exceeds 1 MiB; fail the task instead. retried, dead, cancelled,
    snoozed: the failure was recorded, and this became of the task.
    """

    task_id: int
    token: UUID
    verdict: Verdict


class PeekRequest(NamedTuple):
    """An operator asks what the handler of a running task does."""

    id: int
    task_id: int
    token: UUID


class HeartbeatReply(NamedTuple):
    """The database's reply to a heartbeat. `alive` is False if the leases are gone."""

    contract_version: int
    alive: bool
    cancelled: frozenset[tuple[int, UUID]]
    """(task_id, token) of the running tasks that this peer is to stop."""
    peeks: tuple[PeekRequest, ...] = ()
    """What operators ask about running tasks, and this peer has not replied to."""


class Promoted(NamedTuple):
    """What was promoted. Times are seconds since 1970 on the database's clock."""

    promoted: int
    """How many rows were handled. Call again while that is the most that was allowed."""
    now: float
    next_due_at: float
    """When the next scheduled task is due; infinity: there is none."""


class Reclaimed(NamedTuple):
    """A lease that was taken back from a lost peer."""

    task_id: int
    kind: str
    attempt: int
    token: UUID
    lost_peer_id: UUID
    host: str | None
    queue: str
    outcome: str
    """What became of the task: retried, dead or cancelled."""


class Reclaims(NamedTuple):
    """The reply to a reclaim."""

    tasks: list[Reclaimed]
    next_in: float
    """In how many seconds there may be more; infinity: there is no other peer."""


class Sibling(NamedTuple):
    """Another peer on this peer's host, with what is needed to recognize its process."""

    peer_id: UUID
    pid: int
    process_start: int
    """In clock ticks since the system started."""
    liveness_lock: str


class UnstartedTasks(NamedTuple):
    """Consecutive tasks of one claim that no handler has started.

    `first` is the index of the first one in the claim.
    """

    token: bytes
    first: int
    number: int


class LostPeer(NamedTuple):
    """A peer that is lost. `released`: how many tasks it had not started; they are ready again."""

    peer_id: UUID
    host: str | None
    released: int


class ParentResult(NamedTuple):
    """A parent of a task. `result` is JSON text, or None if the parent is not completed."""

    parent_id: int
    kind: str
    state: TaskState
    result: bytes | None


class Unrunnable(NamedTuple):
    """A kind with ready tasks in a queue that no live peer serves for that kind."""

    queue: str
    kind: str
    tasks: int
    oldest_ready_at: datetime


class DeclaredLimit(NamedTuple):
    """A limit that a declaration has changed."""

    name: str
    change: str
    """created, changed or refused."""
    error: str
    """Why it was refused."""


class Pruned(NamedTuple):
    """The result of one call of prune. Call again until it has `finished`."""

    looked_at: int
    deleted: int
    finished: bool


class PrunedDead(NamedTuple):
    """The result of one call of prune_dead. Call again until it has `finished`."""

    deleted: int
    children: int
    """How many tasks that waited for them are cancelled."""
    finished: bool


class DueSchedules(NamedTuple):
    """The schedules that are due. Times are seconds since 1970 on the database's clock."""

    schedules: list[dict[str, Any]]
    """Those to fire, as `peers.due_schedules` describes them."""
    backfills: list[dict[str, Any]]
    late: list[dict[str, Any]]
    """The alerts that this call has raised."""
    now: float
    next_at: float
    """When to ask again; infinity: there is no schedule."""
    then_at: float
    """When the first one is due of those that are not yet; infinity: never."""


class ScheduleRun(NamedTuple):
    """What became of a due time of a schedule."""

    schedule: str
    due_at: datetime | None
    """None: the next due time could not be computed."""
    outcome: str
    """fired, skipped or failed."""
    reason: str | None
    task_id: int | None


class Problem(NamedTuple):
    """A difference between what the triggers keep and a recount."""

    task_id: int
    problem: str
    repaired: bool
