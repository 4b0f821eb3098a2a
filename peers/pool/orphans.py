"""The peer's side of the process that kills what workers leave behind when the peer is killed."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from typing import IO, Final

from peers import events
from peers.pool import kill_orphans, liveness

_RESTART_AFTER: Final = 1.0
"""The shortest time between two starts."""
_EXIT_WITHIN: Final = 2.0


class OrphanKiller:
    """One small process for each peer, which knows the process groups that the workers lead.

    It outlives the peer until it has killed what is left of these. When it dies it is replaced.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: IO[bytes] | None = None
        self._pidfd = -1
        self._start_at = 0.0
        self._lease_end = 0.0

    @property
    def pid(self) -> int | None:
        """Return its pid; None if there is no process at the moment."""
        return None if self._process is None else self._process.pid

    def began(self, group: int) -> None:
        """Add a process group, which a new worker leads."""
        self._groups.add(group)
        self._send(b"+%d\n" % group)

    def ended(self, group: int) -> None:
        """Remove a group of which no process is left: the kernel may use its number again."""
        self._groups.discard(group)
        self._send(b"-%d\n" % group)

    def lease_ends(self, at: float) -> None:
        """Let it kill the workers at this time (CLOCK_BOOTTIME), unless told again. 0: never."""
        self._lease_end = at
        self._send(b"=%d\n" % int(at * 1e9))

    def ensure(self) -> None:
        """Start the process if there is none; log a failure, and try again later."""
        if self._process is not None or time.monotonic() < self._start_at:
            return
        self._start_at = time.monotonic() + _RESTART_AFTER
        try:
            self._start()
        except OSError as error:
            self.close()
            events.orphan_killer_missing(reason=str(error))

    def close(self) -> None:
        """Close it. It kills what is left of the groups that have not `ended`."""
        if self._process is not None:
            process = self._forget()
            try:
                process.wait(_EXIT_WITHIN)
            except subprocess.TimeoutExpired:  # it was stopped by a signal
                process.kill()
                process.wait()

    def _start(self) -> None:
        # A session of its own, so that Ctrl-C on a terminal reaches the peer only. It holds the end
        # of one pipe and the liveness lock, so that nobody takes the tasks over before it has done
        # its work. It holds nothing else of ours, neither a log nor a folder. Its arguments are the
        # groups of this moment, so that it knows them even if the peer is killed in the next one.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", kill_orphans.__file__, *map(str, sorted(self._groups))],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, cwd="/", pass_fds=liveness.inherited(),
        )  # fmt: skip
        assert process.stdin is not None
        self._pipe = process.stdin
        os.set_blocking(self._pipe.fileno(), False)
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._selector.register(self._pidfd, selectors.EVENT_READ, self._reap)
        if self._lease_end:
            self.lease_ends(self._lease_end)

    def _send(self, line: bytes) -> None:
        """Send a line; a pipe takes a short line whole or not at all."""
        if self._process is None or self._pipe is None:
            return
        try:
            os.write(self._pipe.fileno(), line)
        except BlockingIOError:  # it does not read: the next process gets all groups
            self._process.kill()
        except OSError:  # it is dead, and will be reaped in a moment
            pass

    def _reap(self) -> None:
        """Log that it is dead; `ensure` starts another."""
        code = self._forget().wait()
        events.orphan_killer_missing(reason=f"it ended with {code}")

    def _forget(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        process, self._process = self._process, None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._pidfd >= 0:
            with contextlib.suppress(KeyError):  # it could not be registered
                self._selector.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        return process
