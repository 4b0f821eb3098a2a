"""The connections of a client: kept open between requests, and checked before each use."""

from __future__ import annotations

import logging
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from peers.database.deadlines import BoundedConnection
from peers.errors import DatabaseUnreachable, PeersError

if TYPE_CHECKING:
    from peers.database.connection import Connection

_NAME: Final = "peers client"
_WAIT_FOR_FREE: Final = 30.0
_FIRST_SLICE: Final = 0.02
_LONGEST_SLICE: Final = 0.25
_CLOSE_TIMEOUT: Final = 1.0


class _Opener(BoundedConnection):
    """Makes psycopg_pool open its connections with our function."""

    @classmethod
    def connect(  # type: ignore[override]  # psycopg_pool passes what `kwargs` says
        cls, _conninfo: str = "", *, open_connection: Callable[[], BoundedConnection], **_: Any
    ) -> BoundedConnection:
        """Return a new connection."""
        return open_connection()


class _RaisedAnyway(logging.Filter):
    """Drops what psycopg_pool logs about our pools: `take` raises the same errors."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is about another pool."""
        about = record.args if isinstance(record.args, tuple) else ()
        return not any(each == _NAME or isinstance(each, BoundedConnection) for each in about)


logging.getLogger("psycopg.pool").addFilter(_RaisedAnyway())


class _Turns:
    """Lets `limit` threads in at once, in the order in which they came.

    psycopg_pool has a queue too, but a thread that looks up to see why it waits loses its place in
    it, to threads that came later.
    """

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._free = limit
        self._queue: deque[threading.Event] = deque()

    def take(self, give_up: Callable[[], bool]) -> bool:
        """Wait for a turn. Return False without one when `give_up`, asked now and then, says so.

        `give_up` may raise.
        """
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            called = threading.Event()
            self._queue.append(called)
        try:
            while not called.wait(_LONGEST_SLICE):
                if give_up():
                    break
        except BaseException:
            if not self._leave(called):
                self.give()
            raise
        return not self._leave(called)

    def _leave(self, called: threading.Event) -> bool:
        """Leave the queue; return False for a thread that has its turn."""
        with self._lock:
            if called.is_set():
                return False
            self._queue.remove(called)
            return True

    def give(self) -> None:
        """Let the next one in."""
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._free += 1


class Pool:
    """A psycopg_pool that raises the reason when it cannot connect, instead of a timeout.

    It belongs to one process: a child process after a fork needs a new one.
    """

    def __init__(self, connect: Callable[[], BoundedConnection], max_size: int) -> None:
        self._connect = connect
        self._failure: tuple[float, PeersError] | None = None
        self._turns = _Turns(max_size)
        self._pool: ConnectionPool[BoundedConnection] = ConnectionPool(
            connection_class=_Opener,
            kwargs={"open_connection": self._open},
            min_size=0,
            max_size=max_size,
            num_workers=1,
            reconnect_timeout=0.0,  # the next request tries again
            name=_NAME,
            open=True,
        )

    def take(self) -> Connection:
        """Return a connection that works, and that no other thread uses.

        Raises ConfigError and DatabaseUnreachable as `connect` does, and DatabaseUnreachable when
        all connections stay in use for 30 s.
        """
        began = time.monotonic()

        def is_over() -> bool:
            self._raise_failure_since(began)
            return self._pool.closed or time.monotonic() >= began + _WAIT_FOR_FREE

        if not self._turns.take(is_over):
            raise self._none_is_free()
        try:
            return self._take(began)
        except BaseException:
            self._turns.give()
            raise

    def _take(self, began: float) -> Connection:
        """Return an idle connection, or a new one."""
        wait = _FIRST_SLICE
        while True:
            try:
                connection = self._pool.getconn(timeout=wait)
            except PoolTimeout:
                self._raise_failure_since(began)
                if time.monotonic() >= began + _WAIT_FOR_FREE:
                    raise self._none_is_free() from None
                wait = min(2 * wait, _LONGEST_SLICE)
                continue
            except PoolClosed:
                raise self._none_is_free() from None
            if _works(connection):
                return connection
            connection.close()
            self._pool.putconn(connection)

    def _none_is_free(self) -> PeersError:
        if self._pool.closed:
            return PeersError("the client is closed", "Make another one.")
        return DatabaseUnreachable(
            f"all {self._pool.max_size} connections of the client were in use for "
            f"{_WAIT_FOR_FREE:g} s",
            "Give the client a larger max_connections.",
        )

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        assert isinstance(connection, BoundedConnection)
        self._pool.putconn(connection)
        self._turns.give()

    def discard(self, connection: Connection) -> None:
        """Close a connection that is broken."""
        connection.close()
        self.give_back(connection)

    def close(self) -> None:
        """Close the connections that are not in use now, and the others when they come back."""
        self._pool.close(_CLOSE_TIMEOUT)

    def _open(self) -> BoundedConnection:
        """Connect, in a thread of the pool."""
        try:
            return self._connect()
        except PeersError as error:
            self._failure = time.monotonic(), error
            raise

    def _raise_failure_since(self, began: float) -> None:
        if self._failure is not None and self._failure[0] >= began:
            error = self._failure[1]
            raise type(error)(error.message, error.hint) from error


def _works(connection: Connection) -> bool:
    """Return whether an idle connection is good, without a round trip.

    A server that was restarted has closed it, so its socket is readable. That costs 2 µs, and a
    query to ask costs 50 µs and more.
    """
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if not poll.poll(0):
        return True
    try:
        connection.execute("select 1")
    except psycopg.Error:
        return False
    return True
