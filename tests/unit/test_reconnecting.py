"""The main loop's connection: what it retries, and after which wait."""

from __future__ import annotations

import functools
import itertools
import os
import selectors
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import psycopg
import pytest

from peers.database import reconnecting as module
from peers.database.backoff import Backoff
from peers.database.deadlines import BoundedConnection
from peers.database.reconnecting import ReconnectingConnection
from peers.errors import DatabaseUnreachable, NotPermitted, PeerLost
from peers.events import fields_of, name_of

PATIENCE = 30.0
SHORT = 0.01


class FakeConnection:
    """A connection that notes whether it was closed."""

    latest = 0.0
    pgconn = SimpleNamespace(notifies=lambda: None)
    info = SimpleNamespace(backend_pid=0)

    def __init__(self) -> None:
        self.closed = False
        self._file = os.eventfd(0)

    def fileno(self) -> int:
        """Return a descriptor on which nothing ever comes."""
        return self._file

    def add_notify_handler(self, _: object) -> None:
        """Notify of nothing."""

    def close(self) -> None:
        """Close it."""
        os.close(self._file)
        self.closed = True


class World:
    """A reconnecting connection, and a database that accepts or refuses connections."""

    def __init__(self) -> None:
        self.made: list[FakeConnection] = []
        self.returns = 0
        self.tries = 0
        self.refuses: Exception | None = None
        self.errors: list[Exception] = []
        self.connection = ReconnectingConnection(
            self._connect, selectors.DefaultSelector(), lambda: None,
            on_reconnect=self._returned, on_error=self.errors.append,
        )  # fmt: skip
        self.connection.use(self._connect())

    def _connect(self) -> BoundedConnection:
        if self.refuses is not None:
            self.tries += 1
            raise self.refuses
        self.made.append(FakeConnection())
        return cast("BoundedConnection", self.made[-1])

    def _returned(self) -> None:
        self.returns += 1

    def until_up(self) -> None:
        """Restore until there is a connection."""
        give_up = time.monotonic() + PATIENCE
        while not self.connection.restore():
            assert time.monotonic() < give_up
            time.sleep(SHORT / 10)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Make a connection whose waits are not random, but the whole span."""
    monkeypatch.setattr(module, "Backoff", functools.partial(Backoff, base=SHORT, luck=lambda: 1.0))
    return World()


def raises(error: Exception) -> Callable[..., None]:
    """Return work that raises this error."""

    def work(*_: object) -> None:
        raise error

    return work


def test_a_database_that_accepts_connections_but_fails_is_retried_less_and_less_often(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Each claim ends the connection, and connecting succeeds each time, as does the reconcile: the
    waits still double. A statement that succeeds resets them.
    """
    gone = raises(psycopg.OperationalError("server closed the connection"))
    for _ in range(5):
        with pytest.raises(DatabaseUnreachable):
            world.connection.do(gone)
        world.until_up()
        world.connection.do(lambda _: None)  # as the peer asks which leases it has
    world.connection.do(lambda _: None)
    with pytest.raises(DatabaseUnreachable):
        world.connection.do(gone)
    events = [record for record in caplog.records if name_of(record) == "database_lost"]
    waits = [fields_of(event)["retry_in"] for event in events]
    assert waits == [SHORT, SHORT * 2, SHORT * 4, SHORT * 8, SHORT * 16, SHORT]
    assert world.returns == 5


def test_an_outage_does_not_fill_the_log(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reason why connecting fails is logged once, and again after a minute."""
    tries = 0

    def fail(reason: str, times: int) -> None:
        nonlocal tries
        world.refuses = DatabaseUnreachable(reason)
        tries += times
        while world.tries < tries:
            world.connection.restore()
            time.sleep(SHORT / 10)
        world.connection.restore()

    with pytest.raises(DatabaseUnreachable):
        world.connection.do(raises(psycopg.OperationalError("terminating connection")))
    fail("connection refused", 3)
    fail("starting up", 2)
    assert _lost(caplog) == 3
    monkeypatch.setattr(module, "_REPORT_AGAIN_AFTER", 0.0)
    fail("starting up", 1)
    assert _lost(caplog) >= 4
    world.refuses = None
    world.until_up()


def _lost(caplog: pytest.LogCaptureFixture) -> int:
    return sum(name_of(record) == "database_lost" for record in caplog.records)


@pytest.mark.parametrize("sqlstate", ["53100", "53200", "55P03", "57014", "40P01", "40001"])
def test_a_transient_error_does_not_end_the_connection(world: World, sqlstate: str) -> None:
    """A full disk, a lock, a deadlock: the job is put off, and the connection stays."""
    error = psycopg.errors.lookup(sqlstate)("not now")
    world.connection.attempt("a claim", lambda: world.connection.do(raises(error)))
    assert world.connection.is_up
    assert len(world.made) == 1


def test_a_job_that_is_refused_does_not_delay_other_jobs(world: World) -> None:
    """It is tried less and less often, the others as usual."""
    tried, done = [], []

    def refused() -> None:
        tried.append(time.monotonic())
        world.connection.do(raises(psycopg.errors.DiskFull("no space left on device")))

    give_up = time.monotonic() + PATIENCE
    while len(tried) < 5:
        assert time.monotonic() < give_up
        world.connection.attempt("a claim", refused)
        world.connection.attempt("outcomes", lambda: world.connection.do(lambda _: done.append(1)))
    between = [after - before for before, after in itertools.pairwise(tried)]
    assert all(gap >= SHORT * 2**n * 0.9 for n, gap in enumerate(between)), between
    assert len(done) > len(tried)


@pytest.mark.parametrize(
    "error",
    [psycopg.errors.InternalError_("oh"), psycopg.errors.FeatureNotSupported("cached plan"),
     psycopg.errors.UndefinedColumn("which?"), NotPermitted("no")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_unexpected_error_gets_a_new_session(
    world: World, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """The session may be the cause: the job is put off, and the connection replaced."""
    world.connection.attempt("a claim", raises(error))
    assert world.errors == [error], "it may show that there is a pooler"
    assert world.made[0].closed
    world.until_up()
    assert len(world.made) == 2
    told = [fields_of(record) for record in caplog.records]
    assert [fields["retry_in"] for fields in told if "job" in fields] == [SHORT]


def test_an_error_about_the_peer_is_raised(world: World) -> None:
    """A lost peer must join again."""
    with pytest.raises(PeerLost):
        world.connection.attempt("a claim", raises(PeerLost("gone")))


def test_connecting_does_not_block_the_loop(world: World) -> None:
    """A refusal does not either. The connection tells when the next try is due."""
    world.refuses = DatabaseUnreachable("nobody there")
    with pytest.raises(DatabaseUnreachable):
        world.connection.do(raises(psycopg.OperationalError("gone")))
    waits: set[float] = set()
    give_up = time.monotonic() + PATIENCE
    while len(waits) < 3:
        assert time.monotonic() < give_up
        began = time.monotonic()
        assert not world.connection.restore()
        assert time.monotonic() - began < PATIENCE / 10
        if world.connection.next_due < float("inf"):
            waits.add(world.connection.next_due)
    world.refuses = None
    world.until_up()
