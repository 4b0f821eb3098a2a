"""A worker's loop for async handlers: many at once, on one event loop."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from typing import Any

from peers.context import CurrentTask, enter
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
from peers.worker.channel import Channel
from peers.worker.outcome import completed, failed


class _Watched(Coroutine[Any, Any, None]):
    """A coroutine that leaves its ticket on the page while it has the loop.

    So the parent can tell who crashed the worker, and who does not yield.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, None], ticket: int, page: Page) -> None:
        self._coroutine = coroutine
        self._ticket = ticket
        self._page = page

    def send(self, value: Any, /) -> Any:
        self._page.step(self._ticket, time.monotonic_ns())
        try:
            return self._coroutine.send(value)
        finally:
            self._page.rest()

    def throw(self, error: Any, *_: Any) -> Any:
        self._page.step(self._ticket, time.monotonic_ns())
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
            case Run(tasks):
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
        watched = _Watched(self._run(task, current), task.ticket, self._page)
        self._running[task.ticket] = (self._loop.create_task(watched), current)

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
            seconds = time.monotonic() - started
            outcome = failed(task, seconds, error)
            if isinstance(error, TimeoutError) and limit.expired():
                message = f"ran longer than its timeout of {task.timeout:g} s"
                outcome = Failed(task.ticket, seconds, "timeout", message, outcome.traceback)
            elif isinstance(error, asyncio.CancelledError) and current.cancelled:
                outcome = Failed(
                    task.ticket, seconds, "cancelled", "stopped on request", outcome.traceback
                )
        del self._running[task.ticket]
        self._tell(outcome)

    def _tell(self, outcome: Completed | Failed) -> None:
        """Outcomes of one turn of the loop go together."""
        if not self._outcomes:
            self._loop.call_soon(self._flush)
        self._outcomes.append(outcome)

    def _flush(self) -> None:
        self._channel.send(Outcomes(self._outcomes))
        self._outcomes = []
