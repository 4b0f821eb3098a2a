"""One worker process, as its peer sees it. The peer never blocks on it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

from peers.pool import liveness
from peers.pool.stack_dump import StackDump
from peers.protocol.messages import ToParent, ToWorker, encode, split, to_parent
from peers.protocol.running_marker import MARKER_SIZE, RunningMarker

_READ_SIZE: Final = 1 << 18
_SOCKET_BUFFER: Final = 1 << 20
_EXIT_WITHIN: Final = 2.0
_PR_SET_CHILD_SUBREAPER: Final = 36


class WorkerConnection:
    """What connects a worker with its peer: a socket, the running marker, and the output pipe.

    `theirs`, `marker_fd` and `output_fd` are the worker's ends, to be closed once it has them.
    Raises `OSError`, and leaves nothing behind.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as undo:
            self.ours, self.theirs = socket.socketpair()
            undo.callback(self.ours.close)
            undo.callback(self.theirs.close)
            self.marker_fd = os.memfd_create("peers-marker", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            undo.callback(os.close, self.marker_fd)
            os.ftruncate(self.marker_fd, MARKER_SIZE)
            self.marker = RunningMarker(self.marker_fd, writable=False)
            undo.callback(self.marker.close)
            self.output, self.output_fd = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, self.output)
            undo.callback(os.close, self.output_fd)
            os.set_blocking(self.output, False)
            self.ours.setblocking(False)
            self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
            undo.pop_all()

    def close_theirs(self) -> None:
        """Close the worker's ends: it has them now, or will never have them."""
        self.theirs.close()
        os.close(self.marker_fd)
        os.close(self.output_fd)

    @property
    def theirs_fds(self) -> tuple[int, ...]:
        """Return the descriptors of the worker's ends, in the order of `peers.worker`."""
        return self.theirs.fileno(), self.marker_fd, self.output_fd

    def close_ours(self) -> None:
        """Close our ends: there is no worker, or it is dead."""
        self.ours.close()
        self.marker.close()
        os.close(self.output)


class WorkerProcess:
    """A child in a session of its own, and our connection to it.

    `pidfd` becomes readable when it exits, `fileno()` when it has sent something.

    Raises `OSError` when no descriptor is free, or it is not our child; then it is killed, and the
    caller still has to close `connection`.
    """

    def __init__(
        self,
        connection: WorkerConnection,
        pid: int,
        process: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.pid = pid
        self.marker = connection.marker
        self.output = connection.output
        """Our end of the output pipe."""
        self._process = process
        self._connection = connection
        self._socket = connection.ours
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.pidfd = -1
        self.stack_dump: StackDump | None = None
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
        """Start a worker that imports the app. Raises `OSError`, and leaves nothing behind."""
        connection = WorkerConnection()
        try:
            # A session of its own: so Ctrl-C on a terminal reaches the peer only, and the processes
            # that a handler has started are killed with its worker.
            process = subprocess.Popen(
                [sys.executable, "-m", "peers.worker",
                 *map(str, connection.theirs_fds), str(liveness.log_fd()), str(os.getpid()),
                 app, *log],
                stdin=subprocess.DEVNULL,
                pass_fds=(
                    *connection.theirs_fds, *liveness.inherited_by_workers(),
                ),
                start_new_session=True,
                env=environment,
            )  # fmt: skip
            return cls(connection, process.pid, process)
        except OSError:
            connection.close_ours()
            raise
        finally:
            connection.close_theirs()

    def fileno(self) -> int:
        """Return the socket's descriptor, for a selector."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Return whether bytes wait for the socket to take them: then select for writing, too."""
        return bool(self._outgoing)

    def send(self, message: ToWorker) -> None:
        """Send what the socket takes now, and keep the rest."""
        self._outgoing += encode(message)
        self.push()

    def push(self) -> None:
        """Send the rest that was kept."""
        with contextlib.suppress(
            OSError
        ):  # full, closed, or no memory: tried again, unless it dies
            while self._outgoing:
                sent = self._socket.send(self._outgoing)
                del self._outgoing[:sent]

    def receive(self) -> Iterator[ToParent]:
        """Yield the messages that have come; none when the worker is dead (see `pidfd`).

        Raises `msgspec.DecodeError` for anything else: a handler has written into the socket.
        """
        with contextlib.suppress(OSError):  # empty, closed, or no memory
            while data := self._socket.recv(_READ_SIZE):
                self._incoming += data
                for body in split(self._incoming):
                    yield to_parent.decode(body)

    def kill(self) -> None:
        """Kill it and the processes that it has started; safe from any thread, and repeatedly."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Return the exit code of a dead worker (negative: the signal), and close everything.

        A worker that was asked to stop has a moment to do so.
        """
        if not has_ended(self.pidfd, _EXIT_WITHIN):
            self.kill()
        code = self._wait()
        self.kill()  # processes that its handlers started may still run
        self._connection.close_ours()
        os.close(self.pidfd)
        if self.stack_dump is not None:
            self.stack_dump.close()
        return code

    def _wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if self._process is not None:
            self._process.returncode = code  # or Popen would warn that nobody has waited for it
        return code


def has_ended(pidfd: int, within: float) -> bool:
    """Return whether a process ends within these seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(within * 1000))


def describe_exit(code: int) -> tuple[str | None, int | None]:
    """Return the signal that killed a process, or its exit code; the other one is None."""
    if code >= 0:
        return None, code
    try:
        return signal.Signals(-code).name, None
    except ValueError:
        return f"signal {-code}", None


def adopt_orphans(adopt: bool) -> None:
    """Let the kernel make this process the parent of its descendants' orphans, or not.

    Only while a worker is forked: the peer does not wait for processes that handlers leave behind.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt))
