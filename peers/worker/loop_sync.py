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
from peers.worker.channel import Channel
from peers.worker.fitness import CLOSED_STREAMS, StandardStreams
from peers.worker.outcome import completed, failed

# Outcomes of quick handlers are sent together. What a crash may take along, and what is run again,
# is no more than what was finished within this time.
_FLUSH_AFTER_NS: Final = 5_000_000
# Before a handler that takes longer than this, what is finished is sent.
_SLOW_NS: Final = 1_000_000


class SyncLoop:
    """Runs tasks in the order in which they come; the reader thread gives back what is recalled."""

    def __init__(self, channel: Channel, page: Page) -> None:
        self._channel = channel
        self._page = page
        self._inbox: deque[Assigned | list[Assigned] | None] = deque()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._current: Sequence[CurrentTask] = ()
        self._cancelled: set[int] = set()
        self._outcomes: list[Completed | Failed] = []
        self._flushed_at = 0
        self._slow: set[str] = set()
        self._streams = StandardStreams()
        channel.limit = self._limit

    def run(self) -> None:
        """Run what comes until the parent says stop."""
        self._channel.start_reader(self._take)
        while (work := self._next()) is not None:
            if isinstance(work, Assigned):
                self._run(work)
            else:
                self._run_batch(work)
        self._flush()

    def _take(self, message: ToWorker) -> None:
        """In the reader thread: what the parent says while a handler may be running."""
        match message:
            case Run(tasks, together):
                # whole, so that a frame's outcomes can go together
                self._inbox.extend([tasks] if together else tasks)
                self._bell.put(None)
            case Recall():
                self._give_back()
            case Cancel(ticket):
                self._cancelled.add(ticket)
                self._mark_cancelled()
            case Stop():
                self._inbox.append(None)
                self._bell.put(None)
            case Begin() | Reply():
                raise AssertionError(message)  # Begin came before, replies are the channel's

    def _mark_cancelled(self) -> None:
        for current in self._current:
            current.cancelled = current.cancelled or current.ticket in self._cancelled

    def _limit(self, ticket: int, seconds: float | None) -> None:
        """From a handler; one that is over, and has left a thread behind, limits nobody."""
        if any(current.ticket == ticket for current in self._current):
            self._page.limit(None if seconds is None else time.monotonic_ns() + int(seconds * 1e9))

    def _give_back(self) -> None:
        tickets: list[int] = []
        stopped = False
        with contextlib.suppress(IndexError):
            while True:
                work = self._inbox.popleft()
                stopped = stopped or work is None
                if work is not None:
                    tasks = [work] if isinstance(work, Assigned) else work
                    tickets += [task.ticket for task in tasks]
        if stopped:
            self._inbox.append(None)
        self._channel.send(Requeued(tickets))

    def _next(self) -> Assigned | list[Assigned] | None:
        while True:
            try:
                return self._inbox.popleft()
            except IndexError:
                self._flush()
                self._bell.get()

    def _run(self, task: Assigned) -> None:
        if self._outcomes and task.kind in self._slow:
            self._flush()
        started = time.monotonic_ns()
        self._page.start(task.ticket, started)
        current = self._enter(task, started)
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
        self._cancelled.discard(task.ticket)
        self._outcomes.append(outcome)
        if finished - started > _SLOW_NS:
            self._slow.add(task.kind)
        else:
            self._slow.discard(task.kind)
        if finished - self._flushed_at > _FLUSH_AFTER_NS:
            self._flush()
        if isinstance(outcome, Failed) and outcome.exhausted:
            self._spare_others()

    def _run_batch(self, tasks: list[Assigned]) -> None:
        self._flush()  # nothing that is finished may be lost with what comes next
        # args are checked by what is the user's, and may hang or kill, too
        now = time.monotonic_ns()
        self._page.start(tasks[0].ticket, now, tasks[-1].ticket - tasks[0].ticket + 1)
        batch = Batch(tasks, lambda task: self._enter(task, now))
        self._current = batch.tasks
        self._mark_cancelled()
        while (part := batch.next()) is not None:
            self._outcomes += batch.take_outcomes()
            self._flush()
            self._page.start(part.ticket, part.started_ns, part.span)
            enter_batch(part.tasks)
            try:
                results = registry()[tasks[0].kind].function(part.args)
            except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its tasks' failure
                batch.raised(part, error)
            else:
                batch.returned(part, results)
        self._current = ()
        self._cancelled.difference_update(task.ticket for task in tasks)
        outcomes = batch.take_outcomes()
        self._outcomes += outcomes
        self._flush()
        if any(isinstance(outcome, Failed) and outcome.exhausted for outcome in outcomes):
            self._spare_others()

    def _spare_others(self) -> None:
        """Give back what waits: it would fail here as well, and the parent starts another."""
        self._flush()
        self._give_back()

    def _enter(self, task: Assigned, started_ns: int) -> CurrentTask:
        current = self._channel.current_task(task, started_ns / 1e9)
        current.cancelled = task.ticket in self._cancelled
        return current

    def _flush(self) -> None:
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            self._channel.tell_outcomes(outcomes)
        self._page.rest()
        if not self._streams.are_open():
            self._channel.send(Unfit(CLOSED_STREAMS))
            self._give_back()
        self._flushed_at = time.monotonic_ns()
