"""A worker's loop for sync handlers: one at a time, in the main thread."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Final

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
from peers.worker.batch import Batch
from peers.worker.channel import Channel
from peers.worker.exhaustion import CLOSED_STREAMS, StandardStreams
from peers.worker.outcome import completed, failed

# Outcomes of quick handlers are sent together. A crash loses only the outcomes of this time, and
# their tasks are repeated.
_FLUSH_AFTER_NS: Final = 5_000_000
# Before a handler that takes longer than this, outcomes are sent at once.
_SLOW_NS: Final = 1_000_000
assert _SLOW_NS < _FLUSH_AFTER_NS


class SyncLoop:
    """Runs tasks in the order in which they come; the reader thread returns recalled tasks."""

    def __init__(self, channel: Channel, marker: RunningMarker) -> None:
        self._channel = channel
        self._marker = marker
        self._inbox: deque[AssignedTask | list[AssignedTask] | None] = deque()
        self._wakeups: SimpleQueue[None] = SimpleQueue()
        self._current: Sequence[CurrentTask] = ()
        self._cancelled: set[int] = set()
        self._outcomes: list[Completed | Failed] = []
        self._flushed_at = 0
        self._slow: set[str] = set()
        self._streams = StandardStreams()
        channel.limit = self._limit

    def run(self) -> None:
        """Run tasks until the peer says stop."""
        self._channel.start_reader(self._handle)
        while (work := self._next()) is not None:
            if isinstance(work, AssignedTask):
                self._run(work)
            else:
                self._run_batch(work)
        self._flush()

    def _handle(self, message: ToWorker) -> None:
        """Handle a message in the reader thread, while a handler may be running."""
        match message:
            case Assign(tasks, as_batch):
                # all at once, so that the outcomes of an assignment can go in one message
                self._inbox.extend([tasks] if as_batch else tasks)
                self._wakeups.put(None)
            case Recall():
                self._return_unstarted()
            case Cancel(execution_id):
                self._cancelled.add(execution_id)
                self._mark_cancelled()
            case Stop():
                self._inbox.append(None)
                self._wakeups.put(None)
            case Begin() | Reply():
                raise AssertionError(message)  # Begin came before, the channel takes replies

    def _mark_cancelled(self) -> None:
        for current in self._current:
            current.cancelled = current.cancelled or current.execution_id in self._cancelled

    def _limit(self, execution_id: int, seconds: float | None) -> None:
        """Set the limit of `kill_after()`; ignore a thread whose handler has ended."""
        if any(current.execution_id == execution_id for current in self._current):
            self._marker.set_kill_at(
                None if seconds is None else time.monotonic_ns() + int(seconds * 1e9)
            )

    def _return_unstarted(self) -> None:
        execution_ids: list[int] = []
        stopped = False
        with contextlib.suppress(IndexError):
            while True:
                work = self._inbox.popleft()
                stopped = stopped or work is None
                if work is not None:
                    tasks = [work] if isinstance(work, AssignedTask) else work
                    execution_ids += [task.execution_id for task in tasks]
        if stopped:
            self._inbox.append(None)
        self._channel.send(Recalled(execution_ids))

    def _next(self) -> AssignedTask | list[AssignedTask] | None:
        while True:
            try:
                return self._inbox.popleft()
            except IndexError:
                self._flush()
                self._wakeups.get()

    def _run(self, task: AssignedTask) -> None:
        if self._outcomes and task.kind in self._slow:
            self._flush()
        started = time.monotonic_ns()
        self._marker.start(task.execution_id, started)
        current = self._make_current(task, started)
        self._current = (current,)
        self._mark_cancelled()
        enter(current)
        try:
            result = registry()[task.kind].function(**load_args(task))
            finished = time.monotonic_ns()
            outcome: Completed | Failed = completed(task, (finished - started) / 1e9, result)
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is the task's failure
            finished = time.monotonic_ns()
            outcome = failed(task, (finished - started) / 1e9, error)
        self._current = ()
        self._cancelled.discard(task.execution_id)
        self._outcomes.append(outcome)
        if finished - started > _SLOW_NS:
            self._slow.add(task.kind)
        else:
            self._slow.discard(task.kind)
        if finished - self._flushed_at > _FLUSH_AFTER_NS:
            self._flush()
        if isinstance(outcome, Failed) and outcome.exhausted:
            self._spare_others()

    def _run_batch(self, tasks: list[AssignedTask]) -> None:
        self._flush()  # a crash of what comes next must not lose a finished outcome
        # checking args runs user code, which may also hang or crash
        now = time.monotonic_ns()
        first, last = tasks[0].execution_id, tasks[-1].execution_id
        self._marker.start(first, now, last - first + 1)
        batch = Batch(tasks, lambda task: self._make_current(task, now))
        self._current = batch.tasks
        self._mark_cancelled()
        while (part := batch.next()) is not None:
            self._outcomes += batch.take_outcomes()
            self._flush()
            self._marker.start(part.execution_id, part.started_ns, part.span)
            enter_batch(part.tasks)
            try:
                results = registry()[part.kind].function(part.args)
            except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its tasks' failure
                batch.raised(part, error)
            else:
                batch.returned(part, results)
        self._current = ()
        self._cancelled.difference_update(task.execution_id for task in tasks)
        outcomes = batch.take_outcomes()
        self._outcomes += outcomes
        self._flush()
        if any(isinstance(outcome, Failed) and outcome.exhausted for outcome in outcomes):
            self._spare_others()

    def _spare_others(self) -> None:
        """Return the tasks that wait: they would fail here too, and another worker replaces us."""
        self._flush()
        self._return_unstarted()

    def _make_current(self, task: AssignedTask, started_ns: int) -> CurrentTask:
        current = self._channel.current_task(task, started_ns / 1e9)
        current.cancelled = task.execution_id in self._cancelled
        return current

    def _flush(self) -> None:
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            self._channel.send_outcomes(outcomes)
        self._marker.clear()
        if not self._streams.are_open():
            self._channel.send(Unfit(CLOSED_STREAMS))
            self._return_unstarted()
        self._flushed_at = time.monotonic_ns()
