"""The peer's side of a fork server: a process that has imported the app and forks workers.

The peer never blocks on it. It reads replies when the selector says so, and gives up a server
that does not reply in time.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from peers.pool.fork_server_start import ForkServerOptions, start
from peers.pool.isolation import WorkerRole
from peers.pool.process import (
    WorkerConnection,
    WorkerProcess,
    adopt_orphans,
    describe_exit,
)
from peers.protocol.messages import (
    Forked,
    FromForkServer,
    ImportFailed,
    NotForked,
    Preloaded,
    Unforkable,
    from_fork_server,
    split,
)

_READ_SIZE: Final = 1 << 16
_REQUEST: Final = b"f"
IMPORT_WITHIN: Final = 60.0
REPLY_WITHIN: Final = 5.0
"""Seconds for a fork, which takes milliseconds unless the fork server is stopped or swapped out."""


@dataclass(slots=True, eq=False)
class WorkerRequest:
    """A requested worker that does not exist yet; has a `connection` once the request was sent."""

    slot: int
    role: WorkerRole
    connection: WorkerConnection | None = None


class ForkServerListener(Protocol):
    """Reacts to a fork server. Its methods are called from the selector or from `watch`."""

    def forked(self, request: WorkerRequest, process: WorkerProcess) -> None:
        """Take over a worker."""

    def not_forked(self, error: str) -> None:
        """Note that the system refuses another process at the moment."""

    def import_failed(self, server: ForkServer, message: ImportFailed) -> None:
        """Note that the app cannot be imported; the server exits."""

    def unforkable(self, server: ForkServer, reason: str) -> None:
        """Note that workers have to import the app themselves; the server can become one."""

    def lost(self, server: ForkServer, reason: str) -> None:
        """Note that the server is dead or was given up, and its requests with it."""


class ForkServer:
    """One fork server process. Raises `OSError` when the system refuses another process."""

    def __init__(
        self, app: str, log: tuple[str, str], environment: dict[str, str],
        selector: selectors.BaseSelector, listener: ForkServerListener,
    ) -> None:  # fmt: skip
        self.ready = False
        self.requests: deque[WorkerRequest] = deque()
        self._listener = listener
        self._selector = selector
        self._incoming = bytearray()
        self._due = time.monotonic() + IMPORT_WITHIN
        self._pidfd = -1
        self._closed = False
        started = start(ForkServerOptions(app, log, environment))
        self._socket, self._process = started.socket, started.process
        self.pid = self._process.pid
        try:
            self._socket.setblocking(False)
            self._pidfd = os.pidfd_open(self.pid)
            selector.register(self._socket, selectors.EVENT_READ, self._read)
            selector.register(self._pidfd, selectors.EVENT_READ, self._on_exit)
        except OSError:
            self.close()
            raise

    @property
    def is_forking(self) -> bool:
        """Return whether there are requests without a reply."""
        return bool(self.requests) and self.requests[0].connection is not None

    def request(self, slot: int, role: WorkerRole) -> None:
        """Add a request for a worker, to be sent when the app is imported."""
        self.requests.append(WorkerRequest(slot, role))

    def send_requests(self) -> None:
        """Send the requests. Raises `OSError`, and drops the requests that were not sent."""
        if not self.ready:
            return
        if not self.is_forking:
            self._due = time.monotonic() + REPLY_WITHIN
        unsent = [request for request in self.requests if request.connection is None]
        for number, request in enumerate(unsent):
            try:
                request.connection = self._send()
            except OSError:
                for lost in unsent[number:]:
                    self.requests.remove(lost)
                raise

    def watch(self, now: float) -> None:
        """Give it up when it has taken too long."""
        if now > self.next_deadline():
            did = "replied to a request" if self.ready else "imported the app"
            limit = REPLY_WITHIN if self.ready else IMPORT_WITHIN
            self._listener.lost(self, f"it has not {did} within {limit:g} s")

    def next_deadline(self) -> float:
        """Return when (monotonic) it will have taken too long."""
        return self._due if self.requests or not self.ready else float("inf")

    def close(self) -> int:
        """Kill it and what it has started, except for workers; return its exit code.

        A worker that it has forked and not reported gets another parent, and exits.
        """
        if self.is_forking:
            adopt_orphans(False)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._release()
        return self._process.wait()

    def become_worker(self) -> tuple[WorkerRequest, WorkerProcess]:
        """Let this process be the worker that was requested first, so that its import is used.

        Raises `OSError`; then the server must still be closed.
        """
        connection = self._send()
        try:
            process = WorkerProcess(connection, self.pid, self._process)
        except OSError:
            connection.close_ours()
            raise
        request = self.requests.popleft()
        self._release()
        return request, process

    def _release(self) -> None:
        for registered in (self._socket, self._pidfd):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(registered)
        self._socket.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        for request in self.requests:
            if request.connection is not None:
                request.connection.close_ours()
        self.requests.clear()
        self._closed = True

    def _send(self) -> WorkerConnection:
        connection = WorkerConnection()
        adopt_orphans(True)
        try:
            socket.send_fds(self._socket, [_REQUEST], list(connection.theirs_fds))
        except OSError:
            connection.close_ours()
            raise
        finally:
            connection.close_theirs()
        return connection

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # empty, or closed by another event of the same turn
            while data := self._socket.recv(_READ_SIZE):
                self._incoming += data
        try:
            for body in split(self._incoming):
                if self._closed:
                    return
                self._handle(from_fork_server.decode(body))
        except msgspec.MsgspecError as error:
            self._listener.lost(self, f"it sent garbage ({error})")

    def _handle(self, message: FromForkServer) -> None:
        match message:
            case Preloaded():
                self.ready = True
                try:
                    self.send_requests()
                except OSError as error:
                    self._listener.not_forked(str(error))
            case Forked(pid):
                self._adopt(pid)
            case NotForked(error):
                request = self._take_request()
                assert request.connection is not None
                request.connection.close_ours()
                self._listener.not_forked(error)
            case ImportFailed():
                self._listener.import_failed(self, message)
            case Unforkable(reason):
                self._listener.unforkable(self, reason)

    def _take_request(self) -> WorkerRequest:
        """Return the request to which the server has replied."""
        self._due = time.monotonic() + REPLY_WITHIN
        return self.requests.popleft()

    def _adopt(self, pid: int) -> None:
        request = self._take_request()
        assert request.connection is not None
        try:
            process = WorkerProcess(request.connection, pid)
        except ChildProcessError:
            request.connection.close_ours()
            self._listener.lost(self, "the system did not make the peer the parent of its workers")
        except OSError as error:
            request.connection.close_ours()
            self._listener.not_forked(str(error))
        else:
            self._listener.forked(request, process)

    def _on_exit(self) -> None:
        self._read()  # it may have sent the reason
        if self._closed:
            return
        code = self._process.wait()
        signal_name, _ = describe_exit(code)
        how = f"was killed by {signal_name}" if signal_name else f"exited with code {code}"
        self._listener.lost(self, f"it {how}")
