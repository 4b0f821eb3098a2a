"""Schedules from Python: the operations in their five forms."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import create_engine

import peers
from peers import AsyncClient, BadArgument, BadSchedule, Client, Schedule, ScheduleNotFound
from tests.support.schedules import fire, set_clock
from tests.support.server import as_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Connection


@pytest.fixture
def client(database_url: str) -> Iterator[Client]:
    """Return a client of the test's database."""
    with Client(database_url) as made:
        yield made


def test_a_schedule_is_added_and_found(client: Client, db: Connection) -> None:
    """With all that it was given; its next times are in its zone."""
    set_clock(db, "2026-11-20 12:00:00+00")
    client.add_schedule(
        "nightly", "a", {"n": 1}, cron="0 2 * * *", timezone="Europe/Berlin", overlap="skip",
        misfire="all", catch_up=timedelta(hours=3), jitter=5, expect_within=timedelta(hours=1),
        queue="q", priority=7, max_attempts=3, timeout=9, metadata={"team": "x"},
    )  # fmt: skip
    with pytest.raises(BadSchedule, match="already a schedule"):
        client.add_schedule("nightly", "a", cron="@daily")
    found = client.get_schedule("nightly")
    assert (found.kind, found.args, found.queue, found.priority) == ("a", {"n": 1}, "q", 7)
    assert (found.max_attempts, found.timeout) == (3, timedelta(seconds=9))
    assert (found.metadata, found.anchor) == ({"team": "x"}, None)
    assert (found.misfire, found.overlap) == ("all", "skip")
    assert (found.catch_up, found.jitter) == (timedelta(hours=3), timedelta(seconds=5))
    assert (found.expect_within, found.next_due_at, found.declared) == (
        timedelta(hours=1), None, False,
    )  # fmt: skip
    assert found.next_times(2)[0] == datetime(2026, 11, 21, 1, tzinfo=UTC)
    assert str(found.next_times(1)[0]) == "2026-11-21 02:00:00+01:00"
    fire(db)
    task_id = client.run_schedule("nightly")
    found = client.get_schedule("nightly")
    assert found.next_due_at == datetime(2026, 11, 21, 1, tzinfo=UTC)
    assert (found.last_task_id, found.last_outcome, found.last_task_state) == (
        task_id, "fired", "ready",
    )  # fmt: skip
    assert client.get(task_id).metadata["team"] == "x"  # type: ignore[index]


def test_the_other_operations(client: Client, db: Connection) -> None:
    """Paused, changed, found, explained, backfilled, removed."""
    set_clock(db, "2026-11-20 12:00:00+00")
    client.add_schedule("nightly", "a", cron="@daily")
    client.pause_schedule("nightly")
    assert [each.name for each in client.find_schedules(paused=True)] == ["nightly"]
    assert client.find_schedules(paused=False) == []
    client.resume_schedule("nightly")
    anchor = datetime(2026, 11, 1, tzinfo=UTC)
    client.add_schedule("nightly", "b", every=60, anchor=anchor, replace=True)
    assert client.find_schedules(kind="b", limit=1)[0].every == timedelta(minutes=1)
    assert client.find_schedules(after="nightly") == []
    assert "was created later" not in client.explain_schedule("nightly")
    number = client.backfill_schedule(
        "nightly",
        datetime(2026, 11, 20, 11, tzinfo=UTC),
        datetime(2026, 11, 20, 11, 30, tzinfo=UTC),
    )
    assert client.cancel_backfill(number)
    assert not client.cancel_backfill(number)
    with pytest.raises(BadSchedule, match=r"^from_at must be now or earlier, not 2099") as refused:
        client.backfill_schedule("nightly", datetime(2099, 1, 1, tzinfo=UTC))
    assert refused.value.hint is None
    client.remove_schedule("nightly")
    with pytest.raises(ScheduleNotFound):
        client.get_schedule("nightly")
    with pytest.raises(ScheduleNotFound):
        client.pause_schedule("nightly")


def test_bad_values_are_refused_before_the_database_is_asked() -> None:
    """Each error names the bound."""
    naive = datetime(2026, 11, 20)  # noqa: DTZ001
    with pytest.raises(BadSchedule, match="five fields"):
        peers.add_schedule("s", "a", cron="0 2 * *")
    with pytest.raises(BadSchedule, match="either cron, such as"):
        peers.add_schedule("s", "a")
    with pytest.raises(BadSchedule, match="time zone"):
        peers.backfill_schedule("s", naive)
    with pytest.raises(BadSchedule, match="time zone"):
        peers.add_schedule("s", "a", every=60, anchor=naive)
    with pytest.raises(BadSchedule, match="from_at must be a datetime with a time zone"):
        peers.backfill_schedule("s", "2026-11-20")  # type: ignore[arg-type]
    with pytest.raises(BadSchedule, match="anchor must be a datetime with a time zone"):
        peers.add_schedule("s", "a", every=60, anchor="2026-11-20")  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match="Pass the name of the kind"):
        peers.add_schedule("s", len, cron="@daily")  # type: ignore[arg-type]
    for name in ("every", "catch_up", "jitter", "expect_within"):
        with pytest.raises(BadSchedule, match=f"{name} must be a duration such as .*, not 'soon'"):
            Schedule(**{"cron": "@daily", name: "soon"})  # type: ignore[arg-type]
    for bad in (
        {"cron": "@daily", "misfire": "x"}, {"cron": "@daily", "overlap": "x"},
        {"cron": "@daily", "catch_up": -1}, {"cron": "@daily", "jitter": 1e6},
        {"cron": "@daily", "expect_within": 0}, {"cron": "@daily", "name": ""},
        {"every": 0.1}, {"cron": "@daily", "timezone": "Mars"},
    ):  # fmt: skip
        with pytest.raises(BadSchedule):
            Schedule(**bad)


def test_the_other_forms(
    database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a transaction, with the default client, and async."""
    url = as_url(database_url).replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.connect() as connection:
        peers.add_schedule_in(connection, "undone", "a", cron="@daily")
        assert peers.get_schedule_in(connection, "undone").cron == "@daily"
        connection.rollback()
    engine.dispose()
    monkeypatch.setenv("PEERS_DATABASE_URL", database_url)

    async def everything() -> list[str]:
        await peers.add_schedule_async("b", "a", cron="@daily")
        async with AsyncClient(database_url) as client:
            await client.add_schedule("c", "a", every=timedelta(days=1))
            return [each.name for each in await client.find_schedules()]

    peers.add_schedule("a", "a", cron="@daily")
    assert asyncio.run(everything()) == ["a", "b", "c"]
    assert [each.name for each in peers.find_schedules()] == ["a", "b", "c"]
    assert db.execute("select count(*) from peers.schedule").fetchone() == {"count": 3}


def test_a_backfill_is_cancelled_in_all_forms(
    database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each returns whether it was in progress."""
    monkeypatch.setenv("PEERS_DATABASE_URL", database_url)
    peers.add_schedule("a", "a", every=60)

    def begin() -> int:
        return peers.backfill_schedule("a", datetime(2026, 11, 20, tzinfo=UTC))

    async def awaited(by_client: int, by_function: int) -> list[bool]:
        async with AsyncClient(database_url) as client:
            return [
                await client.cancel_backfill(by_client),
                await peers.cancel_backfill_async(by_function),
                await client.cancel_backfill(by_client),
            ]

    assert peers.cancel_backfill(begin())
    assert asyncio.run(awaited(begin(), begin())) == [True, True, False]
    kept = begin()
    with psycopg.connect(database_url) as connection:
        assert peers.cancel_backfill_in(connection, kept)
        connection.rollback()
    assert db.execute("select id from peers.schedule_backfill").fetchall() == [{"id": kept}]


@peers.task("schedules.report", queue="reports", priority=3)
def report(day: str) -> None:
    """A handler for schedules."""
    del day


def test_a_schedule_may_name_its_kind_by_the_task(client: Client, db: Connection) -> None:
    """The options that the task has bound are those of its tasks, unless others are given."""
    client.add_schedule(
        "s", report.options(max_attempts=4, timeout=9), {"day": "monday"}, every=60, timeout=5
    )
    found = client.get_schedule("s")
    assert (found.kind, found.queue, found.priority) == ("schedules.report", "reports", 3)
    assert (found.max_attempts, found.timeout) == (4, timedelta(seconds=5))
    assert [each.name for each in client.find_schedules(kind=report)] == ["s"]
    with pytest.raises(BadSchedule, match="cannot have delay, depends_on"):
        client.add_schedule("t", report.after(1).options(delay=3), {"day": "x"}, every=60)
    with pytest.raises(peers.ArgsInvalid, match="day"):
        client.add_schedule("t", report, every=60)
    assert db.execute("select count(*) from peers.schedule").fetchone() == {"count": 1}
