"""Know when the next scheduled task is due, so that an idle peer need not ask."""

from __future__ import annotations

import contextlib
import random
import time
from typing import Final

from peers.database.rows import Promoted

SCHEDULED: Final = "scheduled "
"""How the payload of a notification begins that a task is due within 30 seconds. Its time follows,
in seconds since 1970 on the database's clock."""

_AT_LEAST_EVERY: Final = 10.0
"""Seconds. There is no notification of a task that is due later than in 30 seconds."""
_WITHOUT_NOTIFICATIONS: Final = 1.0
_AT_MOST_EVERY: Final = 0.75
"""Seconds. With the jitter and the call, a task is promoted within a second after its time."""
_JITTER: Final = 0.1
"""Seconds, so that not all peers promote at the same moment."""


class Promotion:
    """When to promote: when the next scheduled task is due.

    Each reply of the database has that time, and a notification may have an earlier one. Times on
    its clock are converted with the offset of the last reply.
    """

    def __init__(self) -> None:
        self._promoted_at = 0.0
        self._next_due_at = 0.0
        """On the database's clock."""
        self._offset = 0.0
        """What to add to a time of the database for a time of `monotonic`."""

    def due_at(self, *, is_listening: bool) -> float:
        """Return when (monotonic) to promote."""
        longest = _AT_LEAST_EVERY if is_listening else _WITHOUT_NOTIFICATIONS
        return max(
            self._promoted_at + _AT_MOST_EVERY,
            min(self._next_due_at + self._offset, self._promoted_at + longest),
        )

    def promote_now(self) -> None:
        """Promote soon: a notification may have been lost."""
        self._next_due_at = 0.0

    def note(self, reply: Promoted, *, finished: bool) -> None:
        """Note the reply to a call. `finished`: nothing more is due."""
        now = time.monotonic()
        self._promoted_at = now + random.uniform(0, _JITTER)
        self._offset = now - reply.now
        self._next_due_at = reply.next_due_at
        if not finished:
            self._promoted_at = self._next_due_at = 0.0

    def notified(self, payload: str) -> None:
        """Note when a task is due: it may be earlier than all others."""
        with contextlib.suppress(ValueError):
            due_at = float(payload.removeprefix(SCHEDULED))
            self._next_due_at = min(self._next_due_at, due_at)
