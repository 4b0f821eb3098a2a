"""The parent's side of the process that kills what workers leave behind when the peer is killed."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from typing import IO, Final

from peers import events
from peers.pool import kill_orphans

_AGAIN_AFTER: Final = 1.0
"""Seconds between two starts at least."""
_LAST_MOMENT: Final = 2.0


class OrphanKiller:
    """One small process for each peer, told which process groups the workers lead.

    It outlives the peer by the moment that its work takes. When it dies it is replaced.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: IO[bytes] | None = None
        self._pidfd = -1
        self._again_at = 0.0

    @property
    def pid(self) -> int | None:
        """Its pid; None: there is none at the moment."""
        return None if self._process is None else self._process.pid

    def began(self, group: int) -> None:
        """A worker leads this group now."""
        self._groups.add(group)
        self._tell(b"+%d\n" % group)

    def ended(self, group: int) -> None:
        """Nothing of this group is left; its number may be another's soon."""
        self._groups.discard(group)
        self._tell(b"-%d\n" % group)

    def ensure(self) -> None:
        """Start the process if there is none. What goes wrong is told, and tried again later."""
        if self._process is not None or time.monotonic() < self._again_at:
            return
        self._again_at = time.monotonic() + _AGAIN_AFTER
        try:
            self._start()
        except OSError as error:
            self.close()
            events.orphan_killer_missing(reason=str(error))

    def close(self) -> None:
        """End it. What is left of the groups that have not `ended` is killed."""
        if self._process is not None:
            process = self._forget()
            try:
                process.wait(_LAST_MOMENT)
            except subprocess.TimeoutExpired:  # somebody has stopped it
                process.kill()
                process.wait()

    def _start(self) -> None:
        # A session of its own: Ctrl-C on a terminal is for the peer. It holds nothing of ours but
        # the end of one pipe, neither a log's nor a folder. The groups that there are stand in its
        # arguments, so that it knows them at once: the peer may be killed in the next moment.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", kill_orphans.__file__, *map(str, sorted(self._groups))],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, cwd="/",
        )  # fmt: skip
        assert process.stdin is not None
        self._pipe = process.stdin
        os.set_blocking(self._pipe.fileno(), False)
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._selector.register(self._pidfd, selectors.EVENT_READ, self._bury)

    def _tell(self, line: bytes) -> None:
        """Say it, in one piece: a pipe takes a short line whole or not at all."""
        if self._process is None or self._pipe is None:
            return
        try:
            os.write(self._pipe.fileno(), line)
        except BlockingIOError:  # it does not read: the next one is told everything
            self._process.kill()
        except OSError:  # it is dead, and will be buried in a moment
            pass

    def _bury(self) -> None:
        """It is dead."""
        code = self._forget().wait()
        events.orphan_killer_missing(reason=f"it ended with {code}")

    def _forget(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        process, self._process = self._process, None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._pidfd >= 0:
            with contextlib.suppress(KeyError):  # the selector had no room for it
                self._selector.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        return process
