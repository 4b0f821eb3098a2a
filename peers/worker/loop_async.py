"""A worker's loop for async handlers: many at once, on one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from peers.context import CurrentTask, enter, enter_batch
from peers.handlers import registry
from peers.protocol.messages import (
    Assigned,
    Begin,
    Cancel,
    Completed,
    Failed,
    Recall,
    Reply,
    Requeued,
    Run,
    Stop,
    ToWorker,
    Unfit,
)
from peers.protocol.running_marker import Page
from peers.worker.args import load_args
from peers.worker.batch import Batch
from peers.worker.channel import Channel, give_up
from peers.worker.fitness import CLOSED_STREAMS, StandardStreams
from peers.worker.guarded_loop import Call, GuardedLoop, calling
from peers.worker.outcome import completed, failed, stopped


@dataclass(frozen=True, slots=True)
class _Running:
    """A task that was given to this loop."""

    coroutine: asyncio.Task[None]
    current: CurrentTask
    call: Call
    batch: list[Batch]
    """The batch that it is in, once that has begun."""


class AsyncLoop:
    """Starts every task as it comes; the parent decides how many that are."""

    def __init__(self, channel: Channel, page: Page) -> None:
        self._channel = channel
        self._page = page
        self._guarded = GuardedLoop(page)
        self._loop = self._guarded.loop
        self._streams = StandardStreams()
        self._running: dict[int, _Running] = {}
        self._outcomes: list[Completed | Failed] = []
        channel.limit = self._limit

    def run(self) -> None:
        """Run what comes until the parent says stop."""
        self._channel.start_reader(self._pass_on)
        self._guarded.run()

    def _pass_on(self, message: ToWorker) -> None:
        self._loop.call_soon_threadsafe(self._take_or_end, message)

    def _take_or_end(self, message: ToWorker) -> None:
        """Take a message in; end the process if that fails, or its tasks would run for ever."""
        try:
            self._take(message)
        except BaseException:  # noqa: BLE001  # no memory, say
            give_up()

    def _take(self, message: ToWorker) -> None:
        match message:
            case Run(tasks, together):
                if together:
                    self._start_batch(tasks)
                else:
                    for task in tasks:
                        self._start(task)
            case Recall():
                self._channel.send(Requeued([]))  # everything is started as it comes
            case Cancel(ticket):
                if ticket in self._running:
                    self._cancel(ticket, self._running[ticket])
            case Stop():
                self._guarded.stop()
            case Begin() | Reply():
                raise AssertionError(message)  # Begin came before, replies are the channel's

    def _limit(self, ticket: int, seconds: float | None) -> None:
        """From a handler, or from a task that it has started."""
        call = calling.get()
        if call is not None and call.active and ticket in call:
            call.limit_ns = None if seconds is None else int(seconds * 1e9)
            self._page.limit(call.due_ns(time.monotonic_ns()))

    def _cancel(self, ticket: int, running: _Running) -> None:
        running.current.cancelled = True
        if running.call.active and ticket in running.call:
            running.coroutine.cancel()
            return
        told = [outcome for batch in running.batch if (outcome := batch.drop(ticket)) is not None]
        self._tell(told)  # if there is none, it is seen before the first call

    def _start(self, task: Assigned) -> None:
        current = self._channel.current_task(task, time.monotonic())
        call = Call(task.ticket)
        coroutine = self._guarded.start(self._run(task, current, call), call)
        self._running[task.ticket] = _Running(coroutine, current, call, [])
        coroutine.add_done_callback(partial(self._tell_lost, [task]))

    def _start_batch(self, tasks: list[Assigned]) -> None:
        currents = {t.ticket: self._channel.current_task(t, time.monotonic()) for t in tasks}
        call = Call(tasks[0].ticket, tasks[-1].ticket - tasks[0].ticket + 1)
        begun: list[Batch] = []
        coroutine = self._guarded.start(self._run_batch(tasks, currents, call, begun), call)
        for ticket, current in currents.items():
            self._running[ticket] = _Running(coroutine, current, call, begun)
        coroutine.add_done_callback(partial(self._tell_lost, tasks))

    def _tell_lost(self, tasks: list[Assigned], coroutine: asyncio.Task[None]) -> None:
        """Tell an outcome for each task that the coroutine left without one."""
        lost = [task for task in tasks if task.ticket in self._running]
        if lost:
            if coroutine.cancelled():
                error: BaseException | None = asyncio.CancelledError("stopped before it began")
            else:
                error = coroutine.exception()
            if error is None:
                error = RuntimeError("the handler left no outcome")
            self._tell([failed(task, 0.0, error) for task in lost])

    async def _run(self, task: Assigned, current: CurrentTask, call: Call) -> None:
        if current.cancelled:  # before it had its first turn
            self._tell([stopped(task, 0.0)])
            return
        enter(current)
        started = time.monotonic()
        limit = asyncio.timeout(task.timeout)
        try:
            with _handling(call):
                async with limit:
                    result = await registry()[task.kind].function(**load_args(task))
            outcome: Completed | Failed = completed(task, time.monotonic() - started, result)
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is the task's failure
            describe = partial(_describe, limit=limit, cancelled=current.cancelled)
            outcome = describe(task, time.monotonic() - started, call.why(error))
        self._tell([outcome])

    async def _run_batch(
        self, tasks: list[Assigned], currents: dict[int, CurrentTask], call: Call,
        begun: list[Batch],
    ) -> None:  # fmt: skip
        batch = Batch(tasks, lambda task: currents[task.ticket])
        begun.append(batch)
        while (part := batch.next()) is not None:
            call.ticket, call.span, call.exit = part.ticket, part.span, None
            call.limit_ns = None
            self._page.start(call.ticket, time.monotonic_ns(), call.span)
            enter_batch(part.tasks)
            limit = asyncio.timeout(tasks[0].timeout)
            try:
                with _handling(call):
                    async with limit:
                        results = await registry()[tasks[0].kind].function(part.args)
            except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its tasks' failure
                is_stopped = issubclass(type(error), asyncio.CancelledError) and any(
                    current.cancelled for current in part.tasks
                )
                describe = partial(_describe, limit=limit, cancelled=is_stopped)
                (batch.stopped if is_stopped else batch.raised)(part, call.why(error), describe)
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
        if not self._streams.are_open():
            self._channel.send(Unfit(CLOSED_STREAMS))


@contextmanager
def _handling(call: Call) -> Iterator[None]:
    """While the handler has the call: what cancels it then is no matter of the next one."""
    token = calling.set(call)
    call.active = True
    try:
        yield
    finally:
        call.active = False
        calling.reset(token)
        this = asyncio.current_task()
        while this is not None and this.cancelling():
            this.uncancel()


def _describe(
    task: Assigned, seconds: float, error: BaseException, *, limit: asyncio.Timeout, cancelled: bool
) -> Failed:
    """What the handler raised, in the words of the scheduler where it was stopped."""
    outcome = failed(task, seconds, error)
    if issubclass(type(error), TimeoutError) and limit.expired():
        message = f"ran longer than its timeout of {task.timeout:g} s"
        return Failed(task.ticket, seconds, "timeout", message, outcome.traceback)
    if issubclass(type(error), asyncio.CancelledError) and cancelled:
        return stopped(task, seconds, outcome.traceback)
    return outcome
