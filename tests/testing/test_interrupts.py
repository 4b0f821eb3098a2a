"""Ctrl-C ends a test run: what cleans up afterwards does not put another error in its place."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from peers import handlers, submit_in, task
from peers.testing import Clock, Database, Databases, drain, drain_async
from tests.support.cli import until
from tests.support.interrupts import Interrupts, at_each_moment

if TYPE_CHECKING:
    from collections.abc import Callable


def require_interrupted(work: Callable[[], object], interrupts: Interrupts) -> None:
    """Do the work; require that only KeyboardInterrupt ends it, if it was interrupted."""
    try:
        with interrupts.armed():
            work()
    except KeyboardInterrupt:
        return
    assert interrupts.line is None, interrupts.line


def test_a_drain_in_a_session(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving the peers would need the connection that was interrupted."""
    for name in ("_registry", "_limits", "_schedules"):
        monkeypatch.setattr(handlers, name, {})

    @task("work")
    def work() -> None: ...

    def drained(interrupts: Interrupts) -> None:
        with closing(psycopg.connect(database.url)) as session:
            submit_in(session, work)
            require_interrupted(lambda: drain(session), interrupts)

    at_each_moment(drained, most=60)


async def _cancel_at_a_lock(url: str, other: psycopg.Connection[Any]) -> None:
    draining = asyncio.create_task(drain_async(url))
    waiting = "select 1 from pg_locks where not granted"
    await asyncio.to_thread(until, lambda: other.execute(waiting).fetchone(), "it waits")
    draining.cancel()
    await asyncio.sleep(0)  # it is cancelled now, in the middle of a statement
    other.rollback()
    await draining


def test_a_cancelled_drain(database: Database) -> None:
    """The statement in progress ends first, because another thread executes it."""
    with closing(psycopg.connect(database.url)) as other:
        other.execute("lock table peers.peer in access exclusive mode")
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(_cancel_at_a_lock(database.url, other))


def test_a_moved_clock(database: Database) -> None:
    """Moving it back would need the connection that was interrupted."""

    def moved(interrupts: Interrupts) -> None:
        def work() -> None:
            with Clock(session).moved("1h"):
                session.execute("select 1")

        with closing(psycopg.connect(database.url)) as session:
            require_interrupted(work, interrupts)

    at_each_moment(moved, most=60)


def test_a_block_with_a_moved_clock_keeps_its_own_error(database: Database) -> None:
    """A failed statement has ended the transaction, and with it the move."""
    with (
        closing(psycopg.connect(database.url)) as session,
        pytest.raises(psycopg.errors.DivisionByZero),
        Clock(session).moved("1h"),
    ):
        session.execute("select 1 / 0")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_template(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlocking the template would need the connection that was interrupted.

    psycopg drops a connection without closing it if it is interrupted while it connects.
    """
    monkeypatch.setattr(Databases, "fill", lambda *_: None)

    def made(interrupts: Interrupts) -> None:
        databases = Databases(database.url)

        def work() -> None:
            try:
                databases.make_template()
            finally:
                databases.drop_all()

        try:
            require_interrupted(work, interrupts)
        finally:
            databases.close()

    at_each_moment(made, most=30)
