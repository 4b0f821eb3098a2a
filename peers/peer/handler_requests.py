"""Execute what handlers request from the scheduler, outside of the main loop.

A graph of 150,000 tasks takes the database half a minute. The main loop must not wait for it, since
it holds the leases of all tasks. So two threads execute requests, each on a connection of its own:
one takes small requests, one takes large ones, so that no small request waits behind a graph. A
thread and its connection exist only while there are requests, and a little longer.

`peers.peer.request_verbs` defines what each request does.
"""

from __future__ import annotations

import contextlib
import queue
import selectors
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

import psycopg

from peers.client.transaction import LazyConnection, await_end
from peers.database.deadlines import BoundedConnection
from peers.errors import DatabaseUnreachable, PeersError
from peers.peer.wakeup import Waker
from peers.pool.lease import Lease

Reply: TypeAlias = bytes | PeersError
Execute: TypeAlias = Callable[[LazyConnection, "Request"], bytes]

_IDLE_SECONDS: Final = 2.0
_FAIL_FAST_SECONDS: Final = 1.0
_LARGE_BYTES: Final = 32 << 10
"""About a graph of a few hundred tasks, which takes the database about 50 ms."""
_WAITING_BYTES_MAX: Final = 512 << 20
"""Bytes of large requests that wait in this process."""
_ABORT_WITHIN: Final = 2.0
"""Seconds. The server checks twice a second whether a connection was cut, and then aborts."""

# A half-open connection must not keep a task's row locked. A cut one must stop working.
_COMMON: Final = {
    "idle_in_transaction_session_timeout": "5s",
    "client_connection_check_interval": "500ms",
}
_SMALL: Final = {"statement_timeout": "10s", "lock_timeout": "250ms"}
_LARGE: Final = {"statement_timeout": "15min", "lock_timeout": "1min"}


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A handler's request. The main loop calls `reply` once.

    A progress report that a later one has replaced gets no reply.
    """

    peer_id: UUID
    lease: Lease
    verb: str
    body: bytes
    reply: Callable[[Reply], None]


class HandlerRequests:
    """Takes requests from the main loop, and delivers the replies through its selector."""

    def __init__(
        self,
        connect: Callable[[], BoundedConnection],
        selector: selectors.BaseSelector,
        execute: Execute,
    ) -> None:
        self._replies: queue.SimpleQueue[tuple[Request, Reply]] = queue.SimpleQueue()
        self._waker = Waker(selector, self._dispatch_replies)
        self._small = _RequestThread("requests", _Connect(connect, _SMALL), execute, self._deliver)
        self._large = _RequestThread(
            "large requests", _Connect(connect, _LARGE), execute, self._deliver
        )

    def submit(self, request: Request) -> None:
        """Execute a request in the background."""
        thread = self._large if len(request.body) > _LARGE_BYTES else self._small
        if thread is self._large and thread.waiting_bytes > _WAITING_BYTES_MAX:
            reason = f"more than {_WAITING_BYTES_MAX >> 20} MiB of submissions wait in this peer"
            request.reply(DatabaseUnreachable(reason, "Try again later."))
            return
        try:
            thread.put(request)
        except RuntimeError as error:  # the system refuses another thread
            reason = f"this peer cannot start a thread for the request: {error}"
            request.reply(DatabaseUnreachable(reason, "Try again later."))

    def forget(self, leases: Collection[Lease]) -> None:
        """Abort the requests of these tasks: they were stopped, or have failed."""
        for thread in (self._small, self._large):
            thread.forget(leases)

    def await_quiet(self) -> None:
        """Wait until the database has ended aborted requests, so that tasks can be released."""
        for thread in (self._small, self._large):
            thread.await_quiet(_ABORT_WITHIN)

    def stop(self) -> None:
        """End the threads. Deliver no more replies."""
        ended = [thread.stop(_ABORT_WITHIN) for thread in (self._small, self._large)]
        self._waker.unregister()
        if all(ended):
            self._waker.close()

    def _deliver(self, request: Request, reply: Reply) -> None:
        """Pass a reply from a thread to the main loop."""
        self._replies.put((request, reply))
        self._waker.wake()

    def _dispatch_replies(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                request, reply = self._replies.get_nowait()
                request.reply(reply)


class _Connect:
    """Connects, and sets these limits for the session, or behind a pooler for each transaction.

    After a failure it fails fast for a moment. Otherwise each of many handlers would wait for its
    own try while the database is unreachable.
    """

    def __init__(self, connect: Callable[[], BoundedConnection], limits: dict[str, str]) -> None:
        self._connect = connect
        self._limits = _COMMON | limits
        self._failure: PeersError | None = None
        self._fails_until = 0.0

    def __call__(self) -> BoundedConnection:
        if self._failure is not None and time.monotonic() < self._fails_until:
            raise type(self._failure)(self._failure.message, self._failure.hint)
        try:
            connection = self._connect()
        except PeersError as error:
            self._failure, self._fails_until = error, time.monotonic() + _FAIL_FAST_SECONDS
            raise
        settings = {}
        for name, value in self._limits.items():
            # client_connection_check_interval does not exist on every operating system
            with contextlib.suppress(psycopg.errors.InvalidParameterValue):
                connection.execute(
                    "select set_config(%s, %s, %s)", (name, value, connection.pooled)
                )
                settings[name] = value
        if connection.pooled:
            connection.local_settings = settings
        return connection


class _RequestThread:
    """Executes one request after the other, in a thread that ends when there are no more."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], BoundedConnection],
        execute: Execute,
        deliver: Callable[[Request, Reply], None],
    ) -> None:
        self._name = name
        self._connection = LazyConnection(connect)
        self._execute = execute
        self._deliver = deliver
        self._changed = threading.Condition()
        self._waiting: dict[object, Request] = {}
        self._running: Request | None = None
        self._aborting = False
        self._thread: threading.Thread | None = None
        self._stopping = False

    @property
    def waiting_bytes(self) -> int:
        """Return the size of the requests that wait."""
        with self._changed:
            return sum(len(request.body) for request in self._waiting.values())

    def put(self, request: Request) -> None:
        """Queue a request; a new progress replaces the task's older one. Raises RuntimeError."""
        replaces = request.verb == "progress"
        with self._changed:
            if self._thread is None and not self._stopping:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
            self._waiting[(request.lease, "progress") if replaces else request] = request
            self._changed.notify_all()

    def forget(self, leases: Collection[Lease]) -> None:
        """Drop waiting requests of these tasks, and abort a running one."""
        if self._thread is None:
            return
        gone = set(leases)
        with self._changed:
            for key, request in list(self._waiting.items()):
                if request.lease in gone:
                    del self._waiting[key]
                    self._deliver(request, DatabaseUnreachable("the task has ended"))
            if self._running is not None and self._running.lease in gone:
                self._aborting = True
                self._connection.cut()

    def await_quiet(self, timeout: float) -> None:
        """Wait until no aborted request is running."""
        with self._changed:
            self._changed.wait_for(lambda: not self._aborting, timeout)

    def stop(self, timeout: float) -> bool:
        """End the thread; return whether it has ended in time."""
        with self._changed:
            self._stopping = True
            if self._running is not None:
                self._connection.cut()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _run(self) -> None:
        while (request := self._next()) is not None:
            reply: Reply
            try:
                reply = self._execute(self._connection, request)
            except PeersError as error:
                reply = error
            except Exception as error:  # noqa: BLE001  # the handler waits for a reply
                reply = PeersError(f"{request.verb}: {error!r}")
            if self._connection.was_cut:
                self._await_abort()
            self._deliver(request, reply)

    def _next(self) -> Request | None:
        with self._changed:
            self._running = None
            self._aborting = False
            if self._connection.was_cut:  # it was cut after its request had ended
                self._connection.renew()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._stopping, _IDLE_SECONDS)
            if self._stopping or not self._waiting:
                self._thread = None
                self._connection.close()
                return None
            self._running = self._waiting.pop(next(iter(self._waiting)))
            return self._running

    def _await_abort(self) -> None:
        """Wait for the end of the transaction whose connection was cut, for `await_quiet`."""
        self._connection.renew()
        if self._connection.transaction is not None:
            with contextlib.suppress(PeersError):
                await_end(self._connection, _ABORT_WITHIN)
            self._connection.transaction = None
