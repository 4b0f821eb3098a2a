"""Limits on statements, on both sides of a connection."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from peers.database.connection import connect, is_connection_lost
from peers.database.deadlines import BoundedConnection, Bounds, NoAnswer
from peers.errors import DatabaseUnreachable
from tests.support.cli import until

if TYPE_CHECKING:
    from tests.support.server import Connection

LEASES = (1.0, 2.0, 30.0, 600.0, 86400.0)
PATIENCE = 20.0


@pytest.mark.parametrize("lease", LEASES)
def test_the_bounds_leave_time_for_the_next_step(lease: float) -> None:
    """The server reports its limit before we close; a step of the main loop takes at most a third
    of a lease; after a heartbeat without a reply there is time for another before the fence.
    """
    main, beat = Bounds.of_main_loop(lease), Bounds.of_heartbeat(lease)
    for bounds in (main, beat):
        assert bounds.lock < bounds.statement < bounds.answer
    assert max(main.answer, 2 * main.statement) <= lease / 3
    assert lease / 3 + beat.answer < 0.85 * lease


@pytest.fixture
def bounded(database_url: str) -> BoundedConnection:
    """Make a connection whose statements get two seconds from the server."""
    return connect(database_url, application_name="test", bounds=Bounds(0.2, 2.0, PATIENCE * 2))


def test_the_server_ends_a_statement_that_takes_too_long(
    bounded: BoundedConnection, database_url: str
) -> None:
    """It works too long, or waits for a lock: the connection can be used again."""
    with bounded:
        with pytest.raises(psycopg.errors.QueryCanceled):
            bounded.execute("select pg_sleep(60)")
        with psycopg.connect(database_url) as other:
            other.execute("lock table peers.task in access exclusive mode")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                bounded.execute("select from peers.task")
        assert bounded.execute("select 1").fetchall() == [(1,)]


@pytest.mark.parametrize("how", ["limit", "cut", "latest"])
def test_a_reply_that_does_not_come_ends_the_connection(
    database_url: str, db: Connection, how: str
) -> None:
    """The limit is reached, a signal came, or the deadline is over: the connection is closed, and
    counts as lost.
    """
    connection = connect(database_url, application_name="test")
    connection.answer_within = 0.3 if how == "limit" else PATIENCE * 3
    connection.latest = time.monotonic() if how == "latest" else float("inf")
    pid = connection.info.backend_pid

    def is_running() -> bool:
        query = "select from pg_stat_activity where pid = %s and state = 'active'"
        return db.execute(query, (pid,)).fetchall() != []

    def cut() -> None:
        until(is_running, "the statement runs")
        connection.interrupt(0.1)

    if how == "cut":  # before it runs, it would not affect it
        threading.Thread(target=cut).start()
    began = time.monotonic()
    with pytest.raises(NoAnswer) as caught:
        connection.execute("select pg_sleep(%s)", (PATIENCE * 3,))
    assert time.monotonic() - began < PATIENCE
    assert connection.closed
    assert is_connection_lost(caught.value)


def test_an_interrupt_affects_only_the_running_statement(database_url: str) -> None:
    """A later statement, such as the release of tasks, has its own time."""
    with connect(database_url, application_name="test") as connection:
        connection.answer_within = PATIENCE
        connection.interrupt(0.1)
        connection.execute("select pg_sleep(0.3)")


def test_a_session_works_whatever_encoding_and_isolation_its_role_defaults_to(
    database_url: str,
) -> None:
    """Text is UTF-8, transactions are READ COMMITTED."""
    with connect(database_url, application_name="test") as connection:
        [row] = connection.execute(
            "select current_setting('client_encoding'),"
            " current_setting('default_transaction_isolation')"
        )
        assert row == ("UTF8", "read committed")


def test_connecting_to_a_silent_server_ends_in_time() -> None:
    """Connecting ends within the patience (libpq takes 2 s for less), as with no server at all."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        began = time.monotonic()
        with pytest.raises(DatabaseUnreachable):
            connect(
                f"host=127.0.0.1 port={deaf.getsockname()[1]} user=x dbname=x",
                application_name="test", connect_timeout=0.1,
            )  # fmt: skip
        assert time.monotonic() - began < PATIENCE
