"""The command's side of a fork of the process that has loaded the model for the workers."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

_POLL_SECONDS: Final = 0.1


@contextmanager
def listening_socket() -> Iterator[tuple[socket.socket, str] | None]:
    """Yield a socket in a folder of our own, and its path; None if it cannot be made."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(TemporaryDirectory(prefix="peers-"))
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            path = str(Path(folder) / "model")
            listener.bind(path)
            listener.listen(1)
        except OSError:  # such as a path that is too long for a socket
            yield None
            return
        yield listener, path


def accept(listener: socket.socket, has_ended: Callable[[], bool]) -> Connection | None:
    """Return the connection of the process that loads the model; None if the peer has ended."""
    while not select.select([listener], [], [], _POLL_SECONDS)[0]:
        if has_ended():
            return None
    theirs, _ = listener.accept()
    listener.close()  # one connection is enough
    return Connection(theirs.detach())


class ForkedProcess:
    """A process that is not our child. Raises OSError if it has ended already."""

    exitcode: Final = None

    def __init__(self, pid: int) -> None:
        self._pidfd = os.pidfd_open(pid)

    def kill(self) -> None:
        """Send SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def join(self, timeout: float | None = None) -> None:
        """Wait until it ends."""
        select.select([self._pidfd], [], [], timeout)

    def close(self) -> None:
        """Close its file descriptor."""
        os.close(self._pidfd)
