"""The tasks that the peer has assigned to this worker."""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator, Sequence
from functools import cached_property
from typing import Final, NamedTuple, Protocol, TypeVar

import msgspec

from peers.context import CurrentTask
from peers.protocol.messages import AssignedRun

T = TypeVar("T")

_split: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode

# A bigint[] in Postgres's binary format: each element has its length and its value.
_ARRAY_HEADER_BYTES: Final = 20
_ELEMENT: Final = struct.Struct(">iq")


class AssignedTask(NamedTuple):
    """One task on its own."""

    execution_id: int
    task_id: int
    token: bytes
    attempt: int
    kind: str
    args: bytes
    timeout: float | None


class MakesCurrentTask(Protocol):
    """The channel."""

    def current_task(self, task: AssignedTask, started: float) -> CurrentTask:
        """Return what the handler of `task` gets from `current_task()`."""


class Run:
    """Consecutive tasks of one claim.

    Whoever takes an index from `todo` runs that task, or gives it back: the thread that runs the
    handlers takes one after the other, and the thread that reads messages takes all that are left.
    """

    def __init__(self, columns: AssignedRun, mark: int) -> None:
        self.mark = mark
        """Under which to mark those that have started."""
        self.execution_id = columns.execution_id
        self.count = columns.count
        self.kinds = columns.kinds
        """One if all tasks have the same, else one for each."""
        self.args = columns.args
        """A JSON array with an object for each task."""
        self.todo: Iterator[int] = iter(range(columns.count))
        self._columns = columns

    def kind(self, index: int) -> str:
        """Return the kind of a task."""
        return _each(self.kinds, index)

    def timeout(self, index: int) -> float | None:
        """Return how long the handler of a task may take; None: as long as it likes."""
        return _each(self._columns.timeouts, index)

    def task(self, index: int) -> AssignedTask:
        """Return one task on its own."""
        columns = self._columns
        at = _ARRAY_HEADER_BYTES + index * _ELEMENT.size
        _, task_id = _ELEMENT.unpack_from(columns.task_ids, at)
        return AssignedTask(
            self.execution_id + index, task_id, columns.token, _each(columns.attempts, index),
            self.kind(index), self.args_of_each[index], self.timeout(index),
        )  # fmt: skip

    def tasks(self) -> list[AssignedTask]:
        """Return each task on its own."""
        return [self.task(index) for index in range(self.count)]

    @cached_property
    def args_of_each(self) -> list[bytes]:
        """Return the JSON object of each task."""
        return list(map(bytes, _split(self.args)))

    def take_rest(self) -> tuple[int, int] | None:
        """Take the tasks that have not started; return the first execution id and their number."""
        rest = list(self.todo)
        return (self.execution_id + rest[0], len(rest)) if rest else None


class CurrentTasks:
    """What the handlers of a run get from `current_task()`, made when one of them asks."""

    def __init__(self, run: Run, channel: MakesCurrentTask, cancelled: Container[int]) -> None:
        self.started_ns = 0
        """When the handler that runs was started."""
        self._run = run
        self._channel = channel
        self._cancelled = cancelled
        self._made: dict[int, CurrentTask] = {}

    def current_task(self, index: int) -> CurrentTask:
        """Return the task with this index: always the same object."""
        current = self._made.get(index)
        if current is None:
            new = self._channel.current_task(self._run.task(index), self.started_ns / 1e9)
            current = self._made.setdefault(index, new)
            # in this order, because another thread cancels in the opposite one
            current.cancelled = current.execution_id in self._cancelled
        return current

    def current_task_of(self, execution_id: int) -> CurrentTask:
        """Return the task with this execution id."""
        return self.current_task(execution_id - self._run.execution_id)

    def mark_cancelled(self, execution_id: int) -> None:
        """Tell a handler that its task was cancelled, if it has asked for its task."""
        current = self._made.get(execution_id - self._run.execution_id)
        if current is not None:
            current.cancelled = True


def _each(column: Sequence[T], index: int) -> T:
    """Return one value of a column that holds one value if all are the same."""
    return column[index] if len(column) > 1 else column[0]
