"""A worker's loop for async handlers: many at once, on one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from peers.context import CurrentTask, enter, enter_batch
from peers.frames import (
    Assigned,
    Begin,
    Cancel,
    Completed,
    Failed,
    Recall,
    Reply,
    Returned,
    Run,
    Stop,
    ToWorker,
)
from peers.handlers import registry
from peers.page import Page
from peers.worker.args import checked
from peers.worker.batch import Batch
from peers.worker.channel import Channel
from peers.worker.outcome import completed, failed, stopped


@dataclass(slots=True)
class _Call:
    """What a coroutine runs at the moment: the first ticket, and how far its tickets reach."""

    ticket: int
    span: int = 1
    active: bool = False
    """Whether the handler has it, so that cancelling reaches the handler."""

    def __contains__(self, ticket: int) -> bool:
        return self.ticket <= ticket < self.ticket + self.span


_calling: Final[ContextVar[_Call | None]] = ContextVar("peers_call", default=None)


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine that leaves its call on the page while it has the loop.

    So the parent can tell who crashed the worker, and who does not yield.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], call: _Call, page: Page) -> None:
        self._coroutine = coroutine
        self._call = call
        self._page = page

    def send(self, value: Any, /) -> Any:
        self._page.start(self._call.ticket, time.monotonic_ns(), self._call.span)
        try:
            return self._coroutine.send(value)
        finally:
            self._page.rest()

    def throw(self, error: Any, *_: Any) -> Any:
        self._page.start(self._call.ticket, time.monotonic_ns(), self._call.span)
        try:
            return self._coroutine.throw(error)
        finally:
            self._page.rest()

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        """Its name and its state, for libraries that look into tasks."""
        return getattr(self._coroutine, name)


@dataclass(frozen=True, slots=True)
class _Running:
    """A task that was given to this loop."""

    coroutine: asyncio.Task[None]
    current: CurrentTask
    call: _Call
    batch: list[Batch]
    """The batch that it is in, once that has begun."""


class AsyncLoop:
    """Starts every task as it comes; the parent decides how many that are."""

    def __init__(self, channel: Channel, page: Page) -> None:
        self._channel = channel
        self._page = page
        self._loop = asyncio.new_event_loop()
        self._loop.set_task_factory(self._watch)
        self._running: dict[int, _Running] = {}
        self._outcomes: list[Completed | Failed] = []

    def run(self) -> None:
        """Run what comes until the parent says stop."""
        asyncio.set_event_loop(self._loop)
        self._channel.start_reader(self._pass_on)
        self._loop.run_forever()

    def _watch(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        """Makes every task; those of a handler are watched as what it is itself."""
        call = _calling.get()
        if call is not None and isinstance(coroutine, Coroutine):
            coroutine = _Watched(coroutine, call, self._page)
        return asyncio.Task(coroutine, loop=loop, **options)

    def _pass_on(self, message: ToWorker) -> None:
        self._loop.call_soon_threadsafe(self._take, message)

    def _take(self, message: ToWorker) -> None:
        match message:
            case Run(tasks, together):
                if together:
                    self._start_batch(tasks)
                else:
                    for task in tasks:
                        self._start(task)
            case Recall():
                self._channel.send(Returned([]))  # everything is started as it comes
            case Cancel(ticket):
                if ticket in self._running:
                    self._cancel(ticket, self._running[ticket])
            case Stop():
                self._loop.stop()
            case Begin() | Reply():
                raise AssertionError(message)  # Begin came before, replies are the channel's

    def _cancel(self, ticket: int, running: _Running) -> None:
        running.current.cancelled = True
        if running.call.active and ticket in running.call:
            running.coroutine.cancel()
            return
        told = [outcome for batch in running.batch if (outcome := batch.drop(ticket)) is not None]
        self._tell(told)  # if there is none, it is seen before the first call

    def _start(self, task: Assigned) -> None:
        current = self._channel.current_task(task, time.monotonic())
        call = _Call(task.ticket)
        watched = _Watched(self._run(task, current, call), call, self._page)
        self._running[task.ticket] = _Running(self._loop.create_task(watched), current, call, [])

    def _start_batch(self, tasks: list[Assigned]) -> None:
        currents = {t.ticket: self._channel.current_task(t, time.monotonic()) for t in tasks}
        call = _Call(tasks[0].ticket, tasks[-1].ticket - tasks[0].ticket + 1)
        begun: list[Batch] = []
        watched = _Watched(self._run_batch(tasks, currents, call, begun), call, self._page)
        coroutine = self._loop.create_task(watched)
        for ticket, current in currents.items():
            self._running[ticket] = _Running(coroutine, current, call, begun)

    async def _run(self, task: Assigned, current: CurrentTask, call: _Call) -> None:
        if current.cancelled:  # before it had its first turn
            self._tell([stopped(task, 0.0)])
            return
        enter(current)
        started = time.monotonic()
        limit = asyncio.timeout(task.timeout)
        try:
            with _handling(call):
                async with limit:
                    result = await registry()[task.kind].function(**checked(task))
            outcome: Completed | Failed = completed(task, time.monotonic() - started, result)
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is the task's failure
            describe = partial(_describe, limit=limit, cancelled=current.cancelled)
            outcome = describe(task, time.monotonic() - started, error)
        self._tell([outcome])

    async def _run_batch(
        self, tasks: list[Assigned], currents: dict[int, CurrentTask], call: _Call,
        begun: list[Batch],
    ) -> None:  # fmt: skip
        batch = Batch(tasks, lambda task: currents[task.ticket])
        begun.append(batch)
        while (part := batch.next()) is not None:
            call.ticket, call.span = part.ticket, part.span
            self._page.start(call.ticket, time.monotonic_ns(), call.span)
            enter_batch(part.tasks)
            limit = asyncio.timeout(tasks[0].timeout)
            try:
                with _handling(call):
                    async with limit:
                        results = await registry()[tasks[0].kind].function(part.args)
            except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its tasks' failure
                is_stopped = isinstance(error, asyncio.CancelledError) and any(
                    current.cancelled for current in part.tasks
                )
                describe = partial(_describe, limit=limit, cancelled=is_stopped)
                (batch.stopped if is_stopped else batch.raised)(part, error, describe)
            else:
                batch.returned(part, results)
            self._tell(batch.take_outcomes())
            with suppress(asyncio.CancelledError):  # of a handler that cancelled its own task
                await asyncio.sleep(0)  # outcomes leave, others have a turn, before the next call
        self._tell(batch.take_outcomes())

    def _tell(self, outcomes: list[Completed | Failed]) -> None:
        """Outcomes of one turn of the loop go together."""
        if outcomes and not self._outcomes:
            self._loop.call_soon(self._flush)
        for outcome in outcomes:
            del self._running[outcome.ticket]
        self._outcomes += outcomes

    def _flush(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        self._channel.tell_outcomes(outcomes)


@contextmanager
def _handling(call: _Call) -> Iterator[None]:
    """While the handler has the call: what cancels it then is no matter of the next one."""
    token = _calling.set(call)
    call.active = True
    try:
        yield
    finally:
        call.active = False
        _calling.reset(token)
        this = asyncio.current_task()
        while this is not None and this.cancelling():
            this.uncancel()


def _describe(
    task: Assigned, seconds: float, error: BaseException, *, limit: asyncio.Timeout, cancelled: bool
) -> Failed:
    """What the handler raised, in the words of the scheduler where it was stopped."""
    outcome = failed(task, seconds, error)
    if isinstance(error, TimeoutError) and limit.expired():
        message = f"ran longer than its timeout of {task.timeout:g} s"
        return Failed(task.ticket, seconds, "timeout", message, outcome.traceback)
    if isinstance(error, asyncio.CancelledError) and cancelled:
        return stopped(task, seconds, outcome.traceback)
    return outcome
