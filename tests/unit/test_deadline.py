"""Bounds on what is waited for, on both sides of a connection."""

from __future__ import annotations

import socket
import threading
import time

import psycopg
import pytest

from peers.database.connection import connect, is_connection_lost
from peers.database.deadlines import BoundedConnection, Bounds, NoAnswer
from peers.errors import DatabaseUnreachable

LEASES = (1.0, 2.0, 30.0, 600.0, 86400.0)
PATIENCE = 20.0


@pytest.mark.parametrize("lease", LEASES)
def test_the_bounds_leave_time_for_what_comes_after(lease: float) -> None:
    """The server has its say before we hang up; a step of the main loop takes no more than a third
    of a lease; and after a beat that is not answered there is time for another before the fence.
    """
    main, beat = Bounds.of_main_loop(lease), Bounds.of_heartbeat(lease)
    for bounds in (main, beat):
        assert bounds.lock < bounds.statement < bounds.answer
    assert max(main.answer, 2 * main.statement) <= lease / 3
    assert lease / 3 + beat.answer < 0.85 * lease


@pytest.fixture
def bounded(database_url: str) -> BoundedConnection:
    """A connection whose statements get half a second from the server."""
    return connect(database_url, application_name="test", bounds=Bounds(0.2, 0.5, PATIENCE * 2))


def test_the_server_ends_what_takes_too_long(bounded: BoundedConnection, database_url: str) -> None:
    """Be it work or a wait for a lock: the connection is good for more."""
    with bounded:
        with pytest.raises(psycopg.errors.QueryCanceled):
            bounded.execute("select pg_sleep(60)")
        with psycopg.connect(database_url) as other:
            other.execute("lock table peers.task in access exclusive mode")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                bounded.execute("select from peers.task")
        assert bounded.execute("select 1").fetchall() == [(1,)]


@pytest.mark.parametrize("how", ["limit", "cut", "latest"])
def test_an_answer_that_does_not_come_is_not_waited_for(database_url: str, how: str) -> None:
    """Whether the usual bound is over, a signal came, or time is up: the connection is closed, and
    counts as lost.
    """
    connection = connect(database_url, application_name="test")
    connection.answer_within = 0.3 if how == "limit" else PATIENCE * 3
    connection.latest = time.monotonic() if how == "latest" else float("inf")
    if how == "cut":
        threading.Timer(0.2, connection.interrupt, (0.1,)).start()
    began = time.monotonic()
    with pytest.raises(NoAnswer) as caught:
        connection.execute("select pg_sleep(%s)", (PATIENCE * 3,))
    assert time.monotonic() - began < PATIENCE
    assert connection.closed
    assert is_connection_lost(caught.value)


def test_a_cut_concerns_only_what_runs(database_url: str) -> None:
    """What begins later, the last words of a peer, has its own time."""
    with connect(database_url, application_name="test") as connection:
        connection.answer_within = PATIENCE
        connection.interrupt(0.0)
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


def test_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    """Connecting ends within the patience (libpq takes 2 s for less), as with no server at all."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        began = time.monotonic()
        with pytest.raises(DatabaseUnreachable):
            connect(
                f"host=127.0.0.1 port={deaf.getsockname()[1]} user=x dbname=x",
                application_name="test", connect_timeout=0.1,
            )  # fmt: skip
        assert time.monotonic() - began < PATIENCE
