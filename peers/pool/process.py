"""One worker process, seen from its parent, which never blocks on it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

from peers.protocol.messages import ToParent, ToWorker, encode, split, to_parent
from peers.protocol.running_marker import PAGE_SIZE, Page

_READ_SIZE: Final = 1 << 18
_SOCKET_BUFFER: Final = 1 << 20
_LAST_MOMENT: Final = 2.0


class Ends:
    """What connects a worker with its parent: a socket, and the page on which it notes what runs.

    `theirs` and `page_fd` are the worker's ends, to be closed once it has them. Raises `OSError`,
    and leaves nothing behind.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as undo:
            self.ours, self.theirs = socket.socketpair()
            undo.callback(self.ours.close)
            undo.callback(self.theirs.close)
            self.page_fd = os.memfd_create("peers-page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            undo.callback(os.close, self.page_fd)
            os.ftruncate(self.page_fd, PAGE_SIZE)
            self.page = Page(self.page_fd, writable=False)
            undo.callback(self.page.close)
            self.ours.setblocking(False)
            self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
            undo.pop_all()

    def close_theirs(self) -> None:
        """The worker has its ends, or will never have them."""
        self.theirs.close()
        os.close(self.page_fd)

    def close_ours(self) -> None:
        """There is no worker, or none any more."""
        self.ours.close()
        self.page.close()


class WorkerProcess:
    """A child in a session of its own, a socket to it, and the page on which it notes what runs.

    `pidfd` turns readable when it dies; `fileno()` when it has something to say.

    Raises `OSError` when the machine has no room for it, or it is no child of ours; then it is
    killed. `ends` stay the caller's until it is there.
    """

    def __init__(
        self, ends: Ends, pid: int, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.pid = pid
        self.page = ends.page
        self._process = process
        self._ends = ends
        self._socket = ends.ours
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.pidfd = -1
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            self.pidfd = os.pidfd_open(pid)
        except OSError:
            self.kill()
            with contextlib.suppress(ChildProcessError):
                self._wait()
            raise

    @classmethod
    def start(cls, app: str, log: tuple[str, str], environment: dict[str, str]) -> WorkerProcess:
        """Start one that imports the app itself. Raises `OSError`, and leaves nothing behind."""
        ends = Ends()
        try:
            # A session of its own: Ctrl-C on a terminal is for the peer, and what a handler started
            # dies with its worker.
            process = subprocess.Popen(
                [sys.executable, "-m", "peers.worker",
                 str(ends.theirs.fileno()), str(ends.page_fd), str(os.getpid()), app, *log],
                stdin=subprocess.DEVNULL,
                pass_fds=(ends.theirs.fileno(), ends.page_fd),
                start_new_session=True,
                env=environment,
            )  # fmt: skip
            return cls(ends, process.pid, process)
        except OSError:
            ends.close_ours()
            raise
        finally:
            ends.close_theirs()

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
        if not has_ended(self.pidfd, _LAST_MOMENT):
            self.kill()
        code = self._wait()
        self.kill()  # what its handlers started may have outlived it
        self._ends.close_ours()
        os.close(self.pidfd)
        return code

    def _wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if self._process is not None:
            self._process.returncode = code  # else it would complain that nobody has waited for it
        return code


def has_ended(pidfd: int, within: float) -> bool:
    """Return whether a process ends within these seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(within * 1000))


def describe_exit(code: int) -> tuple[str | None, int | None]:
    """(signal name, None) of a process that was killed, (None, exit code) of one that ended."""
    if code >= 0:
        return None, code
    try:
        return signal.Signals(-code).name, None
    except ValueError:
        return f"signal {-code}", None
