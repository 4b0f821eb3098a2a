"""The rows that the functions of the database return. Durations are in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from peers.types import TaskState


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


class HeartbeatReply(NamedTuple):
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
