"""A worker's loop for async handlers: many at once, on one event loop."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import Final

from peers.context import enter, enter_batch
from peers.handlers import registry
from peers.protocol.messages import (
    NOT_STARTED,
    Assign,
    Begin,
    Cancel,
    Completed,
    Failed,
    Peek,
    Recall,
    Recalled,
    Reply,
    Stack,
    Stop,
    ToWorker,
    Unfit,
)
from peers.protocol.running_marker import RunningMarker
from peers.protocol.started_marks import StartedMarks
from peers.worker import output
from peers.worker.assigned import Run
from peers.worker.async_execution import SingleTask, SlotQueue, TaskBatch, executions_of
from peers.worker.batch import Batch, Part
from peers.worker.channel import Channel, exit_disconnected
from peers.worker.exhaustion import CLOSED_STREAMS, StandardStreams
from peers.worker.guarded_loop import GuardedLoop
from peers.worker.handler_call import HandlerCall, current_call
from peers.worker.outcome import encode_result, failed, failed_async, stopped
from peers.worker.pending_outcomes import PendingOutcomes
from peers.worker.stacks import coroutine_stacks, thread_stacks

_FLUSH_AFTER: Final = 0.002
"""How long results may wait for others, in seconds, while the slots have their next tasks here.

A crash loses the results of this time, and their tasks are repeated.
"""
_SLOW: Final = 0.1
"""The result of a handler that took longer is sent at once: to repeat it would cost too much."""


class AsyncLoop:
    """Starts tasks as soon as there are slots for them, which the peer grants."""

    def __init__(self, channel: Channel, marker: RunningMarker, marks: StartedMarks) -> None:
        self._channel = channel
        self._marker = marker
        self._marks = marks
        self._guarded = GuardedLoop(marker)
        self._loop = self._guarded.loop
        self._streams = StandardStreams()
        self._queues: dict[str, SlotQueue] = {}
        self._executions: dict[int, SingleTask | TaskBatch] = {}
        """What waits and what runs, by the execution ids."""
        self._outcomes = PendingOutcomes()
        self._turn_has_outcomes = False
        self._is_urgent = False
        """The outcomes are sent at the end of this turn, whatever was sent before."""
        self._flushed_at = 0.0
        self._flush_timer: asyncio.TimerHandle | None = None
        channel.limit = self._limit
        channel.stacks = self._stacks

    def run(self) -> None:
        """Run tasks until the peer says stop."""
        self._channel.start_reader(self._pass_on)
        self._guarded.run()

    # ------------------------------------------------------------------------- messages of the peer

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
            case Assign():
                self._assign(message)
            case Recall():
                self._return_waiting()
            case Cancel(execution_id):
                if execution_id in self._executions:
                    self._cancel(execution_id, self._executions[execution_id])
            case Stop():
                self._flush()
                self._guarded.stop()
            case Begin() | Reply() | Peek():
                raise AssertionError(message)  # Begin came before, the channel takes the others

    def _stacks(self, execution_id: int) -> tuple[list[Stack], str]:
        """Return the stacks of a handler. The reader thread calls this, also while the loop hangs.

        The main thread's stack shows which handler has the loop.
        """
        execution = self._executions.get(execution_id)
        if execution is None:
            return thread_stacks(), "the handler has just ended"
        if execution.coroutine is None:
            return thread_stacks(), NOT_STARTED
        return coroutine_stacks(self._loop, execution.call) + thread_stacks(), ""

    def _assign(self, message: Assign) -> None:
        queue = self._queues.setdefault(message.queue, SlotQueue())
        queue.slots = message.slots
        runs = [Run(each, message.mark) for each in message.runs]
        executions = list(executions_of(runs, queue, self._channel, as_batch=message.as_batch))
        for execution in executions:
            for execution_id in execution.execution_ids:
                self._executions[execution_id] = execution
        queue.waiting.extend(executions)
        self._start_waiting(queue)

    def _limit(self, execution_id: int, seconds: float | None) -> None:
        """Set the limit of `kill_after()`, from a handler or a task that it has started."""
        call = current_call.get()
        if call is not None and call.active and execution_id in call:
            call.limit_ns = None if seconds is None else int(seconds * 1e9)
            self._marker.set_kill_at(call.kill_at_ns(time.monotonic_ns()))

    def _cancel(self, execution_id: int, execution: SingleTask | TaskBatch) -> None:
        execution.current_task(execution_id - execution.execution_id).cancelled = True
        if execution.coroutine is None:
            return  # it waits: if it is not recalled before, it ends when it would begin
        if execution.call.active and execution_id in execution.call:
            execution.coroutine.cancel()
        elif isinstance(execution, TaskBatch) and execution.batch is not None:
            removed = execution.batch.remove(execution_id)
            self._send_outcomes([] if removed is None else [removed])
        # if the batch has not begun, its first call leaves the task out

    def _return_waiting(self) -> None:
        """Return the tasks that have not started."""
        returned = []
        for queue in self._queues.values():
            for execution in queue.waiting:
                returned.append((execution.execution_id, execution.count))
                for execution_id in execution.execution_ids:
                    del self._executions[execution_id]
            queue.waiting.clear()
        self._channel.send(Recalled(returned))

    # ------------------------------------------------------------------------------------ handlers

    def _start_waiting(self, queue: SlotQueue) -> None:
        while queue.waiting and queue.running < queue.slots:
            queue.running += 1
            execution = queue.waiting.popleft()
            execution.started = time.monotonic()
            self._marks.started(execution.mark, execution.execution_ids[-1])
            if isinstance(execution, SingleTask):
                run = self._run(execution)
            else:
                run = self._run_batch(execution)
            execution.coroutine = self._guarded.start(
                run, execution.call, partial(self._fail_unfinished, execution)
            )

    def _fail_unfinished(self, execution: SingleTask | TaskBatch, error: BaseException) -> None:
        """Fail the tasks that have no outcome, because their coroutine raised."""
        tasks = [
            execution.task(index)
            for index, execution_id in enumerate(execution.execution_ids)
            if execution_id in self._executions
        ]
        self._send_outcomes([failed(task, 0.0, error) for task in tasks])

    async def _run(self, execution: SingleTask) -> None:
        if execution.is_cancelled:  # before it ran for the first time
            self._send_outcomes([stopped(execution.task(), 0.0)])
            return
        call, kind = execution.call, execution.kind
        enter(execution, 0)
        started = time.monotonic()
        limit = None if execution.timeout is None else asyncio.timeout(execution.timeout)
        try:
            with call:
                handler = registry()[kind]
                if limit is None:
                    result = await handler.function(**execution.args())
                else:
                    async with limit:
                        result = await handler.function(**execution.args())
            result = encode_result(kind, result)
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is the task's failure
            describe = partial(failed_async, limit=limit, cancelled=execution.is_cancelled)
            outcome = describe(execution.task(), time.monotonic() - started, call.why(error))
            self._send_outcomes([outcome])
        else:
            seconds = time.monotonic() - started
            self._is_urgent = self._is_urgent or seconds > _SLOW
            self._outcomes.completed(execution.run, execution.index, seconds, result)
            self._ended(execution.execution_id)

    async def _run_batch(self, execution: TaskBatch) -> None:
        call = execution.call
        execution.batch = batch = Batch(execution.tasks, execution.current_of)
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
        output.begin(part.kind, part.execution_id, part.span)
        limit = asyncio.timeout(part.timeout)
        try:
            with call:
                async with limit:
                    results = await registry()[part.kind].function(part.args)
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its tasks' failure
            is_stopped = issubclass(type(error), asyncio.CancelledError) and any(
                current.cancelled for current in part.tasks
            )
            describe = partial(failed_async, limit=limit, cancelled=is_stopped)
            (batch.stopped if is_stopped else batch.raised)(part, call.why(error), describe)
        else:
            batch.returned(part, results)

    # ------------------------------------------------------------------------------------ outcomes

    def _send_outcomes(self, outcomes: list[Completed | Failed]) -> None:
        """Send outcomes at the end of this turn of the loop, and start what waits."""
        self._channel.exit_if_forked()  # before what waits starts in it as well
        self._is_urgent = True
        self._outcomes.add(outcomes)
        if any(isinstance(outcome, Failed) and outcome.exhausted for outcome in outcomes):
            self._flush()  # before the others, so that the peer does not assign them here again
            self._return_waiting()  # they would fail here too, and another worker replaces us
        for outcome in outcomes:
            self._ended(outcome.execution_id)

    def _ended(self, execution_id: int) -> None:
        """Start what waits, and send the outcome of this task with those of other ones."""
        if not self._turn_has_outcomes:  # sent before what starts now gets the loop
            self._turn_has_outcomes = True
            self._loop.call_soon(self._end_turn)
        execution = self._executions.pop(execution_id)
        execution.unfinished -= 1
        queue = execution.queue
        if not execution.unfinished:
            queue.running -= 1
            self._start_waiting(queue)
        if not queue.waiting:
            self._is_urgent = True

    def _end_turn(self) -> None:
        """Send the outcomes of this turn of the loop, or leave them to the timer."""
        self._turn_has_outcomes = False
        rest = self._flushed_at + _FLUSH_AFTER - time.monotonic()
        if self._is_urgent or rest <= 0:
            self._flush()
        elif self._flush_timer is None:
            self._flush_timer = self._loop.call_later(rest, self._flush)

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self._is_urgent = False
        if self._outcomes:
            output.end_lines(self._executions)
            self._channel.send_outcomes(self._outcomes.take())
            self._flushed_at = time.monotonic()
            if not self._streams.are_open():
                self._channel.send(Unfit(CLOSED_STREAMS))
