"""A fork of the process that has loaded the model for the workers, in which the command tries it.

So a command with a peer of its own does not import and load everything a second time. A process
that should not be forked leaves it to the command to load the model for itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from peers.predict.kinds import TRIAL_SOCKET

_LOOK_AGAIN: Final = 0.1
_LOG_WRITER: Final = "log"
"""The thread of a worker's log, which a fork does without."""
_HARMLESS: Final = frozenset({"jemalloc_bg_thd"})
"""A thread that a fork starts again where it needs it: that of pyarrow's allocator."""


@dataclass(frozen=True, slots=True)
class Forked:
    """The first that a fork says."""

    pid: int


# ------------------------------------------------------------------------------ the command's side


@contextmanager
def invitation() -> Iterator[tuple[socket.socket, str] | None]:
    """A socket in a folder of our own, and its path; None where that cannot be had."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(TemporaryDirectory(prefix="peers-"))
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            path = str(Path(folder) / "trial")
            listener.bind(path)
            listener.listen(1)
        except OSError:  # such as a path that is too long for a socket
            yield None
            return
        yield listener, path


def accepted(listener: socket.socket, is_over: Callable[[], bool]) -> Connection | None:
    """Return the connection of the process that loads the model; None if there will be none."""
    while not select.select([listener], [], [], _LOOK_AGAIN)[0]:
        if is_over():
            return None
    theirs, _ = listener.accept()
    listener.close()  # one is enough
    return Connection(theirs.detach())


class ForkedProcess:
    """A process that is not our child. Raises OSError if it is gone already."""

    exitcode: Final = None

    def __init__(self, pid: int) -> None:
        self._pidfd = os.pidfd_open(pid)

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        select.select([self._pidfd], [], [], timeout)

    def close(self) -> None:
        """Let it go."""
        os.close(self._pidfd)


# ------------------------------------------------------------------------------- the worker's side


def invited() -> Connection | None:
    """Return the connection to the command that waits for this process to load its model."""
    path = os.environ.get(TRIAL_SOCKET)
    if path is None:
        return None
    ours = socket.socket(socket.AF_UNIX)
    try:
        ours.connect(path)
    except OSError:  # another process was first, or the command is gone
        ours.close()
        return None
    return Connection(ours.detach())


def serve_in_fork(pipe: Connection, serve: Callable[[Connection], None]) -> None:
    """Have `serve` answer the command in a fork, which is nobody's child; return here only."""
    sys.stdout.flush()  # what is printed is printed once
    sys.stderr.flush()
    writers = sum(thread.name == _LOG_WRITER for thread in threading.enumerate())
    with pipe, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which are looked at
        try:
            between = os.fork()
        except OSError:
            return
        if between:
            os.waitpid(between, 0)
            return
        try:
            os.setsid()
            if _threads(os.getppid()) == 1 + writers and not os.fork():
                _log_plainly()
                pipe.send(Forked(os.getpid()))
                serve(pipe)
        except BaseException:  # noqa: BLE001  # nothing of this may go on as the worker
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)


def _threads(pid: int) -> int:
    """Count the threads of our origin, which a fork lacks.

    Those of OpenBLAS have ended, which is why this is asked after the fork.
    """
    names = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            names.append((task / "comm").read_text().rstrip("\n"))
    return sum(name not in _HARMLESS for name in names)


def _log_plainly() -> None:
    """Write the log to stderr: the thread that does that elsewhere is not in the fork."""
    logging.captureWarnings(capture=False)
    root = logging.getLogger()
    root.handlers[:] = [logging.StreamHandler()]
