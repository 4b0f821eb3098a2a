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
    Assign,
    AssignedTask,
    Begin,
    Cancel,
    Completed,
    Failed,
    Recall,
    Recalled,
    Reply,
    Stop,
    ToWorker,
    Unfit,
)
from peers.protocol.running_marker import RunningMarker
from peers.worker.args import load_args
from peers.worker.batch import Batch, Part
from peers.worker.channel import Channel, exit_disconnected
from peers.worker.exhaustion import CLOSED_STREAMS, StandardStreams
from peers.worker.guarded_loop import GuardedLoop, HandlerCall, current_call
from peers.worker.outcome import completed, failed, stopped


@dataclass(frozen=True, slots=True)
class _Execution:
    """A task that this loop runs."""

    coroutine: asyncio.Task[None]
    current: CurrentTask
    call: HandlerCall
    batches: list[Batch]
    """Holds the batch that the task is in, once that batch has begun."""


class AsyncLoop:
    """Starts every task as soon as it comes; the peer limits how many come."""

    def __init__(self, channel: Channel, marker: RunningMarker) -> None:
        self._channel = channel
        self._marker = marker
        self._guarded = GuardedLoop(marker)
        self._loop = self._guarded.loop
        self._streams = StandardStreams()
        self._executions: dict[int, _Execution] = {}
        self._outcomes: list[Completed | Failed] = []
        channel.limit = self._limit

    def run(self) -> None:
        """Run tasks until the peer says stop."""
        self._channel.start_reader(self._pass_on)
        self._guarded.run()

    def _pass_on(self, message: ToWorker) -> None:
        self._loop.call_soon_threadsafe(self._handle_or_exit, message)

    def _handle_or_exit(self, message: ToWorker) -> None:
        """Handle a message. If that fails, exit: the peer would wait for its tasks for ever."""
        try:
            self._handle(message)
        except BaseException:  # noqa: BLE001  # such as MemoryError
            exit_disconnected()

    def _handle(self, message: ToWorker) -> None:
        match message:
            case Assign(tasks, as_batch):
                if as_batch:
                    self._start_batch(tasks)
                else:
                    for task in tasks:
                        self._start(task)
            case Recall():
                self._channel.send(Recalled([]))  # every task starts as soon as it comes
            case Cancel(execution_id):
                if execution_id in self._executions:
                    self._cancel(execution_id, self._executions[execution_id])
            case Stop():
                self._guarded.stop()
            case Begin() | Reply():
                raise AssertionError(message)  # Begin came before, the channel takes replies

    def _limit(self, execution_id: int, seconds: float | None) -> None:
        """Set the limit of `kill_after()`, from a handler or a task that it has started."""
        call = current_call.get()
        if call is not None and call.active and execution_id in call:
            call.limit_ns = None if seconds is None else int(seconds * 1e9)
            self._marker.set_kill_at(call.kill_at_ns(time.monotonic_ns()))

    def _cancel(self, execution_id: int, execution: _Execution) -> None:
        execution.current.cancelled = True
        if execution.call.active and execution_id in execution.call:
            execution.coroutine.cancel()
            return
        removed = (batch.remove(execution_id) for batch in execution.batches)
        # if there is no batch yet, its first call leaves the task out
        self._send_outcomes([outcome for outcome in removed if outcome is not None])

    def _start(self, task: AssignedTask) -> None:
        current = self._channel.current_task(task, time.monotonic())
        call = HandlerCall(task.execution_id)
        coroutine = self._guarded.start(self._run(task, current, call), call)
        self._executions[task.execution_id] = _Execution(coroutine, current, call, [])
        coroutine.add_done_callback(partial(self._fail_unfinished, [task]))

    def _start_batch(self, tasks: list[AssignedTask]) -> None:
        currents = {t.execution_id: self._channel.current_task(t, time.monotonic()) for t in tasks}
        first, last = tasks[0].execution_id, tasks[-1].execution_id
        call = HandlerCall(first, last - first + 1)
        begun: list[Batch] = []
        coroutine = self._guarded.start(self._run_batch(tasks, currents, call, begun), call)
        for execution_id, current in currents.items():
            self._executions[execution_id] = _Execution(coroutine, current, call, begun)
        coroutine.add_done_callback(partial(self._fail_unfinished, tasks))

    def _fail_unfinished(self, tasks: list[AssignedTask], coroutine: asyncio.Task[None]) -> None:
        """Send an outcome for each task that the coroutine left without one."""
        unfinished = [task for task in tasks if task.execution_id in self._executions]
        if unfinished:
            if coroutine.cancelled():
                error: BaseException | None = asyncio.CancelledError("stopped before it began")
            else:
                error = coroutine.exception()
            if error is None:
                error = RuntimeError("the handler left no outcome")
            self._send_outcomes([failed(task, 0.0, error) for task in unfinished])

    async def _run(self, task: AssignedTask, current: CurrentTask, call: HandlerCall) -> None:
        if current.cancelled:  # before it ran for the first time
            self._send_outcomes([stopped(task, 0.0)])
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
        self._send_outcomes([outcome])

    async def _run_batch(
        self, tasks: list[AssignedTask], currents: dict[int, CurrentTask], call: HandlerCall,
        begun: list[Batch],
    ) -> None:  # fmt: skip
        batch = Batch(tasks, lambda task: currents[task.execution_id])
        begun.append(batch)
        while (part := batch.next()) is not None:
            call.execution_id, call.span, call.exit = part.execution_id, part.span, None
            call.limit_ns = None
            await self._call_handler(batch, part, call)
            self._send_outcomes(batch.take_outcomes())
            with suppress(asyncio.CancelledError):  # of a handler that cancelled its own task
                # before the next call: outcomes are sent, and other handlers run
                await asyncio.sleep(0)
        self._send_outcomes(batch.take_outcomes())

    async def _call_handler(self, batch: Batch, part: Part, call: HandlerCall) -> None:
        self._marker.start(call.execution_id, time.monotonic_ns(), call.span)
        enter_batch(part.tasks)
        limit = asyncio.timeout(part.timeout)
        try:
            with _handling(call):
                async with limit:
                    results = await registry()[part.kind].function(part.args)
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its tasks' failure
            is_stopped = issubclass(type(error), asyncio.CancelledError) and any(
                current.cancelled for current in part.tasks
            )
            describe = partial(_describe, limit=limit, cancelled=is_stopped)
            (batch.stopped if is_stopped else batch.raised)(part, call.why(error), describe)
        else:
            batch.returned(part, results)

    def _send_outcomes(self, outcomes: list[Completed | Failed]) -> None:
        """Send outcomes; those of one turn of the loop go in one message."""
        if outcomes and not self._outcomes:
            self._loop.call_soon(self._flush)
        for outcome in outcomes:
            del self._executions[outcome.execution_id]
        self._outcomes += outcomes

    def _flush(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        self._channel.send_outcomes(outcomes)
        if not self._streams.are_open():
            self._channel.send(Unfit(CLOSED_STREAMS))


@contextmanager
def _handling(call: HandlerCall) -> Iterator[None]:
    """Run the handler's own code. Cancelling it then does not cancel the batch's next call."""
    token = current_call.set(call)
    call.active = True
    try:
        yield
    finally:
        call.active = False
        current_call.reset(token)
        this = asyncio.current_task()
        while this is not None and this.cancelling():
            this.uncancel()


def _describe(
    task: AssignedTask, seconds: float, error: BaseException, *, limit: asyncio.Timeout,
    cancelled: bool,
) -> Failed:  # fmt: skip
    """Return the failure of a handler that raised, or that its timeout or a cancel stopped."""
    outcome = failed(task, seconds, error)
    if issubclass(type(error), TimeoutError) and limit.expired():
        message = f"ran longer than its timeout of {task.timeout:g} s"
        return Failed(task.execution_id, seconds, "timeout", message, outcome.traceback)
    if issubclass(type(error), asyncio.CancelledError) and cancelled:
        return stopped(task, seconds, outcome.traceback)
    return outcome
