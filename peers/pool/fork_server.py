"""The parent's side of a fork server: the process that has imported the app, to fork workers from.

It is never waited for: what is asked of it is answered through the selector, or it is given up.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from peers.pool.fork_server_start import Order, start
from peers.pool.missing import Purpose
from peers.pool.process import Ends, WorkerProcess, describe_exit
from peers.protocol.messages import (
    Broken,
    Forked,
    FromForkServer,
    NotForked,
    Preloaded,
    Unforkable,
    from_fork_server,
    split,
)

_READ_SIZE: Final = 1 << 16
_REQUEST: Final = b"f"
_PR_SET_CHILD_SUBREAPER: Final = 36
IMPORT_WITHIN: Final = 60.0
ANSWER_WITHIN: Final = 5.0
"""Seconds for a fork, which takes milliseconds: else the fork server is stopped, or swapped out."""


@dataclass(slots=True, eq=False)
class Asked:
    """A worker that was asked for and is not there yet; `ends` once the request was sent."""

    slot: int
    purpose: Purpose
    ends: Ends | None = None


class Owner(Protocol):
    """Who is told what a fork server says. Each is called from the selector or from `watch`."""

    def forked(self, asked: Asked, process: WorkerProcess) -> None:
        """Take over a worker."""

    def not_forked(self, error: str) -> None:
        """There is no room for another process at the moment."""

    def broken(self, server: ForkServer, message: Broken) -> None:
        """The app cannot be imported; the server ends."""

    def unforkable(self, server: ForkServer, reason: str) -> None:
        """Workers have to import the app themselves; the server can become one, or end."""

    def lost(self, server: ForkServer, reason: str) -> None:
        """The server is dead, or was given up. Nobody has what was `asked` of it."""


class ForkServer:
    """One fork server process. Raises `OSError` when the machine has no room for it."""

    def __init__(
        self, app: str, log: tuple[str, str], environment: dict[str, str],
        selector: selectors.BaseSelector, owner: Owner,
    ) -> None:  # fmt: skip
        self.ready = False
        self.asked: deque[Asked] = deque()
        self._owner = owner
        self._selector = selector
        self._incoming = bytearray()
        self._due = time.monotonic() + IMPORT_WITHIN
        self._pidfd = -1
        self._closed = False
        started = start(Order(app, log, environment))
        self._socket, self._process = started.socket, started.process
        self.pid = self._process.pid
        try:
            self._socket.setblocking(False)
            self._pidfd = os.pidfd_open(self.pid)
            selector.register(self._socket, selectors.EVENT_READ, self._listen)
            selector.register(self._pidfd, selectors.EVENT_READ, self._died)
        except OSError:
            self.close()
            raise

    @property
    def is_forking(self) -> bool:
        """Whether it has requests that it has not answered."""
        return bool(self.asked) and self.asked[0].ends is not None

    def ask(self, slot: int, purpose: Purpose) -> None:
        """Ask for a worker: now, or when the app is imported."""
        self.asked.append(Asked(slot, purpose))

    def send(self) -> None:
        """Send what was asked for. Raises `OSError`; what it did not take is forgotten."""
        if not self.ready:
            return
        if not self.is_forking:
            self._due = time.monotonic() + ANSWER_WITHIN
        unsent = [asked for asked in self.asked if asked.ends is None]
        for number, asked in enumerate(unsent):
            try:
                asked.ends = self._send()
            except OSError:
                for lost in unsent[number:]:
                    self.asked.remove(lost)
                raise

    def watch(self, now: float) -> None:
        """Give it up when it has taken too long."""
        if now > self.next_deadline():
            did = "answered a request" if self.ready else "imported the app"
            limit = ANSWER_WITHIN if self.ready else IMPORT_WITHIN
            self._owner.lost(self, f"it has not {did} within {limit:g} s")

    def next_deadline(self) -> float:
        """When (monotonic) it will have taken too long."""
        return self._due if self.asked or not self.ready else float("inf")

    def close(self) -> int:
        """End it, and what it has started; return its exit code. Workers live on.

        A worker that it has forked without telling gets another parent, and ends.
        """
        if self.is_forking:
            adopt_orphans(False)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._let_go()
        return self._process.wait()

    def become_worker(self) -> tuple[Asked, WorkerProcess]:
        """Make the worker of this process that was asked for first, so that its import counts.

        Raises `OSError`; then it is still to be closed.
        """
        ends = self._send()
        try:
            process = WorkerProcess(ends, self.pid, self._process)
        except OSError:
            ends.close_ours()
            raise
        asked = self.asked.popleft()
        self._let_go()
        return asked, process

    def _let_go(self) -> None:
        for registered in (self._socket, self._pidfd):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(registered)
        self._socket.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        for asked in self.asked:
            if asked.ends is not None:
                asked.ends.close_ours()
        self.asked.clear()
        self._closed = True

    def _send(self) -> Ends:
        ends = Ends()
        adopt_orphans(True)
        try:
            socket.send_fds(self._socket, [_REQUEST], [ends.theirs.fileno(), ends.page_fd])
        except OSError:
            ends.close_ours()
            raise
        finally:
            ends.close_theirs()
        return ends

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # empty, or closed by another event of the same turn
            while data := self._socket.recv(_READ_SIZE):
                self._incoming += data
        try:
            for body in split(self._incoming):
                if self._closed:
                    return
                self._take(from_fork_server.decode(body))
        except msgspec.MsgspecError as error:
            self._owner.lost(self, f"it sent garbage ({error})")

    def _take(self, message: FromForkServer) -> None:
        match message:
            case Preloaded():
                self.ready = True
                try:
                    self.send()
                except OSError as error:
                    self._owner.not_forked(str(error))
            case Forked(pid):
                self._adopt(pid)
            case NotForked(error):
                asked = self._answered()
                assert asked.ends is not None
                asked.ends.close_ours()
                self._owner.not_forked(error)
            case Broken():
                self._owner.broken(self, message)
            case Unforkable(reason):
                self._owner.unforkable(self, reason)

    def _answered(self) -> Asked:
        self._due = time.monotonic() + ANSWER_WITHIN
        return self.asked.popleft()

    def _adopt(self, pid: int) -> None:
        asked = self._answered()
        assert asked.ends is not None
        try:
            process = WorkerProcess(asked.ends, pid)
        except ChildProcessError:
            asked.ends.close_ours()
            self._owner.lost(self, "the system did not make the peer the parent of its workers")
        except OSError as error:
            asked.ends.close_ours()
            self._owner.not_forked(str(error))
        else:
            self._owner.forked(asked, process)

    def _died(self) -> None:
        self._listen()  # its last words may say why
        if self._closed:
            return
        code = self._process.wait()
        signal_name, _ = describe_exit(code)
        how = f"was killed by {signal_name}" if signal_name else f"exited with code {code}"
        self._owner.lost(self, f"it {how}")


def adopt_orphans(adopt: bool) -> None:
    """Be the process to which the kernel gives the children of those below it that end, or not.

    Only while a worker is forked: what handlers leave behind is not for the peer to wait for.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt))
