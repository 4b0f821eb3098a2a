"""A worker's loop for async handlers: many at once, on one event loop."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from peers.context import CurrentTask, enter, enter_batch
from peers.frames import (
    Assigned,
    Begin,
    Cancel,
    Completed,
    Failed,
    Outcomes,
    Recall,
    Reply,
    Returned,
    Run,
    Stop,
    ToWorker,
)
from peers.handlers import registry
from peers.page import Page
from peers.worker.batch import Batch
from peers.worker.channel import Channel
from peers.worker.outcome import completed, failed


@dataclass(slots=True)
class _Call:
    """What a coroutine runs at the moment: the first ticket, and how far its tickets reach."""

    ticket: int
    span: int = 1


class _Watched(Coroutine[Any, Any, None]):
    """A coroutine that leaves its call on the page while it has the loop.

    So the parent can tell who crashed the worker, and who does not yield.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, None], call: _Call, page: Page) -> None:
        self._coroutine = coroutine
        self._call = call
        self._page = page

    def send(self, value: Any, /) -> Any:
        self._page.step(self._call.ticket, time.monotonic_ns(), self._call.span)
        try:
            return self._coroutine.send(value)
        finally:
            self._page.rest()

    def throw(self, error: Any, *_: Any) -> Any:
        self._page.step(self._call.ticket, time.monotonic_ns(), self._call.span)
        try:
            return self._coroutine.throw(error)
        finally:
            self._page.rest()

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Any:
        return self._coroutine.__await__()


class AsyncLoop:
    """Starts every task as it comes; the parent decides how many that are."""

    def __init__(self, channel: Channel, page: Page) -> None:
        self._channel = channel
        self._page = page
        self._loop = asyncio.new_event_loop()
        self._running: dict[int, tuple[asyncio.Task[None], CurrentTask]] = {}
        self._outcomes: list[Completed | Failed] = []

    def run(self) -> None:
        """Run what comes until the parent says stop."""
        asyncio.set_event_loop(self._loop)
        self._channel.start_reader(self._pass_on)
        self._loop.run_forever()

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
                    running, current = self._running[ticket]
                    current.cancelled = True
                    running.cancel()
            case Stop():
                self._loop.stop()
            case Begin() | Reply():
                raise AssertionError(message)  # Begin came before, replies are the channel's

    def _start(self, task: Assigned) -> None:
        current = self._channel.current_task(task, time.monotonic())
        watched = _Watched(self._run(task, current), _Call(task.ticket), self._page)
        self._running[task.ticket] = (self._loop.create_task(watched), current)

    def _start_batch(self, tasks: list[Assigned]) -> None:
        currents = {t.ticket: self._channel.current_task(t, time.monotonic()) for t in tasks}
        call = _Call(tasks[0].ticket, len(tasks))
        watched = _Watched(self._run_batch(tasks, currents, call), call, self._page)
        running = self._loop.create_task(watched)
        for ticket, current in currents.items():
            self._running[ticket] = (running, current)

    async def _run(self, task: Assigned, current: CurrentTask) -> None:
        enter(current)
        started = time.monotonic()
        limit = asyncio.timeout(task.timeout)
        try:
            handler = registry()[task.kind]
            async with limit:
                result = await handler.function(**handler.check(json.loads(task.args)))
            outcome: Completed | Failed = completed(task, time.monotonic() - started, result)
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is the task's failure
            describe = partial(_describe, limit=limit, cancelled=current.cancelled)
            outcome = describe(task, time.monotonic() - started, error)
        self._tell([outcome])

    async def _run_batch(
        self, tasks: list[Assigned], currents: dict[int, CurrentTask], call: _Call
    ) -> None:
        batch = Batch(tasks, lambda task: currents[task.ticket])
        while True:
            self._tell(batch.take_outcomes())
            if (part := batch.next()) is None:
                break
            call.ticket, call.span = part.ticket, part.span
            enter_batch(part.tasks)
            limit = asyncio.timeout(tasks[0].timeout)
            try:
                async with limit:
                    results = await registry()[tasks[0].kind].function(part.args)
            except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its tasks' failure
                stopped = isinstance(error, asyncio.CancelledError) and any(
                    current.cancelled for current in part.tasks
                )
                describe = partial(_describe, limit=limit, cancelled=stopped)
                (batch.stopped if stopped else batch.raised)(part, error, describe)
            else:
                batch.returned(part, results)

    def _tell(self, outcomes: list[Completed | Failed]) -> None:
        """Outcomes of one turn of the loop go together."""
        if outcomes and not self._outcomes:
            self._loop.call_soon(self._flush)
        for outcome in outcomes:
            del self._running[outcome.ticket]
        self._outcomes += outcomes

    def _flush(self) -> None:
        self._channel.send(Outcomes(self._outcomes))
        self._outcomes = []


def _describe(
    task: Assigned, seconds: float, error: BaseException, *, limit: asyncio.Timeout, cancelled: bool
) -> Failed:
    """What the handler raised, in the words of the scheduler where it was stopped."""
    outcome = failed(task, seconds, error)
    if isinstance(error, TimeoutError) and limit.expired():
        message = f"ran longer than its timeout of {task.timeout:g} s"
        return Failed(task.ticket, seconds, "timeout", message, outcome.traceback)
    if isinstance(error, asyncio.CancelledError) and cancelled:
        message = "stopped on request"
        return Failed(task.ticket, seconds, "cancelled", message, outcome.traceback)
    return outcome
