"""Decide when to look for limited tasks in a queue, and for how many."""

from __future__ import annotations

import random
from typing import Final

from peers.database.rows import ClaimReply
from peers.pool.local_queue import LocalQueue

_BUSY_AGAIN: Final = (0.0005, 0.003)
"""Seconds. Another claim had the key for a moment."""
_MORE_AGAIN: Final = (0.005, 0.25)
"""Seconds, growing. There are more keys than one claim looks at, and it found none with room."""
_FULL_AGAIN: Final = (0.25, 1.0)
"""Seconds, growing. The peer whose task ends claims the next one, unless it stops or has other
work; these looks are for that case."""
# Not more often: twelve idle peers that look four times a second use as much CPU time as four that
# start 20 tasks a second.
_LOOK_EVERY: Final = 0.1
"""Seconds between two looks for limited tasks while unlimited ones keep every slot busy."""
_JITTER: Final = 0.3


class LimitedClaims:
    """What a queue's last claims have told about limits.

    Limited tasks are claimed for free slots only: a claimed task counts for its limit. While some
    of them come before the next unlimited task and no slot is free, no unlimited tasks are claimed
    in advance. So slots become free, and the next claim decides by priority.
    """

    def __init__(self, local_queue: LocalQueue) -> None:
        self._local_queue = local_queue
        self.active = False
        """Some kinds of the peer are under limits in this queue."""
        self._only_limited = False
        self._slots_short = False
        """Limited tasks come before the next unlimited one, and no slot is free."""
        self._next_at = 0.0
        self._look_at = 0.0
        self._tries_without_tasks = 0

    def claim_now(self) -> None:
        """Look at once: there may be room, or new tasks."""
        self._next_at = 0.0
        self._tries_without_tasks = 0

    def due_at(self, now: float) -> float:
        """Return when (monotonic) the next claim of limited tasks is due."""
        if not self.active or not self._local_queue.free_for_limited(now):
            return float("inf")
        return 0.0 if self._local_queue.limited_ended else self._next_at

    def unlimited(self, wanted: int, now: float) -> int:
        """Return how many unlimited tasks to claim of those that the slots will need."""
        if self._only_limited:
            return 0
        if self._slots_short:
            return min(wanted, self._local_queue.free_for_limited(now))
        return wanted

    def free_slots(self, now: float) -> int | None:
        """Return for how many free slots to claim limited tasks now. None: do not look for any."""
        if self.due_at(now) <= now:
            return self._local_queue.free_for_limited(now)
        if not self._only_limited and not self._slots_short and self._look_at <= now:
            return 0
        return None

    def note(
        self, reply: ClaimReply, free_slots: int | None, taken: int, now: float, poll: float
    ) -> None:
        """Note what a claim has told. `taken`: how many limited tasks it brought."""
        self.active = reply.limited
        if not self.active or free_slots is None:
            self._slots_short = self._slots_short and self.active
            self._only_limited = self._only_limited and self.active
            return
        self._only_limited = reply.resume is None
        self._look_at = now + _LOOK_EVERY
        self._slots_short = reply.waits == "slots"
        if not free_slots:
            return
        self._tries_without_tasks = 0 if taken else self._tries_without_tasks + 1
        wait = self._wait(reply.waits, taken, poll)
        if reply.opens_in is not None:
            wait = min(wait, reply.opens_in + random.uniform(*_BUSY_AGAIN))
        self._next_at = now + wait

    def _wait(self, waits: str | None, taken: int, poll: float) -> float:
        """Return the seconds until the next claim, if no notification comes."""
        if waits == "busy":
            return random.uniform(*_BUSY_AGAIN)
        if waits == "more":
            return self._growing(_MORE_AGAIN, 2.0)
        if waits == "full":
            jitter = 1 + random.uniform(-_JITTER, _JITTER)
            return min(poll, self._growing(_FULL_AGAIN, 1.2) * jitter)
        if waits == "slots":
            return 0.0 if taken else _MORE_AGAIN[0]
        return 0.0 if taken else poll

    def _growing(self, bounds: tuple[float, float], factor: float) -> float:
        first, last = bounds
        return min(first * factor ** min(self._tries_without_tasks, 20), last)
