"""The part of a queue's slots that a worker has."""

from __future__ import annotations

from typing import Final

from peers.pool.durations import ASSIGNMENT_SECONDS, CLAIM_MAX_TASKS
from peers.pool.local_queue import LocalQueue
from peers.protocol.started_marks import UNMARKED

_NEXT_WITHIN: Final = 2 * ASSIGNMENT_SECONDS
"""A handler that ends within this time should find the next task in its worker."""
_SHORTEST: Final = 1e-6


class Share:
    """The slots of one queue that a worker may occupy, and the handler calls that it has for them.

    It may have more calls than slots. Those that wait are its next ones: each begins when another
    call of the same queue ends there, without waiting for the peer. They occupy no slot.
    """

    def __init__(self, local_queue: LocalQueue, mark: int = UNMARKED) -> None:
        self._local_queue = local_queue
        self.mark = mark
        """Under which the worker marks the tasks of this queue that it has started."""
        self.slots = 0
        self.calls = 0
        self.changed_at = 0.0
        """When (monotonic) it was last assigned a call, or one ended."""

    @property
    def next_calls(self) -> int:
        """Return how many calls wait for another to end."""
        return max(0, self.calls - self.slots)

    @property
    def occupied(self) -> int:
        """Return how many slots it occupies."""
        return min(self.calls, self.slots)

    @property
    def available(self) -> int:
        """Return how many slots it may occupy now, with those that are free."""
        return self.occupied + max(0, self._local_queue.free_slots)

    def room(self, seconds: float) -> int:
        """Return how many more calls of about `seconds` each it should have."""
        available = self.available
        if not available:
            return 0  # a call that waits here would wait for a call of another worker
        ending_soon = int(available * ASSIGNMENT_SECONDS / max(seconds, _SHORTEST))
        ahead = max(ending_soon, int(seconds < _NEXT_WITHIN))
        return max(0, available + min(ahead, CLAIM_MAX_TASKS) - self.calls)

    def started(self, tasks: int, calls: int, slots: int, now: float) -> None:
        """Count tasks that the worker was assigned, and their calls. It now has so many slots."""
        before, self.slots = self.occupied, slots
        self.calls += calls
        self.changed_at = now
        self._local_queue.started(tasks, slots=self.occupied - before)

    def finished(self, tasks: int, calls: int, now: float) -> None:
        """Count tasks that the worker has no more, and the calls that are over."""
        before = self.occupied
        self.calls -= calls
        self.changed_at = now
        self._local_queue.finished(tasks, slots=before - self.occupied)
