"""Move the time of the scheduler in a test's database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import Cursor
from psycopg.rows import tuple_row

from peers.errors import BadArgument, PeersError, translated
from peers.spans import timedelta_of
from peers.testing.places import connection_of

if TYPE_CHECKING:
    from peers.spans import Span
    from peers.testing.places import Place

_MOVE = """
    insert into peers.clock (shift) values (%s)
    on conflict (one_row) do update set shift = clock.shift + excluded.shift
"""


class Clock:
    """The time of the scheduler: the database's clock, and how far a test has moved it.

    It goes on from where it was moved to. Due times, retries, schedules, leases and cooldowns
    follow it; timeouts of handlers, and your own `datetime.now()`, do not. Only the role that owns
    the schema may move it. In a session, the move ends with the transaction.

    place: a URL, a Database, or a session; None: the database of the fixture `peers_database`.
    """

    def __init__(self, place: Place | None = None) -> None:
        self._place = place

    def now(self) -> datetime:
        """Return the scheduler's time, in UTC."""
        return self._run("select peers.now()")

    def move(self, span: Span) -> datetime:
        """Move the clock forward, or back by a span such as "-1h", and return the new time."""
        return self._run(_MOVE, _signed(span))

    def set(self, moment: datetime) -> datetime:
        """Set the clock to this time. A time without a time zone is an error."""
        if moment.tzinfo is None:
            raise BadArgument(f"moment must have a time zone, not {moment!r}")
        return self._run(
            "insert into peers.clock (shift) values (%s::timestamptz - clock_timestamp())"
            " on conflict (one_row) do update set shift = excluded.shift",
            moment,
        )

    def reset(self) -> datetime:
        """Set the clock to the database's time."""
        return self._run("delete from peers.clock")

    @contextmanager
    def moved(self, span: Span) -> Iterator[None]:
        """Move the clock for a `with` block, and move it back by as much at the end."""
        by = _signed(span)
        self.move(by)
        try:
            yield
        except BaseException:
            with suppress(psycopg.Error, PeersError):  # a session's transaction may have failed
                self.move(-by)
            raise
        self.move(-by)

    def _run(self, statement: str, *arguments: datetime | timedelta) -> datetime:
        with connection_of(self._place) as connection, translated():
            return run_statement(connection, statement, arguments)


def _signed(span: Span) -> timedelta:
    if isinstance(span, str) and span.startswith("-"):
        return -timedelta_of(span[1:])
    return timedelta_of(span)


def run_statement(
    connection: psycopg.Connection[Any], statement: str, arguments: tuple[object, ...]
) -> datetime:
    """Execute a statement, and return the scheduler's time after it."""
    with Cursor(connection, row_factory=tuple_row) as cursor:
        cursor.execute(statement.encode(), arguments)
        cursor.execute("select peers.now()", binary=True)
        [(now,)] = cursor.fetchall()
    moment: datetime = now
    return moment.astimezone(UTC)
