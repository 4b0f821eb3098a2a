"""Decide how long to wait before the next try."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Backoff:
    """A wait that grows: a random part of a span that doubles up to `cap`, in seconds.

    The jitter is full, so that peers that lost the same database do not all return at once.
    """

    def __init__(
        self, base: float = 0.1, cap: float = 5.0, luck: Callable[[], float] = random.random
    ) -> None:
        self._base = base
        self._cap = cap
        self._luck = luck
        self._span = base

    def next(self) -> float:
        """Return the seconds to wait now, and double the span of the following wait."""
        wait = self._luck() * self._span
        self._span = min(self._cap, self._span * 2)
        return wait

    def reset(self) -> None:
        """Begin with the shortest span again, after a success."""
        self._span = self._base


class RetryTimer:
    """Decide when to try again what has failed."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self.due_at = 0.0
        """When (monotonic) the next try is due."""

    @property
    def is_due(self) -> bool:
        """Return whether the next try is due."""
        return time.monotonic() >= self.due_at

    def failed(self) -> float:
        """Wait longer than the last time; return the seconds until the next try."""
        wait = self._backoff.next()
        self.due_at = time.monotonic() + wait
        return wait

    def retry_now(self) -> None:
        """Make the next try due at once. The wait after it still grows."""
        self.due_at = 0.0

    def succeeded(self) -> None:
        """Begin with the shortest wait again after the next failure."""
        self._backoff.reset()
