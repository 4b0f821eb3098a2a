"""The tasks that a worker has, by the numbers under which it was assigned them."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from peers.pool.claim import TaskRun
from peers.pool.lease import Lease


class AssignedLease(NamedTuple):
    """A task that a worker has, and the first execution id of its handler call."""

    execution_id: int
    call: int
    lease: Lease


@dataclass(slots=True, eq=False)
class Execution:
    """A run under consecutive execution ids, or a part of it.

    `batch_id` is the first execution id of the batch that the tasks are in; None: each task is a
    handler call of its own. `expected_seconds` is for each task.
    """

    execution_id: int
    """Of the first task."""
    run: TaskRun
    expected_seconds: float
    batch_id: int | None = None

    @property
    def stop(self) -> int:
        """Return the execution id behind the last one."""
        return self.execution_id + self.run.count

    def call(self, execution_id: int) -> int:
        """Return the first execution id of the handler call that a task is in."""
        return execution_id if self.batch_id is None else self.batch_id

    def part(self, execution_id: int, stop: int) -> Execution:
        """Return those of the tasks that have these execution ids."""
        run = self.run.part(execution_id - self.execution_id, stop - execution_id)
        return Execution(execution_id, run, self.expected_seconds, self.batch_id)

    def index(self, execution_id: int) -> int:
        """Return the index of a task in its claim."""
        return self.run.first + execution_id - self.execution_id

    def timeout(self, execution_id: int) -> float | None:
        """Return the timeout of a task."""
        return self.run.claim.timeout(self.index(execution_id))

    def lease(self, execution_id: int) -> Lease:
        """Return the lease of a task."""
        return self.run.claim.lease(self.index(execution_id))

    def assigned_leases(self) -> list[AssignedLease]:
        """Return each task on its own."""
        return [
            AssignedLease(execution_id, self.call(execution_id), lease)
            for execution_id, lease in zip(
                range(self.execution_id, self.stop), self.run.leases(), strict=True
            )
        ]


class Executions:
    """All executions of a worker, in the order of their ids."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._by_first: dict[int, Execution] = {}
        self._tasks = 0
        self._batched = 0
        """How many of the tasks are in batches."""
        self._batches: Counter[int] = Counter()
        """How many tasks each batch has, by its first execution id."""

    def __len__(self) -> int:
        """Return how many tasks there are."""
        return self._tasks

    def __iter__(self) -> Iterator[Execution]:
        return iter([self._by_first[first] for first in self._firsts])

    @property
    def calls(self) -> int:
        """Return how many handler calls there are."""
        return self._tasks - self._batched + len(self._batches)

    def add(self, execution: Execution) -> None:
        """Add an execution."""
        insort(self._firsts, execution.execution_id)
        self._by_first[execution.execution_id] = execution
        self._count(execution, execution.run.count)

    def find(self, execution_id: int) -> Execution | None:
        """Return the execution that a task is in; None: it has ended."""
        at = bisect_right(self._firsts, execution_id) - 1
        if at < 0:
            return None
        found = self._by_first[self._firsts[at]]
        return found if execution_id < found.stop else None

    def find_task(self, run: TaskRun) -> int | None:
        """Return the execution id of a task, given as a run of one; None: it is not here."""
        for execution in self._by_first.values():
            offset = run.first - execution.run.first
            if execution.run.claim is run.claim and 0 <= offset < execution.run.count:
                return execution.execution_id + offset
        return None

    def take(self, execution_id: int, count: int) -> Execution | None:
        """Take out some tasks with consecutive ids; None: one of them has ended already."""
        found = self.find(execution_id)
        stop = execution_id + count
        if found is None or stop > found.stop or count < 1:
            return None
        self._remove(found)
        if found.execution_id < execution_id:
            self.add(found.part(found.execution_id, execution_id))
        if stop < found.stop:
            self.add(found.part(stop, found.stop))
        return found.part(execution_id, stop)

    def split(self, execution_id: int, count: int) -> list[tuple[int, int]]:
        """Return the first execution id and the number of those of the tasks that are here.

        Each pair lies within one execution. A batch can be made of several runs.
        """
        stop = execution_id + count
        overlaps = ((max(execution_id, each.execution_id), min(stop, each.stop)) for each in self)
        return [(first, end - first) for first, end in overlaps if first < end]

    def ids_of_call(self, call: int) -> list[int]:
        """Return the execution ids of the tasks of a handler call that have not ended."""
        return [
            execution_id
            for execution in self
            for execution_id in range(execution.execution_id, execution.stop)
            if execution.call(execution_id) == call
        ]

    def has_batch(self, batch_id: int) -> bool:
        """Return whether a task of this batch is here."""
        return batch_id in self._batches

    def _remove(self, execution: Execution) -> None:
        del self._firsts[bisect_right(self._firsts, execution.execution_id) - 1]
        del self._by_first[execution.execution_id]
        self._count(execution, -execution.run.count)

    def _count(self, execution: Execution, tasks: int) -> None:
        self._tasks += tasks
        if execution.batch_id is not None:
            self._batched += tasks
            self._batches[execution.batch_id] += tasks
            if not self._batches[execution.batch_id]:
                del self._batches[execution.batch_id]
