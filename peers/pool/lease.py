"""A claimed task, as its peer keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from peers.database.rows import Claimed
from peers.protocol.messages import AssignedTask

if TYPE_CHECKING:
    from peers.pool.local_queue import LocalQueue


@dataclass(slots=True, eq=False)
class Lease:
    """A claimed task, from its claim until its outcome is recorded.

    The database knows it by the id and the token of its task. A worker knows it by its
    `execution_id`, which is new each time a worker is assigned it.
    """

    task: Claimed
    local_queue: LocalQueue
    claimed_at: float
    """When (monotonic) it was claimed, or began to wait for another run in isolation."""
    token: bytes = field(init=False)
    """The text of `task.token`."""
    cancelled: bool = False
    stopped_because: str | None = None
    """Why this peer itself stopped its handler."""

    execution_id: int = 0
    batch_id: int = 0
    """The execution id of the first task in the same handler call."""
    expected_seconds: float = 0.0
    """How long the handler was expected to take when the lease was assigned."""
    is_first: bool = False
    """Whether its handler call was the first one that its worker was assigned."""

    def __post_init__(self) -> None:
        self.token = str(self.task.token).encode()

    def to_message(self) -> AssignedTask:
        """Return the task as it is sent to a worker."""
        task = self.task
        return AssignedTask(
            self.execution_id, task.task_id, self.token, task.attempt, task.kind, task.args,
            task.timeout,
        )  # fmt: skip


by_priority: Final = attrgetter("task.priority")
"""The key to sort leases by."""
