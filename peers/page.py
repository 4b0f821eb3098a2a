"""The page of memory on which a worker notes what it runs, for its parent to read at any time.

Also when the worker is dead, or holds the GIL: that is how the parent knows who overran, who
crashed the worker, and what had not been started.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final, NamedTuple

_RUNNING: Final = struct.Struct("=QQQ")
_LAST: Final = struct.Struct("=QQ")
_LAST_AT: Final = _RUNNING.size

PAGE_SIZE: Final = _RUNNING.size + _LAST.size


class Running(NamedTuple):
    """The call that has the worker: its tickets begin with `ticket` (0: there is none).

    `span`: no ticket of the call is `ticket + span` or more. `since` is on the scale of
    `time.monotonic()`.
    """

    ticket: int
    span: int
    since: float


class Page:
    """Two notes: the call that has the worker now, and the last one that was started.

    The time is written before the ticket: a reader who comes in between sees a handler too young,
    never too old.
    """

    def __init__(self, fd: int, *, writable: bool) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._memory = mmap.mmap(fd, PAGE_SIZE, prot=protection)

    def start(self, ticket: int, now_ns: int, span: int = 1) -> None:
        """A handler is started; `now_ns` is `time.monotonic_ns()`."""
        _RUNNING.pack_into(self._memory, 0, now_ns, span, ticket)
        _LAST.pack_into(self._memory, _LAST_AT, span, ticket)

    def step(self, ticket: int, now_ns: int, span: int = 1) -> None:
        """An async handler has the loop."""
        _RUNNING.pack_into(self._memory, 0, now_ns, span, ticket)

    def rest(self) -> None:
        """Nobody runs."""
        _RUNNING.pack_into(self._memory, 0, 0, 0, 0)

    def running(self) -> Running:
        """The call that has the worker now."""
        now_ns, span, ticket = _RUNNING.unpack_from(self._memory)
        return Running(ticket, span, now_ns / 1e9)

    def last_started(self) -> range:
        """The tickets of the last call that was started one at a time; empty: none ever."""
        span, ticket = _LAST.unpack_from(self._memory, _LAST_AT)
        return range(ticket, ticket + span)

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()
