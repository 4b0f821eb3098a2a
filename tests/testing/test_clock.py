"""A test moves the time of the scheduler, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from peers import BadArgument
from peers.errors import NotPermitted
from peers.testing import Clock, Database

_CLOSE = timedelta(seconds=30)


def test_the_clock_goes_on_from_where_it_was_moved_to(database: Database) -> None:
    """Forward, back, to a date, and to the database's time again."""
    clock = database.clock
    start = clock.now()
    assert start.tzinfo is UTC
    assert timedelta(0) < clock.move("1h") - start - timedelta(hours=1) < _CLOSE
    assert timedelta(0) < clock.move(-3600) - start < _CLOSE
    for back in ("-1h", -3600, timedelta(hours=-1)):
        clock.reset()
        with clock.moved(back):
            assert timedelta(0) < clock.now() - start + timedelta(hours=1) < _CLOSE
        assert timedelta(0) < clock.now() - start < _CLOSE
    day = datetime(2028, 2, 29, tzinfo=UTC)
    assert timedelta(0) < clock.set(day) - day < _CLOSE
    with clock.moved("1d"):
        assert clock.now().date() > day.date()
    assert clock.now().date() == day.date()
    assert clock.reset() - start < _CLOSE
    with pytest.raises(BadArgument, match="time zone"):
        clock.set(datetime(2028, 1, 1))  # noqa: DTZ001 - that is the mistake


def test_a_move_in_a_transaction_ends_with_it(database: Database) -> None:
    """Others do not see it."""
    with psycopg.connect(database.url) as connection:
        before = database.clock.now()
        Clock(connection).move("1d")
        assert Clock(connection).now() - before > timedelta(hours=23)
        assert database.clock.now() - before < _CLOSE
        connection.rollback()
        assert Clock(connection).now() - before < _CLOSE


def test_only_the_owner_moves_the_clock(database: Database) -> None:
    """In production nobody else can."""
    with psycopg.connect(database.url) as connection:
        connection.execute("set role peers_operator")
        with pytest.raises(NotPermitted):
            Clock(connection).move("1h")
        connection.rollback()
