"""What a drain has run, and what became of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peers.client.kinds import Kind, kind_of
from peers.errors import PeersError
from peers.types import TaskState

if TYPE_CHECKING:
    from peers.client.records import TaskRecord


class DrainFailed(PeersError):  # noqa: N818 - the name says what happened
    """A handler has failed, or there was no end to the tasks. `drained` has what was run."""

    def __init__(self, message: str, hint: str | None, drained: Drained) -> None:
        super().__init__(message, hint)
        self.drained = drained


@dataclass(slots=True)
class Drained:
    """What a drain has run, and what became of it."""

    attempts: int = 0
    """How many attempts were run."""
    tasks: list[TaskRecord] = field(default_factory=list)
    """The tasks that were run, as they are at the end, in the order of their ids."""
    errors: list[BaseException] = field(default_factory=list)
    """What the handlers raised, in their order, Retry, Snooze and Reject included."""

    def of(self, kind: Kind) -> list[TaskRecord]:
        """Return the tasks of a kind."""
        return [task for task in self.tasks if task.kind == kind_of(kind)]

    @property
    def states(self) -> dict[str, int]:
        """Return how many tasks are in each state, such as {"completed": 3, "dead": 1}."""
        return dict(Counter(str(task.state) for task in self.tasks))

    @property
    def completed(self) -> list[TaskRecord]:
        """Return the tasks that are completed."""
        return self._in(TaskState.COMPLETED)

    @property
    def dead(self) -> list[TaskRecord]:
        """Return the dead letters."""
        return self._in(TaskState.DEAD)

    @property
    def scheduled(self) -> list[TaskRecord]:
        """Return the tasks that wait for their next attempt."""
        return self._in(TaskState.SCHEDULED)

    def _in(self, state: TaskState) -> list[TaskRecord]:
        return [task for task in self.tasks if task.state == state]
