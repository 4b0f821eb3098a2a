"""Make a worker write its stacks by a signal: also while C code holds the GIL.

faulthandler's handler for this signal is written in C and needs no GIL. It writes to a file in
memory, which the peer has opened, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import time
from pathlib import Path
from typing import Final

from peers.pool import process_facts

_DUMP_MAX: Final = 1 << 20
_LOOK_AGAIN: Final = 0.005
_READER: Final = "reader"

_libc: Final = ctypes.CDLL(None, use_errno=True)


class StackDump:
    """The file for the stacks of one worker. Close it when the worker is dead."""

    def __init__(self, pid: int, number: int, worker_fd: int) -> None:
        """Raise OSError if the worker's file cannot be opened."""
        self._pid = pid
        self._number = number
        self._path = Path(f"/proc/{pid}/fd/{worker_fd}")
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

    @classmethod
    def of(cls, pid: int, announced: tuple[int, int] | None) -> StackDump | None:
        """Return the file that a worker has announced; None if there is none."""
        if announced is not None:
            with contextlib.suppress(OSError):
                return cls(pid, *announced)
        return None

    def duplicate(self) -> StackDump:
        """Return a copy for another thread, which closes it. Raises OSError."""
        copy = object.__new__(StackDump)
        copy._pid, copy._number, copy._path = self._pid, self._number, self._path
        copy._fd = os.dup(self._fd)
        return copy

    def close(self) -> None:
        """Close our end."""
        os.close(self._fd)

    def take(self, pidfd: int, until: float) -> str | None:
        """Let the worker write its stacks, and return them; None: it did not until then.

        The signal goes to a thread that does not run the handler, if the handler's thread is inside
        a system call: that would return early with EINTR, and not all C code expects it. A thread
        that computes is not disturbed. It is the better one, because it cannot change its frames
        while it is writing them.
        """
        if not self._is_safe(pidfd):
            return None
        os.ftruncate(self._fd, 0)
        thread = self._pid
        if process_facts.state_of_thread(self._pid, self._pid) != "R":
            thread = process_facts.last_other_thread(self._pid) or self._pid
        if _libc.tgkill(self._pid, thread, self._number) != 0:
            return None
        while time.monotonic() < until:
            time.sleep(_LOOK_AGAIN)
            if os.fstat(self._fd).st_size and not process_facts.handles_signal(
                self._pid, thread, self._number
            ):
                return os.pread(self._fd, _DUMP_MAX, 0).decode(errors="replace")
        return None

    def _is_safe(self, pidfd: int) -> bool:
        """Return whether the signal still has its handler, and the handler its file.

        Without a handler, the signal would kill the worker. User code may have closed the file, and
        another one may have its descriptor now.
        """
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if poll.poll(0):  # it has exited: another process may get its pid
            return False
        try:
            theirs, ours = self._path.stat(), os.fstat(self._fd)
        except OSError:
            return False
        is_same = (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
        return is_same and process_facts.catches(self._pid, self._number)
