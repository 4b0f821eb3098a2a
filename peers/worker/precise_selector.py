"""A selector for event loops whose timers end on time.

The standard one rounds each wait up to whole milliseconds. The handlers that wait beside each other
would all end up to one millisecond late, and then all at once.
"""

from __future__ import annotations

import select
import selectors
from typing import Final

_SELECT_MAX_FD: Final = 1023
"""The largest descriptor that select() takes."""


class PreciseSelector(selectors.EpollSelector):
    """Waits for an event, or until its timeout to the microsecond."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the events, at the latest after `timeout` seconds; None: wait for one."""
        if timeout is not None and timeout > 0 and self.fileno() <= _SELECT_MAX_FD:
            select.select([self.fileno()], (), (), timeout)
            timeout = 0
        return super().select(timeout)
