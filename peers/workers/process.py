"""One worker process, seen from its parent, which never blocks on it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

from peers.frames import ToParent, ToWorker, encode, split, to_parent
from peers.page import PAGE_SIZE, Page

_READ_SIZE: Final = 1 << 18
_SOCKET_BUFFER: Final = 1 << 20
_LAST_MOMENT: Final = 2.0


class WorkerProcess:
    """A child in a session of its own, a socket to it, and the page on which it notes what runs.

    `pidfd` turns readable when it dies; `fileno()` when it has something to say.

    Raises `OSError` when the machine has no room for it, and leaves nothing behind.
    """

    def __init__(self, app: str, log: tuple[str, str], environment: dict[str, str]) -> None:
        with contextlib.ExitStack() as whole, contextlib.ExitStack() as handed_over:
            ours, theirs = socket.socketpair()
            whole.callback(ours.close)
            handed_over.callback(theirs.close)
            page = os.memfd_create("peers-page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            handed_over.callback(os.close, page)
            os.ftruncate(page, PAGE_SIZE)
            self.page = Page(page, writable=False)
            whole.callback(self.page.close)
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
            # A session of its own: Ctrl-C on a terminal is for the peer, and what a handler started
            # dies with its worker.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "peers.worker",
                 str(theirs.fileno()), str(page), str(os.getpid()), app, *log],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), page),
                start_new_session=True,
                env=environment,
            )  # fmt: skip
            whole.callback(self._process.wait)
            whole.callback(self._process.kill)
            self.pid = self._process.pid
            self.pidfd = os.pidfd_open(self.pid)
            whole.pop_all()
        self._socket = ours
        self._incoming = bytearray()
        self._outgoing = bytearray()

    def fileno(self) -> int:
        """The socket's descriptor, for a selector."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether messages wait for the socket to take them: then select for writing too."""
        return bool(self._outgoing)

    def send(self, message: ToWorker) -> None:
        """Send what the socket takes now, and keep the rest."""
        self._outgoing += encode(message)
        self.push()

    def push(self) -> None:
        """Send on what was kept."""
        with contextlib.suppress(OSError):  # full, closed, or no memory: it is tried again, or dies
            while self._outgoing:
                sent = self._socket.send(self._outgoing)
                del self._outgoing[:sent]

    def receive(self) -> Iterator[ToParent]:
        """What has come; nothing more when the worker is dead (its pidfd tells).

        Raises `msgspec.DecodeError` when the worker does not speak our language: a handler wrote
        into the socket.
        """
        with contextlib.suppress(OSError):  # empty, closed, or no memory
            while data := self._socket.recv(_READ_SIZE):
                self._incoming += data
                for body in split(self._incoming):
                    yield to_parent.decode(body)

    def kill(self) -> None:
        """Kill it and what it started. Safe from any thread, and more than once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> int:
        """The exit code of a dead worker (negative: the signal); closes everything.

        One that was told to stop has a moment to do so.
        """
        try:
            code = self._process.wait(_LAST_MOMENT)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what its handlers started may have outlived it
        self._socket.close()
        self.page.close()
        os.close(self.pidfd)
        return code


def describe_exit(code: int) -> tuple[str | None, int | None]:
    """(signal name, None) of a process that was killed, (None, exit code) of one that ended."""
    if code >= 0:
        return None, code
    try:
        return signal.Signals(-code).name, None
    except ValueError:
        return f"signal {-code}", None
