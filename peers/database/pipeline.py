"""Send several statements as one transaction in one round trip, without waiting for the replies."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from peers.database.connection import is_connection_lost
from peers.database.deadlines import BoundedConnection, Bounds
from peers.errors import from_database

_BINARY: Final = 1
_CHECK_EVERY: Final = 0.1
"""Seconds between two looks whether the replies are overdue."""
_BEGIN: Final = b"begin isolation level read committed"
_COMMIT: Final = b"commit"
_SET_BOUNDS: Final = (
    b"select set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true)"
)


class Statement(NamedTuple):
    """A statement with its parameters, each in text form (0) or in binary form (1)."""

    query: bytes
    parameters: Sequence[bytes | None] = ()
    formats: Sequence[int] = ()


class StatementRefused(Exception):  # noqa: N818 - the database has refused it
    """The database has refused a statement of a transaction, so nothing was committed.

    `index` is the number of the statement. It is None if the database has refused the COMMIT.
    """

    def __init__(self, error: Exception, index: int | None) -> None:
        super().__init__(error, index)
        self.error = error
        self.index = index


class Pipeline:
    """The transaction in progress on a connection. There is at most one.

    A session of our own keeps its prepared statements. Behind a pooler nothing is prepared, and
    each transaction sets its isolation level and its bounds itself.
    """

    def __init__(self, connection: BoundedConnection) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._names: dict[bytes, bytes] = {}
        """The names of the prepared statements, by their queries."""
        self._prepared = 0
        self._expected: list[_Reply] = []
        """What the replies to come are about, the next one last."""
        self._results: list[PGresult] = []
        self._refused: StatementRefused | None = None
        self._sent_at = 0.0

    @property
    def is_busy(self) -> bool:
        """Return whether a transaction is in progress."""
        return bool(self._expected)

    @property
    def due_at(self) -> float:
        """Return when (monotonic) the replies are overdue."""
        return self._connection.due_at(self._sent_at) if self._expected else float("inf")

    def send(self, statements: Sequence[Statement], bounds: Bounds | None = None) -> None:
        """Begin a transaction of these statements. `bounds` replace those of the session."""
        pgconn, expected = self._pgconn, self._expected
        self._results, self._refused = [], None
        self._sent_at = time.monotonic()
        pgconn.enter_pipeline_mode()
        if self._connection.pooled:
            bounds = bounds or self._connection.bounds
            self._send(Statement(_BEGIN))
        if bounds is not None:
            settings = [setting.encode() for setting in bounds.settings().values()]
            self._send(Statement(_SET_BOUNDS, settings, (0, 0)))
        for index, statement in enumerate(statements):
            self._send(statement, index)
        if self._connection.pooled:
            self._send(Statement(_COMMIT))
        pgconn.pipeline_sync()
        expected.append(_Reply(is_end=True))
        expected.reverse()
        self.flush()

    def consume(self) -> None:
        """Read what has come. Raises psycopg's error if the connection is lost."""
        self._pgconn.consume_input()

    def flush(self) -> bool:
        """Send what the socket takes; return whether everything was sent."""
        return self._pgconn.flush() == 0

    def receive(self) -> list[PGresult] | None:
        """Return the results of all statements once they are committed, and None before that.

        Raises `StatementRefused`, and psycopg's error if the connection is lost.
        """
        pgconn, expected = self._pgconn, self._expected
        pgconn.consume_input()
        ended_before = False
        while expected and not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:  # the end of the results of one statement
                if ended_before:
                    raise psycopg.OperationalError("the connection has no more replies")
                ended_before = True
                continue
            ended_before = False
            self._take(result, expected)
        if expected:
            return None
        pgconn.exit_pipeline_mode()
        if self._refused is None:
            return self._results
        if self._connection.pooled:
            self._connection.rollback()
        raise self._refused

    def run(self, statement: Statement) -> PGresult:
        """Execute a statement alone, and wait for its result. Raises what the database refuses."""
        self.send([statement])
        while (results := self._receive_alone()) is None:
            if not self.await_input():
                self.check_time()
        return results[0]

    def await_input(self) -> bool:
        """Send more, or wait a moment for replies; return whether some have come."""
        poll = select.poll()
        wanted = select.POLLIN if self.flush() else select.POLLIN | select.POLLOUT
        poll.register(self._pgconn.socket, wanted)
        return any(events != select.POLLOUT for _, events in poll.poll(_CHECK_EVERY * 1000))

    def _receive_alone(self) -> list[PGresult] | None:
        try:
            return self.receive()
        except StatementRefused as refused:
            raise refused.error from refused.error.__cause__

    def check_time(self) -> None:
        """Raise `NoAnswer` if the replies are overdue."""
        if self._expected:
            self._connection.check_time(self._sent_at)

    def _send(self, statement: Statement, number: int | None = None) -> None:
        query, parameters, formats = statement
        if self._connection.pooled:
            self._pgconn.send_query_params(query, parameters, None, formats, _BINARY)
        else:
            name = self._names.get(query)
            if name is None:
                self._prepared += 1
                name = self._names[query] = b"peers_%d" % self._prepared
                self._pgconn.send_prepare(name, query)
                self._expected.append(_Reply(number, prepares=query))
            self._pgconn.send_query_prepared(name, parameters, formats, _BINARY)
        self._expected.append(_Reply(number, is_result=number is not None))

    def _take(self, result: PGresult, expected: list[_Reply]) -> None:
        status = result.status
        if status == ExecStatus.PIPELINE_SYNC:
            expected.clear()
            return
        reply = expected[-1]
        if status == ExecStatus.FATAL_ERROR:
            error = psycopg.errors.error_from_result(result, encoding="utf-8")
            if is_connection_lost(error) or error.sqlstate is None:  # None: libpq has made it
                raise error
            if self._refused is None:
                self._refused = StatementRefused(_translated(error), reply.number)
        elif reply.is_result:
            self._results.append(result)
        if reply.prepares and status != ExecStatus.COMMAND_OK:
            self._names.pop(reply.prepares, None)
        if not reply.is_end:
            expected.pop()


def _translated(error: psycopg.Error) -> Exception:
    ours = from_database(error)
    if ours is None:
        return error
    ours.__cause__ = error
    return ours


class _Reply(NamedTuple):
    """What a reply is about: the statement with this number, its preparation, or the end."""

    number: int | None = None
    is_result: bool = False
    is_end: bool = False
    prepares: bytes = b""
