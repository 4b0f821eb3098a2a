"""What the event loop of a worker runs: single tasks and batches, and the slots for them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from peers.context import CurrentTask
from peers.worker.args import args_of
from peers.worker.assigned import AssignedTask, Run
from peers.worker.batch import Batch
from peers.worker.channel import Channel
from peers.worker.handler_call import HandlerCall


class SlotQueue:
    """The slots of a queue that this worker may occupy, and what waits for one of them."""

    def __init__(self) -> None:
        self.slots = 0
        self.running = 0
        self.waiting: deque[SingleTask | TaskBatch] = deque()


class _Execution(ABC):
    """What one coroutine runs."""

    def __init__(
        self, execution_id: int, count: int, mark: int, queue: SlotQueue, channel: Channel
    ) -> None:
        self.execution_id = execution_id
        """Of the first task."""
        self.count = count
        self.mark = mark
        self.queue = queue
        self.call = HandlerCall(execution_id, count)
        self.coroutine: asyncio.Task[None] | None = None
        self.unfinished = count
        self.started = 0.0
        self._channel = channel
        self._current: dict[int, CurrentTask] = {}

    @abstractmethod
    def task(self, index: int) -> AssignedTask:
        """Return one of the tasks."""

    @property
    def execution_ids(self) -> range:
        """Return the execution ids of all tasks."""
        return range(self.execution_id, self.execution_id + self.count)

    def current_task(self, index: int) -> CurrentTask:
        """Return what the handler gets from `current_task()`: always the same object."""
        current = self._current.get(index)
        if current is None:  # also for a thread of the handler
            new = self._channel.current_task(self.task(index), self.started)
            current = self._current.setdefault(index, new)
        return current

    def current_of(self, task: AssignedTask) -> CurrentTask:
        """Return the same for one of the tasks."""
        return self.current_task(task.execution_id - self.execution_id)


class SingleTask(_Execution):
    """A task in a handler call of its own."""

    def __init__(
        self, run: Run, index: int, load_args: Callable[[int], Any], queue: SlotQueue,
        channel: Channel,
    ) -> None:  # fmt: skip
        super().__init__(run.execution_id + index, 1, run.mark, queue, channel)
        self.run = run
        self.index = index
        self._load_args = load_args

    def task(self, index: int = 0) -> AssignedTask:
        """Return the task."""
        return self.run.task(self.index + index)

    @property
    def kind(self) -> str:
        """Return its kind."""
        return self.run.kind(self.index)

    @property
    def timeout(self) -> float | None:
        """Return how long its handler may take; None: as long as it likes."""
        return self.run.timeout(self.index)

    def args(self) -> Any:
        """Return the args of the handler; call it once. Raises like `load_args`."""
        return self._load_args(self.index)

    @property
    def is_cancelled(self) -> bool:
        """Return whether the task was cancelled."""
        return bool(self._current) and self._current[0].cancelled


class TaskBatch(_Execution):
    """The tasks of a batch, which may be of several runs."""

    def __init__(self, runs: list[Run], queue: SlotQueue, channel: Channel) -> None:
        self.tasks = tasks = [task for run in runs for task in run.tasks()]
        super().__init__(tasks[0].execution_id, len(tasks), runs[0].mark, queue, channel)
        self.batch: Batch | None = None
        """Once it has begun."""

    def task(self, index: int) -> AssignedTask:
        """Return one of the tasks."""
        return self.tasks[index]


def executions_of(
    runs: list[Run], queue: SlotQueue, channel: Channel, *, as_batch: bool
) -> Iterator[SingleTask | TaskBatch]:
    """Yield what to run for an assignment of tasks."""
    if as_batch:
        yield TaskBatch(runs, queue, channel)
        return
    for run in runs:
        load_args = args_of(run)
        for index in range(run.count):
            yield SingleTask(run, index, load_args, queue, channel)
