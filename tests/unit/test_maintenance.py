"""Maintenance: a job that hangs or fails stops neither the other jobs nor the end of the peer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest

from peers.database import functions
from peers.database.deadlines import BoundedConnection, Bounds
from peers.errors import DatabaseUnreachable
from peers.events import name_of
from peers.peer import maintenance as module
from peers.peer.maintenance import Maintenance

PATIENCE = 30.0


class Database:
    """A database that counts calls. Prune hangs until its statement is interrupted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.pruning = threading.Event()
        self.interrupted = threading.Event()
        self.errors: dict[str, Exception] = {}
        self.tries = 0
        for verb in ("promote", "reclaim", "unrunnable", "prune"):
            monkeypatch.setattr(functions, verb, self._verb(verb))

    def connect(self, _duty: str, _bounds: Bounds) -> BoundedConnection:
        """Make a connection that can be interrupted."""
        self.tries += 1
        if "connect" in self.errors:
            raise self.errors["connect"]
        made: Any = type(
            "Connection",
            (),
            {"close": lambda _: None, "interrupt": lambda _, _within: self.interrupted.set()},
        )()
        return cast("BoundedConnection", made)

    def until(self, verb: str, times: int) -> None:
        """Wait until the verb was called so often."""
        give_up = time.monotonic() + PATIENCE
        while self.calls.count(verb) < times:
            assert time.monotonic() < give_up, (verb, self.calls)
            time.sleep(0.005)

    def _verb(self, verb: str) -> Any:
        def answer(*_: object) -> Any:
            self.calls.append(verb)
            if verb in self.errors:
                raise self.errors[verb]
            if verb == "prune":
                self.pruning.set()
                assert self.interrupted.wait(PATIENCE)
                raise psycopg.OperationalError("cut")
            return 0 if verb == "promote" else []

        return answer


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database for maintenance with short intervals."""
    monkeypatch.setattr(module, "_PROMOTE_EVERY", 0.02)
    monkeypatch.setattr(module, "_CHECK_KINDS_EVERY", 0.02)
    monkeypatch.setattr(module, "_PRUNE_EVERY", 0.02)
    return Database(monkeypatch)


def some_maintenance(database: Database) -> Maintenance:
    """Make maintenance, without starting it."""
    identity: UUID = uuid4()
    return Maintenance(
        database.connect, lambda: identity, timedelta(seconds=0.1), timedelta(days=1)
    )


@pytest.fixture
def maintenance(database: Database) -> Iterator[Maintenance]:
    """Start maintenance for a peer with a short lease."""
    made = some_maintenance(database)
    made.start()
    yield made
    made.stop()


@pytest.mark.usefixtures("maintenance")
def test_a_prune_that_hangs_stops_neither_promote_nor_reclaim(database: Database) -> None:
    """They have a thread and a connection of their own."""
    assert database.pruning.wait(PATIENCE)
    promoted, reclaimed = database.calls.count("promote"), database.calls.count("reclaim")
    database.until("promote", promoted + 5)
    database.until("reclaim", reclaimed + 3)


@pytest.mark.usefixtures("maintenance")
@pytest.mark.parametrize("error", [psycopg.errors.LockNotAvailable("locked"), OSError(24, "files")])
def test_a_job_that_fails_is_put_off_alone(database: Database, error: Exception) -> None:
    """Promote fails each time: reclaim runs as usual, promote less and less often."""
    database.errors["promote"] = error
    database.until("reclaim", 12)
    assert database.calls.count("promote") < database.calls.count("reclaim")
    del database.errors["promote"]
    database.until("promote", database.calls.count("promote") + 3)


def test_stopping_does_not_wait_for_a_job_that_hangs(
    database: Database, maintenance: Maintenance
) -> None:
    """Its statement is interrupted."""
    assert database.pruning.wait(PATIENCE)
    began = time.monotonic()
    maintenance.stop()
    assert time.monotonic() - began < PATIENCE / 3
    calls = len(database.calls)
    time.sleep(0.1)
    assert len(database.calls) == calls


def test_an_outage_is_logged_once_and_retried_with_a_backoff(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of the two threads logs it once, not at each run. After the outage every job runs."""
    database.errors["connect"] = DatabaseUnreachable("nobody there")
    maintenance = some_maintenance(database)
    maintenance.start()
    try:
        give_up = time.monotonic() + PATIENCE
        while database.tries < 6:
            assert time.monotonic() < give_up
            time.sleep(0.005)
        told = [record for record in caplog.records if name_of(record) == "maintenance_failed"]
        assert 1 <= len(told) <= 2
        del database.errors["connect"]
        database.until("promote", 3)
    finally:
        maintenance.stop()
