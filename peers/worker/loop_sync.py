"""A worker's loop for sync handlers: one at a time, in the main thread."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

from peers.context import CurrentTask, enter, enter_batch
from peers.handlers import find, registry
from peers.protocol.messages import (
    Assign,
    Begin,
    Cancel,
    Failed,
    Peek,
    Recall,
    Recalled,
    Reply,
    Stop,
    ToWorker,
    Unfit,
)
from peers.protocol.running_marker import RunningMarker
from peers.protocol.started_marks import CHECK, StartedMarks
from peers.worker import output
from peers.worker.args import args_of
from peers.worker.assigned import AssignedTask, CurrentTasks, Run
from peers.worker.attribution import Call, use_running
from peers.worker.batch import Batch, Part
from peers.worker.channel import Channel
from peers.worker.collected import CollectedOutcomes
from peers.worker.exhaustion import CLOSED_STREAMS, StandardStreams
from peers.worker.outcome import encode_result, failed
from peers.worker.stacks import thread_stacks

# Outcomes of quick handlers are sent together. A crash loses only the outcomes of this time, and
# their tasks are repeated.
_FLUSH_AFTER_NS: Final = 5_000_000
# Before a handler that takes longer than this, outcomes are sent at once.
_SLOW_NS: Final = 1_000_000
assert _SLOW_NS < _FLUSH_AFTER_NS


_LARGE_RUN: Final = 50
"""Tasks of a run whose outcomes are sent at its end."""
_NO_RESULT: Final = b"null"


class _Kind:
    """A kind of tasks, as this worker runs it. `executing` returns the id of its execution."""

    def __init__(self, name: str, executing: Callable[[], int] = lambda: 0) -> None:
        self.name = name
        self._executing = executing
        self.is_slow = False
        """Its last handler call took long."""
        self.function: Callable[..., Any] = self._first_call
        self.stores_none_as_it_is = False

    def _first_call(self, **args: Any) -> Any:
        self.function = registry()[self.name].function
        if output.keeps(self.name):
            self.function = self._captured(self.function)
        return self.function(**args)

    def _captured(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def captured(**args: Any) -> Any:
            return output.captured(self.name, self._executing(), 1, lambda: function(**args))

        return captured

    def encode(self, result: Any) -> bytes:
        """Return a result as JSON. Raises like `encode_result`."""
        body = encode_result(self.name, result)
        handler = find(self.name)
        self.stores_none_as_it_is = handler is not None and handler.stores_results_as_they_are
        return body


class _Batch:
    """A batch that waits for its call. `todo` has one index, for all of its tasks."""

    def __init__(self, runs: list[Run]) -> None:
        self.mark = runs[0].mark
        self.tasks = [task for run in runs for task in run.tasks()]
        self.todo = iter((0,))

    def take_rest(self) -> tuple[int, int] | None:
        """Take the tasks if they have not started."""
        return (self.tasks[0].execution_id, len(self.tasks)) if list(self.todo) else None


class SyncLoop:
    """Runs tasks in the order in which they come; the reader thread returns recalled tasks."""

    def __init__(self, channel: Channel, marker: RunningMarker, marks: StartedMarks) -> None:
        self._channel = channel
        self._marker = marker
        self._marks = marks
        self._inbox: deque[Run | _Batch | None] = deque()
        """The first one is run. The reader thread adds to it, and takes nothing out."""
        self._wakeups: SimpleQueue[None] = SimpleQueue()
        self._kinds: dict[str, _Kind] = {}
        self._execution_id = 0
        """The task that runs."""
        self._current: CurrentTasks | None = None
        self._batch: Sequence[CurrentTask] = ()
        self._cancelled: set[int] = set()
        self._collected = CollectedOutcomes()
        self._flushed_at = time.monotonic_ns()
        self._streams = StandardStreams()
        channel.limit = self._limit
        channel.stacks = lambda _: (thread_stacks(), "")
        use_running(self._running)
        os.register_at_fork(after_in_child=self._forget_unstarted)

    def _forget_unstarted(self) -> None:
        """Leave the tasks that wait to the worker, in a process that a handler has forked."""
        for work in self._inbox:
            if work is not None:
                work.take_rest()

    def _running(self) -> Call | None:
        """Return the handler call that runs now, for threads that are asked in its place."""
        batch, current, execution_id = self._batch, self._current, self._execution_id
        if batch:
            return Call(batch[0], len(batch))
        if current is None or not execution_id:
            return None
        return Call(current.current_task_of(execution_id), 0)

    def run(self) -> None:
        """Run tasks until the peer says stop."""
        self._channel.start_reader(self._handle)
        while (work := self._next()) is not None:
            if isinstance(work, Run):
                self._run(work)
            else:
                for _ in work.todo:
                    self._marks.started(work.mark, work.tasks[-1].execution_id)
                    self._run_batch(work.tasks)
            self._inbox.popleft()
        self._flush()

    def _next(self) -> Run | _Batch | None:
        while not self._inbox:
            self._flush()
            self._wakeups.get()
            self._flushed_at = time.monotonic_ns()
        return self._inbox[0]

    # ------------------------------------------------------------------------------- reader thread

    def _handle(self, message: ToWorker) -> None:
        """Handle a message in the reader thread, while a handler may be running."""
        match message:
            case Assign(columns, as_batch, mark=mark):
                runs = [Run(each, mark) for each in columns]
                self._inbox.extend([_Batch(runs)] if as_batch else runs)
                self._wakeups.put(None)
            case Recall():
                self._return_unstarted()
            case Cancel(execution_id):
                self._cancel(execution_id)
            case Stop():
                self._inbox.append(None)
                self._wakeups.put(None)
            case Begin() | Reply() | Peek():
                raise AssertionError(message)  # Begin came before, the channel takes the others

    def _cancel(self, execution_id: int) -> None:
        self._cancelled.add(execution_id)
        if self._current is not None:
            self._current.mark_cancelled(execution_id)
        self._mark_batch()

    def _mark_batch(self) -> None:
        for current in self._batch:
            current.cancelled = current.cancelled or current.execution_id in self._cancelled

    def _limit(self, execution_id: int, seconds: float | None) -> None:
        """Set the limit of `kill_after()`; ignore a thread whose handler has ended."""
        if execution_id == self._execution_id or any(
            current.execution_id == execution_id for current in self._batch
        ):
            self._marker.set_kill_at(
                None if seconds is None else time.monotonic_ns() + int(seconds * 1e9)
            )

    def _return_unstarted(self) -> None:
        rests = [work.take_rest() for work in list(self._inbox) if work is not None]
        self._channel.send(Recalled([rest for rest in rests if rest is not None]))

    # --------------------------------------------------------------------------------- main thread

    def _run(self, run: Run) -> None:  # noqa: C901, PLR0915  # a call costs as much as a quick task
        """Run the tasks of a run that have not been recalled."""
        args, kind = args_of(run), self._kind(run.kinds[0])
        is_mixed = len(run.kinds) > 1
        self._current = current = CurrentTasks(run, self._channel, self._cancelled)
        collected = self._collected
        results = collected.results
        mark, marks = run.mark, self._marks.words
        finished = time.monotonic_ns()
        for index in run.todo:
            if is_mixed and run.kind(index) != kind.name:
                collected.end(finished)
                kind = self._kind(run.kind(index))
            if kind.is_slow and collected:
                self._flush()
                finished = time.monotonic_ns()
            current.started_ns = started = finished
            self._execution_id = execution_id = run.execution_id + index
            marks[mark] = (execution_id + 1) * CHECK  # StartedMarks.started, without two calls
            self._marker.start(execution_id, started)
            enter(current, index)
            is_exhausted = False
            try:
                result = kind.function(**args(index))
                if result is None and kind.stores_none_as_it_is:
                    body = _NO_RESULT
                else:
                    body = kind.encode(result)
                    collected.note_size(len(body))
            except BaseException as error:  # noqa: BLE001  # whatever a handler raises is the task's failure
                finished = time.monotonic_ns()
                collected.end(started)
                outcome = failed(run.task(index), (finished - started) / 1e9, error)
                collected.add(outcome)
                is_exhausted = outcome.exhausted
            else:
                finished = time.monotonic_ns()
                if not results:
                    collected.begin(execution_id, started)
                results.append(body)
            if finished - started > _SLOW_NS:
                kind.is_slow = True
            elif kind.is_slow:
                kind.is_slow = False
            if finished - self._flushed_at > _FLUSH_AFTER_NS or collected.is_full:
                self._flush()
                finished = time.monotonic_ns()
            if is_exhausted:
                self._spare_others()
        self._end_run(run, finished)

    def _end_run(self, run: Run, now_ns: int) -> None:
        self._collected.end(now_ns)
        if run.count >= _LARGE_RUN:
            self._flush()  # so that the peer records it while the next one runs
        self._current = None
        if self._cancelled:
            self._cancelled.difference_update(range(run.execution_id, run.execution_id + run.count))

    def _kind(self, name: str) -> _Kind:
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._kinds[name] = _Kind(name, lambda: self._execution_id)
        return kind

    def _run_batch(self, tasks: list[AssignedTask]) -> None:
        self._flush()  # a crash of what comes next must not lose a finished outcome
        # checking args runs user code, which may also hang or crash
        now = time.monotonic_ns()
        first, last = tasks[0].execution_id, tasks[-1].execution_id
        self._marker.start(first, now, last - first + 1)
        batch = Batch(tasks, lambda task: self._channel.current_task(task, now / 1e9))
        self._batch = batch.tasks
        self._mark_batch()
        while (part := batch.next()) is not None:
            self._collected.add(*batch.take_outcomes())
            self._flush()
            self._marker.start(part.execution_id, part.started_ns, part.span)
            enter_batch(part.tasks)
            try:
                results = output.captured(
                    part.kind, part.execution_id, part.span, partial(self._call_batch, part)
                )
            except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its tasks' failure
                batch.raised(part, error)
            else:
                batch.returned(part, results)
            self._channel.exit_if_forked()
        enter_batch(())
        self._batch = ()
        self._cancelled.difference_update(task.execution_id for task in tasks)
        outcomes = batch.take_outcomes()
        self._collected.add(*outcomes)
        self._flush()
        if any(isinstance(outcome, Failed) and outcome.exhausted for outcome in outcomes):
            self._spare_others()

    def _call_batch(self, part: Part) -> Any:
        return registry()[part.kind].function(part.args)

    def _spare_others(self) -> None:
        """Return the tasks that wait: they would fail here too, and another worker replaces us."""
        self._flush()
        self._return_unstarted()

    def _flush(self) -> None:
        """Send what has ended, and mark that no handler runs."""
        output.end_lines()
        self._collected.end(time.monotonic_ns())
        outcomes = self._collected.take()
        if outcomes:
            self._channel.send_outcomes(outcomes)
        self._execution_id = 0
        self._marker.clear()
        if not self._streams.are_open():
            self._channel.send(Unfit(CLOSED_STREAMS))
            self._return_unstarted()
        self._flushed_at = time.monotonic_ns()
