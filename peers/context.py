"""The task that a handler is running: `current_task()`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from peers.spans import Span, timedelta_of


class Scheduler(Protocol):
    """The handler's connection to the scheduler, through the worker's peer."""

    def call(self, execution_id: int, verb: str, payload: object) -> Any:
        """Send a request and return the reply."""

    def tell(self, execution_id: int, verb: str, payload: object) -> None:
        """Send a message that has no reply."""

    def limit(self, execution_id: int, seconds: float | None) -> None:
        """Have the worker killed when its handler runs for another `seconds`; None: never."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A parent of the running task.

    `result` is what its handler returned; None unless `state` is "completed".
    """

    id: int
    kind: str
    state: str
    result: Any


@dataclass(slots=True)
class CurrentTask:
    """The task that a handler is running.

    `deadline` is on the scale of `time.monotonic()`, in seconds; None: there is no timeout.
    `cancelled` becomes true when the task is cancelled. A handler that runs long should check it
    and return. (`id`, `token`) is unique for each attempt: an external system can recognise a
    repetition by it.
    """

    id: int
    kind: str
    attempt: int
    token: str
    deadline: float | None
    execution_id: int = field(repr=False)
    _scheduler: Scheduler = field(repr=False)
    cancelled: bool = False
    _due_at: list[datetime | None] = field(default_factory=list, repr=False)
    """The due time, once it is known."""

    @property
    def due_at(self) -> datetime | None:
        """Return the due time of the schedule that submitted the task, in UTC.

        The task may run much later: after a misfire, a retry or a backfill. None: no schedule has
        submitted it. The first call blocks: one query. Raises `DatabaseUnreachable` when the peer
        has no database at the moment.
        """
        if not self._due_at:
            text = self.call("due_at", None)
            self._due_at.append(None if text is None else datetime.fromisoformat(text))
        return self._due_at[0]

    async def due_at_async(self) -> datetime | None:
        """Return the same as `due_at`, for an async handler."""
        return await asyncio.to_thread(lambda: self.due_at)

    def parents(self) -> list[Parent]:
        """Return the parents with their results, in the order of their ids (blocks: one query).

        Raises `DatabaseUnreachable` when the peer has no database at the moment.
        """
        return [Parent(**parent) for parent in self.call("parents", None)]

    async def parents_async(self) -> list[Parent]:
        """Return the same as `parents()`, for an async handler."""
        return await asyncio.to_thread(self.parents)

    def progress(self, done: int, total: int | None = None) -> None:
        """Report how far the handler is, shown by the view `peers.running`. Never blocks.

        It does not raise: a report that is no whole number is lost, and the handler goes on.
        """
        self._scheduler.tell(self.execution_id, "progress", {"done": done, "total": total})

    def kill_after(self, seconds: Span | None) -> None:
        """Have the worker killed unless the handler calls this again within `seconds`; None: never.

        seconds: also as a timedelta or a text such as "5m". Raises ValueError for another value.

        Use it for calls that may hang and cannot be interrupted, such as those of a C library. The
        attempt fails with a timeout, as with `timeout`, which covers the whole handler. For an
        async handler, only the time counts during which it blocks the event loop. Never blocks.
        """
        span = None if seconds is None else _span_of("seconds", seconds)
        if span is not None and not span > 0:
            raise ValueError(f"seconds must be more than 0, not {seconds!r}")
        self._scheduler.limit(self.execution_id, span)

    def cooldown(
        self, seconds: Span, reason: str | None = None, *, name: str | None = None
    ) -> float:
        """Start a cooldown, for up to a day, because an external system refused a call.

        It shuts the limit that this task is under: no task under it starts before the end, and a
        limit that learns lets half as many run afterwards. This task goes on; raise Snooze to run
        it again later. name: of a limit, if the task is under several, or of an external system
        that has none. For such a system, handlers ask `cooldown_left` before they call it. seconds:
        how long, also as a timedelta or a text such as "5m". Returns how many seconds the cooldown
        lasts: an earlier one may end later (blocks: one query). Raises BadLimit if the task is not
        under exactly one limit, and ValueError for an argument of a wrong type.
        """
        request = {
            "name": None if name is None else _text_of("name", name),
            "seconds": _span_of("seconds", seconds),
            "reason": None if reason is None else _text_of("reason", reason),
        }
        return float(self.call("start_cooldown", request))

    async def cooldown_async(
        self, seconds: Span, reason: str | None = None, *, name: str | None = None
    ) -> float:
        """Do the same as `cooldown()`, for an async handler."""
        return await asyncio.to_thread(self.cooldown, seconds, reason, name=name)

    def cooldown_left(self, name: str) -> float:
        """Return the seconds that the cooldown of `name` still lasts; 0.0: there is none.

        Call it before each call of a system that may have a cooldown, unless a limit of that name
        holds for this task: then no task starts meanwhile (blocks: one query).
        """
        return float(self.call("cooldown_left", {"name": _text_of("name", name)}))

    async def cooldown_left_async(self, name: str) -> float:
        """Return the same as `cooldown_left()`, for an async handler."""
        return await asyncio.to_thread(self.cooldown_left, name)

    def call(self, verb: str, payload: object) -> Any:
        """Send a request to the scheduler and return the reply (blocks)."""
        return self._scheduler.call(self.execution_id, verb, payload)


def _span_of(name: str, value: object) -> float:
    """Return a duration in seconds. Raises ValueError with the name of the argument."""
    try:
        return timedelta_of(value).total_seconds()
    except ValueError as error:
        raise ValueError(f"{name} {error}, not {value!r}") from None


def _text_of(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{name} must be a string, not {value!r}")


class Tasks(Protocol):
    """Makes the object for the task that a handler is running when the handler asks for it."""

    def current_task(self, index: int) -> CurrentTask:
        """Return the task with this index: always the same object."""


_current: Final[ContextVar[tuple[Tasks, int] | None]] = ContextVar(
    "peers_current_task", default=None
)
_batch: Final[ContextVar[Sequence[CurrentTask]]] = ContextVar("peers_current_batch", default=())


def current() -> CurrentTask | None:
    """Return the task that runs here, or the first of a batch; None outside of a handler."""
    batch, here = _batch.get(), _current.get()
    if batch:
        return batch[0]
    return None if here is None else here[0].current_task(here[1])


def current_task() -> CurrentTask:
    """Return the task that runs here.

    Raises `RuntimeError` outside of a handler, and in a batch handler, which has many.
    """
    if _batch.get():
        raise RuntimeError("a batch handler runs many tasks at once: use current_batch()")
    here = _current.get()
    if here is None:
        raise RuntimeError("current_task() is only known inside a handler that a peer is running")
    return here[0].current_task(here[1])


def current_batch() -> Sequence[CurrentTask]:
    """Return the tasks that the batch handler was called with, in the same order.

    Raises `RuntimeError` outside of a batch handler.
    """
    batch = _batch.get()
    if not batch:
        raise RuntimeError(
            "current_batch() is only known inside a batch handler that a peer is running"
        )
    return batch


def batch_size() -> int:
    """Return how many tasks the batch handler was called with; 0 outside of one."""
    return len(_batch.get())


def enter(tasks: Tasks, index: int) -> None:
    """Make this task the current one of this context, which is in no batch (for workers)."""
    _current.set((tasks, index))


def enter_batch(tasks: Sequence[CurrentTask]) -> None:
    """Make these the current ones of this context; an empty sequence leaves it (for workers)."""
    _batch.set(tasks)
