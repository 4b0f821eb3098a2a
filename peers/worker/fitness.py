"""Tell whether this process is still fit to run handlers.

A handler may use up what all that come after it need (descriptors, memory, threads), or close the
standard streams, whose numbers the next file or socket would get. Then a worker fails task after
task through no fault of theirs, so its parent replaces it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from typing import Final

from peers.worker.describe import related

CLOSED_STREAMS: Final = "a handler closed standard input, output or error"
_USED_UP: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_NO_THREAD: Final = "can't start new thread"
_STREAMS: Final = (0, 1, 2)


def is_exhausted(error: BaseException) -> bool:
    """Return whether `error` says that the process ran out of descriptors, memory or threads."""
    with contextlib.suppress(BaseException):  # of the user's: it tells nothing
        return any(_is_of_exhaustion(one) for one in related(error))
    return False


def _is_of_exhaustion(error: BaseException) -> bool:
    kind = type(error)
    if issubclass(kind, MemoryError):
        return True
    if issubclass(kind, OSError):
        return error.errno in _USED_UP  # type: ignore[attr-defined]  # it is an OSError
    return issubclass(kind, RuntimeError) and error.args[:1] == (_NO_THREAD,)


class StandardStreams:
    """Standard input, output and error: whether somebody has closed one of them."""

    def __init__(self) -> None:
        self._poll = select.poll()
        for fd in _STREAMS:
            self._poll.register(fd, 0)

    def are_open(self) -> bool:
        """Return whether none is closed; open /dev/null in its place, so that no file gets it."""
        closed = [fd for fd, event in self._poll.poll(0) if event & select.POLLNVAL]
        for fd in closed:
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_RDWR)
                if null != fd:
                    os.dup2(null, fd)
                    os.close(null)
        return not closed
