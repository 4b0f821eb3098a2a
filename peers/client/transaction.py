"""Run a transaction exactly once, even when its connection breaks."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final, LiteralString, TypeAlias, TypeVar

import psycopg
from psycopg.rows import tuple_row

from peers.database.backoff import Backoff
from peers.database.connection import Connection, is_connection_lost
from peers.errors import DatabaseUnreachable, PeersError, translated

T = TypeVar("T")
Transact: TypeAlias = Callable[[Connection], AbstractContextManager[T]]

_TRIES: Final = 6
_DEADLOCK_OR_SERIALIZATION: Final = frozenset({"40P01", "40001"})
_FATE_TIMEOUT: Final = 30.0
"""Seconds to ask about a COMMIT. A peer's sessions end half-open transactions long before that."""


class Abandoned(DatabaseUnreachable):
    """The task that asked has ended, so the connection was cut."""


class LazyConnection:
    """A connection that is made at its first use, and made again after a loss.

    It belongs to one thread. Other threads may call `cut`. `discard` closes a connection.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        discard: Callable[[Connection], None] = psycopg.Connection.close,
    ) -> None:
        self._connect = connect
        self._discard = discard
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._socket = -1
        self._cut = False
        self.transaction: str | None = None
        """The id of the transaction that is in progress."""

    def get(self) -> Connection:
        """Return the connection. Raises what connecting raises, and `Abandoned` after `cut`."""
        if self._connection is None:
            connection = self._connect()
            try:
                # libpq may close its descriptor at any time, and another file may get the number:
                # `cut` needs a copy
                copy = os.dup(connection.fileno())
            except OSError as error:
                self._discard(connection)
                raise DatabaseUnreachable(f"no descriptor is free: {error}") from error
            with self._lock:
                self._connection, self._socket = connection, copy
        if self._cut:
            raise Abandoned("the task has ended meanwhile; its request was abandoned")
        return self._connection

    def close(self) -> None:
        """Close the connection. `get` connects again, unless the connection was cut."""
        connection = self.detach()
        if connection is not None:
            self._discard(connection)

    def detach(self) -> Connection | None:
        """Return the connection, if there is one, and forget it."""
        with self._lock:
            connection, self._connection = self._connection, None
            if self._socket >= 0:
                os.close(self._socket)
                self._socket = -1
        return connection

    def renew(self) -> None:
        """Close the connection, and allow another request to connect after a cut."""
        self.close()
        self._cut = False

    def cut(self) -> None:
        """Break the connection from another thread. The owner gets `Abandoned`.

        The server aborts the transaction, unless the COMMIT has already arrived there.
        """
        with self._lock:
            self._cut = True
            if self._socket >= 0:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._socket)) as it:
                    it.shutdown(socket.SHUT_RDWR)

    @property
    def is_broken(self) -> bool:
        """Return whether the connection was lost, whatever the last error said."""
        return self._connection is None or self._connection.closed

    @property
    def was_cut(self) -> bool:
        """Return whether the connection is unusable until `renew`."""
        return self._cut


def run_once(
    connection: LazyConnection,
    begin: Callable[[Connection], str],
    work: Callable[[Connection], T],
) -> T:
    """Run `begin`, which returns the transaction's id, and `work`; commit; return work's result.

    A transaction whose connection breaks before the COMMIT, or that meets a deadlock, is run again.
    When the connection breaks during the COMMIT, the database is asked whether it was committed. So
    a result means that the work was committed once. An error means that nothing was committed,
    unless it says that the outcome is unknown. Raises `DatabaseUnreachable`, and what the database
    refuses.
    """

    @contextlib.contextmanager
    def transact(current: Connection) -> Iterator[T]:
        with current.transaction():
            connection.transaction = begin(current)
            result = work(current)
            # a COMMIT that is cancelled while it waits for a standby looks successful
            current.execute("set local statement_timeout to 0")
            yield result

    return _repeat(connection, transact)


def run_statement_once(
    connection: LazyConnection, expression: LiteralString, parameters: dict[str, str]
) -> str | None:
    """Evaluate an SQL expression once, in a transaction of its own; see `run_once`.

    This takes two round trips. The first message begins the transaction and asks for its id too.
    """
    first_message: LiteralString = (
        "begin isolation level read committed; select pg_current_xact_id()::text, (:expression), "
        "set_config('statement_timeout', '0', true)"
    ).replace(":expression", expression)

    @contextlib.contextmanager
    def transact(current: Connection) -> Iterator[str | None]:
        try:
            # only a ClientCursor sends several statements with parameters in one message
            with translated(), psycopg.ClientCursor(current, row_factory=tuple_row) as cursor:
                cursor.execute(first_message, parameters)
                cursor.nextset()
                [[connection.transaction, text, _]] = cursor.fetchall()
            yield text
            current.execute("commit")
        except BaseException:
            with contextlib.suppress(psycopg.Error):  # the first error tells more
                current.rollback()
            raise

    return _repeat(connection, transact)


def _repeat(connection: LazyConnection, transact: Transact[T]) -> T:
    """Run a transaction until it is committed, as `run_once` says."""
    backoff = Backoff()
    connection.get()  # raises at once when there is no database
    for tries_left in reversed(range(_TRIES)):
        try:
            return _try(connection, transact)
        except _Undone as undone:
            if not tries_left or connection.was_cut:
                raise undone.error from None
            time.sleep(backoff.next())
    raise AssertionError("the last try returns or raises")


class _Undone(Exception):  # noqa: N818 - the reason is in `error`
    """Nothing was committed, and another try may succeed."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _try(connection: LazyConnection, transact: Transact[T]) -> T:
    """Run `transact`, which yields the result when only the COMMIT is missing."""
    finished: tuple[T] | None = None
    try:
        with transact(connection.get()) as result:
            finished = (result,)
        connection.transaction = None
        return result
    except Abandoned:
        raise
    except DatabaseUnreachable as error:
        raise _Undone(error) from error
    except PeersError:
        connection.transaction = None
        raise
    except psycopg.Error as error:
        if not is_connection_lost(error) and not connection.is_broken:
            connection.transaction = None
            if error.sqlstate in _DEADLOCK_OR_SERIALIZATION:
                raise _Undone(error) from error
            raise
        if connection.was_cut:
            raise Abandoned("the task has ended meanwhile; its request was abandoned") from error
        connection.close()
        is_committed = finished is not None and _was_committed(connection)
        connection.transaction = None
        if finished is None or not is_committed:
            raise _Undone(_nothing_committed(error)) from error
        return finished[0]


def _nothing_committed(error: psycopg.Error) -> DatabaseUnreachable:
    return DatabaseUnreachable(
        f"lost the database during a transaction; nothing was committed: {error}", "Try again."
    )


def _was_committed(connection: LazyConnection) -> bool:
    """Ask the database whether the transaction was committed, after a COMMIT without a reply.

    Raises `DatabaseUnreachable` when that stays unknown.
    """
    status = await_end(connection, _FATE_TIMEOUT)
    if status in ("committed", "aborted"):
        return status == "committed"
    connection.transaction = None
    raise DatabaseUnreachable(
        "lost the database during a COMMIT: it is unknown whether it took effect",
        "Repeat the call only if its submission has an idempotency key; or look for the task.",
    )


def read_again_after_loss(connection: LazyConnection, read: Callable[[Connection], T]) -> T:
    """Return what `read` returns. When the connection is lost, connect and read again."""
    backoff = Backoff()
    connection.get()  # raises at once when there is no database
    for tries_left in reversed(range(_TRIES)):
        try:
            return read(connection.get())
        except DatabaseUnreachable:
            if not tries_left:
                raise
        except psycopg.Error as error:
            if not is_connection_lost(error) and not connection.is_broken:
                raise
            connection.close()
            if not tries_left:
                raise DatabaseUnreachable(f"lost the database: {error}", "Try again.") from error
        time.sleep(backoff.next())
    raise AssertionError("the last try returns or raises")


def await_end(connection: LazyConnection, timeout: float) -> str | None:
    """Wait until the transaction in progress has ended; return "committed", "aborted" or other."""
    backoff, give_up = Backoff(cap=1.0), time.monotonic() + timeout
    status: str | None = "in progress"
    while status == "in progress" and time.monotonic() < give_up:
        try:
            [[status]] = connection.get().execute(
                "select pg_xact_status(%s::xid8)", (connection.transaction,)
            )
        except psycopg.errors.InvalidParameterValue:
            return "aborted"  # "in the future": a server after a failover does not know the id
        except Abandoned:
            raise
        except (psycopg.Error, PeersError):
            connection.close()
        if status == "in progress":
            time.sleep(backoff.next())
    return status
