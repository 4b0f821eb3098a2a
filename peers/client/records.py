"""The records that the client returns: tasks, their failures, and the progress of graphs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from peers.errors import Failure, TaskCancelled, TaskFailed, TaskNotFound
from peers.types import TaskId, TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task as it is in the database. Times are in UTC."""

    id: int
    kind: str
    state: TaskState
    args: dict[str, Any]
    queue: str
    priority: int
    scheduled_at: datetime
    max_attempts: int | None
    timeout: timedelta | None
    idempotency_key: str | None
    metadata: dict[str, Any] | None
    graph_id: int | None
    pending_parents: int
    attempt: int
    submitter: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    result: Any
    """The JSON that the handler returned; None unless `state` is completed."""
    failure: Failure | None
    """The last failed attempt."""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> TaskRecord:
        """Read a row of peers.task with its last failure."""
        timeout, failure = row["timeout"], row["failure"]
        return cls(
            id=row["id"],
            kind=row["kind"],
            state=TaskState(row["state"]),
            args=row["args"],
            queue=row["queue"],
            priority=row["priority"],
            scheduled_at=_time(row["scheduled_at"]),
            max_attempts=row["max_attempts"],
            timeout=None if timeout is None else timedelta(seconds=timeout),
            idempotency_key=row["idempotency_key"],
            metadata=row["metadata"],
            graph_id=row["graph_id"],
            pending_parents=row["pending_parents"],
            attempt=row["attempt"],
            submitter=row["submitter"],
            created_at=_time(row["created_at"]),
            started_at=_time_or_none(row["started_at"]),
            finished_at=_time_or_none(row["finished_at"]),
            result=row["result"],
            failure=None if failure is None else _failure(failure),
        )


@dataclass(frozen=True, slots=True)
class TaskLog:
    """What an attempt has printed and logged. Times are in UTC."""

    task_id: int
    attempt: int
    token: str
    """Of the lease under which the attempt ran."""
    peer_id: str
    host: str | None
    outcome: Literal["failed", "completed"] | None
    """None: the attempt runs, or it ended without an outcome: its peer was lost or stopped it."""
    size: int
    """How many bytes there were. More than 64 KiB are not kept."""
    is_cut: bool
    """Whether the beginning is missing."""
    text: str
    stored_at: datetime

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> TaskLog:
        """Read a row of peers.task_log."""
        return cls(
            task_id=row["task_id"], attempt=row["attempt"], token=row["token"],
            peer_id=row["peer_id"], host=row["host"], outcome=row["outcome"], size=row["size"],
            is_cut=row["cut"], text=row["text"], stored_at=_time(row["stored_at"]),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class GraphStatus:
    """How far a graph is: its tasks by state. Times are in UTC."""

    id: int
    name: str
    idempotency_key: str | None
    metadata: dict[str, Any] | None
    submitter: str
    created_at: datetime
    paused: bool
    tasks: int
    blocked: int
    scheduled: int
    ready: int
    running: int
    completed: int
    dead: int
    cancelled: int
    done_share: float
    """The share of its tasks that are completed or cancelled, 0 to 1."""
    oldest_running_since: datetime | None
    last_change: datetime | None
    """When a task was last submitted, claimed or ended."""
    finished_at: datetime | None
    eta: datetime | None
    """When it will end at its present rate; None: unknown."""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> GraphStatus:
        """Read a row of peers.graph_status."""
        return cls(
            id=row["graph_id"],
            name=row["name"],
            idempotency_key=row["idempotency_key"],
            metadata=row["metadata"],
            submitter=row["submitter"],
            created_at=_time(row["created_at"]),
            paused=row["paused"],
            tasks=row["tasks"],
            blocked=row["blocked"],
            scheduled=row["scheduled"],
            ready=row["ready"],
            running=row["running"],
            completed=row["completed"],
            dead=row["dead"],
            cancelled=row["cancelled"],
            done_share=row["done_share"],
            oldest_running_since=_time_or_none(row["oldest_running_since"]),
            last_change=_time_or_none(row["last_change"]),
            finished_at=_time_or_none(row["finished_at"]),
            eta=_time_or_none(row["eta"]),
        )


@dataclass(frozen=True, slots=True)
class SubmittedGraph:
    """The ids of a graph and of its tasks, by the names of their nodes."""

    id: int
    tasks: dict[str, TaskId]

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> SubmittedGraph:
        """Read what the statement `submit_graph` returns."""
        known = set(row["known"] or ())
        return cls(
            row["graph"],
            {name: TaskId(each, is_new=name not in known) for name, each in row["tasks"].items()},
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """The state of a task that a program waits for; `result` and `failure` once it has ended."""

    id: int
    kind: str
    state: TaskState
    result: Any
    failure: Failure | None

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Outcome:
        """Read an element of what the statement `outcomes` returns."""
        failure = row["failure"]
        return cls(
            row["id"], row["kind"], TaskState(row["state"]), row["result"],
            None if failure is None else _failure(failure),
        )  # fmt: skip

    @property
    def has_ended(self) -> bool:
        """Return whether the task is completed, dead or cancelled."""
        return self.state in _ENDED

    def value(self) -> Any:
        """Return the JSON that the handler returned. Raises TaskFailed, TaskCancelled."""
        match self.state:
            case TaskState.COMPLETED:
                return self.result
            case TaskState.CANCELLED:
                raise TaskCancelled(f"task {self.id} ({self.kind}) was cancelled")
            case TaskState.DEAD:
                why = "" if self.failure is None else f": {self.failure}"
                raise TaskFailed(
                    f"task {self.id} ({self.kind}) failed{why}",
                    "Fix the cause, then retry the task.",
                    self.failure,
                )
            case _:
                raise ValueError(f"task {self.id} has not ended, it is {self.state}")


_ENDED = frozenset({TaskState.COMPLETED, TaskState.DEAD, TaskState.CANCELLED})


def task_not_found(id: object) -> TaskNotFound:
    """Return the error for a task that is not in the database."""
    return TaskNotFound(f"there is no task {id}", "It never existed, or it was pruned.")


def not_ended(id: int, timeout: float | None) -> TimeoutError:
    """Return the error for a task that has not ended in time."""
    return TimeoutError(f"task {id} has not ended within {timeout:g} s")


def _failure(row: Mapping[str, Any]) -> Failure:
    return Failure(
        attempt=row["attempt"],
        error_type=row["error_type"],
        error_message=row["error_message"],
        traceback=row["traceback"],
        exit_signal=row["exit_signal"],
        exit_code=row["exit_code"],
        host=row["host"],
        started_at=_time(row["started_at"]),
        failed_at=_time(row["failed_at"]),
        retry_at=_time_or_none(row["retry_at"]),
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _time_or_none(text: str | None) -> datetime | None:
    return None if text is None else _time(text)
