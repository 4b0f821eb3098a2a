"""The page of memory on which a worker notes what it runs, for its parent to read at any time.

Also when the worker is dead, or holds the GIL: that is how the parent knows who overran, who
crashed the worker, and what had not been started.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final

_RUNNING: Final = struct.Struct("=QQ")
_LAST: Final = struct.Struct("=Q")
_LAST_AT: Final = _RUNNING.size

PAGE_SIZE: Final = _RUNNING.size + _LAST.size


class Page:
    """Two notes: what has the worker now, and the last ticket that was started.

    The time is written before the ticket: a reader who comes in between sees a handler too young,
    never too old.
    """

    def __init__(self, fd: int, *, writable: bool) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._memory = mmap.mmap(fd, PAGE_SIZE, prot=protection)

    def start(self, ticket: int, now_ns: int) -> None:
        """A handler is started; `now_ns` is `time.monotonic_ns()`."""
        _RUNNING.pack_into(self._memory, 0, now_ns, ticket)
        _LAST.pack_into(self._memory, _LAST_AT, ticket)

    def step(self, ticket: int, now_ns: int) -> None:
        """An async handler has the loop."""
        _RUNNING.pack_into(self._memory, 0, now_ns, ticket)

    def rest(self) -> None:
        """Nobody runs."""
        _RUNNING.pack_into(self._memory, 0, 0, 0)

    def running(self) -> tuple[int, float]:
        """The ticket that has the worker (0: none), and since when (`time.monotonic()`)."""
        now_ns, ticket = _RUNNING.unpack_from(self._memory)
        return ticket, now_ns / 1e9

    def last_started(self) -> int:
        """The last ticket that was started one at a time; 0: none ever."""
        (ticket,) = _LAST.unpack_from(self._memory, _LAST_AT)
        return int(ticket)

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()
