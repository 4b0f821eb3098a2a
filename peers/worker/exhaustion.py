"""Check whether this process can still run handlers.

A handler may use up what the following handlers need: descriptors, memory or threads. It may also
close the standard streams, whose numbers the next file or socket would get. Such a worker fails one
task after another, whatever they do, so its peer replaces it.
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
    with contextlib.suppress(BaseException):  # the user's exception may raise from any attribute
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
    """A check of standard input, output and error: whether a handler has closed one of them."""

    def __init__(self) -> None:
        self._poll = select.poll()
        for fd in _STREAMS:
            self._poll.register(fd, 0)

    def are_open(self) -> bool:
        """Return whether none is closed. Open /dev/null in place of a closed one."""
        closed = [fd for fd, event in self._poll.poll(0) if event & select.POLLNVAL]
        for fd in closed:
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_RDWR)
                if null != fd:
                    os.dup2(null, fd)
                    os.close(null)
        return not closed
