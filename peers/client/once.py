"""Submit in a transaction of its own: once, whatever becomes of the connection."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

import psycopg

from peers.database.backoff import Backoff
from peers.database.connection import Connection, is_connection_lost
from peers.errors import DatabaseUnreachable, PeersError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_TRIES: Final = 6
_DEADLOCK_OR_SERIALIZATION: Final = frozenset({"40P01", "40001"})
_FATE_PATIENCE: Final = 30.0
"""Seconds to ask what became of a COMMIT; a peer's sessions end half-open ones well before."""


class Abandoned(DatabaseUnreachable):
    """Nobody waits for the answer any more, and the connection was cut off."""


class LazyConnection:
    """A connection that is made when it is first needed, and made again after a loss.

    It belongs to one thread; any other may `cut` it.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._socket = -1
        self._cut = False
        self.transaction: str | None = None
        """The submission that is under way."""

    def get(self) -> Connection:
        """Return the connection. Raises what connecting raises, and `Abandoned` after `cut`."""
        if self._connection is None:
            connection = self._connect()
            try:
                # a copy of our own: libpq closes its descriptor when it likes, and its number may
                # then be another file's
                copy = os.dup(connection.fileno())
            except OSError as error:
                connection.close()
                raise DatabaseUnreachable(f"no descriptor is free: {error}") from error
            with self._lock:
                self._connection, self._socket = connection, copy
        if self._cut:
            raise Abandoned("the task has ended meanwhile; what it asked for was given up")
        return self._connection

    def close(self) -> None:
        """Hang up; `get` connects again, unless the connection was cut."""
        with self._lock:
            connection, self._connection = self._connection, None
            if self._socket >= 0:
                os.close(self._socket)
                self._socket = -1
        if connection is not None:
            connection.close()

    def renew(self) -> None:
        """Hang up and forget that it was cut: what follows is another request's."""
        self.close()
        self._cut = False

    def cut(self) -> None:
        """Break the connection from another thread: who waits on it meets `Abandoned`.

        The server aborts what is under way, unless it has the COMMIT already.
        """
        with self._lock:
            self._cut = True
            if self._socket >= 0:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._socket)) as it:
                    it.shutdown(socket.SHUT_RDWR)

    @property
    def is_broken(self) -> bool:
        """Whether it was lost, whatever the last error said (a timeout of the server, say)."""
        return self._connection is None or self._connection.closed

    @property
    def was_cut(self) -> bool:
        """Whether it is of no use until it is renewed."""
        return self._cut


def submit_once(
    connection: LazyConnection,
    begin: Callable[[Connection], str],
    submit: Callable[[Connection], T],
) -> T:
    """Run `begin`, which returns the transaction's id, and `submit`; commit; return the answer.

    When the connection breaks before the COMMIT, or the database asks for it (a deadlock), all is
    tried again. When it breaks during the COMMIT the database is asked what became of it: what is
    returned exists once, and after an error nothing exists, unless the error says that its fate is
    unknown. Raises `DatabaseUnreachable`, and what the database refuses.
    """
    backoff = Backoff()
    connection.get()  # no database at all is told at once
    for tries_left in reversed(range(_TRIES)):
        try:
            return _try(connection, begin, submit)
        except _Undone as undone:
            if not tries_left or connection.was_cut:
                raise undone.error from None
            time.sleep(backoff.next())
    raise AssertionError("the last try returns or raises")


class _Undone(Exception):  # noqa: N818 - what is the matter is in `error`
    """Nothing was submitted, and another try may succeed."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _try(
    connection: LazyConnection,
    begin: Callable[[Connection], str],
    submit: Callable[[Connection], T],
) -> T:
    answered: tuple[T] | None = None  # once only the COMMIT is missing
    try:
        current = connection.get()
        with current.transaction():
            connection.transaction = begin(current)
            answer = submit(current)
            # a COMMIT that is cancelled while it waits for a standby looks like a success
            current.execute("set local statement_timeout to 0")
            answered = (answer,)
        connection.transaction = None
        return answer
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
            raise Abandoned("the task has ended meanwhile; its submission was given up") from error
        connection.close()
        is_committed = answered is not None and _was_committed(connection)
        connection.transaction = None
        if answered is None or not is_committed:
            raise _Undone(_nothing_submitted(error)) from error
        return answered[0]


def _nothing_submitted(error: psycopg.Error) -> DatabaseUnreachable:
    return DatabaseUnreachable(
        f"lost the database while submitting; nothing was submitted: {error}", "Try again."
    )


def _was_committed(connection: LazyConnection) -> bool:
    """Ask what became of the transaction whose COMMIT was not answered.

    Raises `DatabaseUnreachable` when nobody can tell.
    """
    status = await_end(connection, _FATE_PATIENCE)
    if status in ("committed", "aborted"):
        return status == "committed"
    connection.transaction = None
    raise DatabaseUnreachable(
        "lost the database during the COMMIT of a submission, whose fate is unknown",
        "With an idempotency key it is safe to submit again.",
    )


def await_end(connection: LazyConnection, patience: float) -> str | None:
    """Wait until the transaction under way is over; return "committed", "aborted" or else."""
    backoff, give_up = Backoff(cap=1.0), time.monotonic() + patience
    status: str | None = "in progress"
    while status == "in progress" and time.monotonic() < give_up:
        try:
            [[status]] = connection.get().execute(
                "select pg_xact_status(%s::xid8)", (connection.transaction,)
            )
        except psycopg.errors.InvalidParameterValue:
            return "aborted"  # "in the future": the server after a failover has never seen it
        except Abandoned:
            raise
        except (psycopg.Error, PeersError):
            connection.close()
        if status == "in progress":
            time.sleep(backoff.next())
    return status
