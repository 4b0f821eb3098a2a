"""A drain ends with what a peer would have ended with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

import peers
from peers import (
    BadArgument,
    ConfigError,
    Limit,
    Reject,
    Retry,
    Snooze,
    current_task,
    handlers,
    task,
)
from peers.testing import (
    Clock,
    Database,
    DrainFailed,
    assert_submitted,
    drain,
    drain_async,
    submitted,
)


@pytest.fixture(autouse=True)
def _no_other_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_registry", "_limits", "_schedules"):
        monkeypatch.setattr(handlers, name, {})


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    """A session of an application, whose transaction is rolled back."""
    with in_session(database) as made:
        yield made


@contextmanager
def in_session(database: Database) -> Iterator[Session]:
    """Yield a session that is rolled back at the end."""
    engine = create_engine(database.sqlalchemy_url)
    with Session(engine) as made:
        yield made
        made.rollback()
    engine.dispose()


def test_ready_tasks_run_with_their_children(database: Database) -> None:
    """In the order of a peer; children get the results of their parents."""

    @task("add")
    def add(n: int) -> int:
        order.append(n)
        return n + sum(int(parent.result) for parent in current_task().parents())

    order: list[int] = []
    late = add.options(priority=200).submit(1)
    early = add.options(priority=1).submit(10)
    total = add.after(late, early).submit(100)
    drained = drain()
    assert order == [10, 1, 100]
    assert drained.attempts == 3
    assert [one.result for one in drained.tasks] == [1, 10, 111]
    assert drained.states == {"completed": 3}
    assert peers.result(total, 0) == 111
    assert database.client.get(total).submitter != ""


def test_tasks_that_handlers_submit_run_too(database: Database) -> None:
    """Their requests reach the database, as on a peer."""

    @task("outer")
    def outer() -> int:
        current_task().progress(1, 2)
        return inner.submit(n=7)

    @task("inner", queue="side")
    async def inner(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    outer.submit()
    drained = drain()
    assert [one.kind for one in drained.tasks] == ["outer", "inner"]
    [only] = drained.of(inner)
    assert only.result == 14
    with database.connect() as connection:
        assert connection.execute("select count(*) from peers.peer").fetchone() == (0,)


def test_a_failure_is_recorded_and_raised(database: Database) -> None:
    """The test fails where nobody asked for the failure."""

    @task("fails")
    def fails() -> None:
        raise OSError("disk full")

    task_id = fails.submit()
    with pytest.raises(
        DrainFailed, match=rf"attempt 1 of task {task_id}, fails.*disk full"
    ) as caught:
        drain()
    assert isinstance(caught.value.__cause__, OSError)
    found = database.client.get(task_id)
    assert found.state == "scheduled"
    assert found.failure is not None
    assert found.failure.error_type == "OSError"
    assert "test_drain.py" in (found.failure.traceback or "")
    assert caught.value.drained.scheduled == [found]


def test_what_a_handler_asks_for_is_no_failure_of_the_test(database: Database) -> None:
    """Retry, Snooze and Reject are recorded and not raised."""

    @task("asks")
    def asks(what: str) -> None:
        raise {"retry": Retry("1h"), "snooze": Snooze("1h"), "reject": Reject("no")}[what]

    ids = [asks.submit(what=what) for what in ("retry", "snooze", "reject")]
    drained = drain()
    assert [type(error) for error in drained.errors] == [Retry, Snooze, Reject]
    assert [database.client.get(each).state for each in ids] == ["scheduled", "scheduled", "dead"]
    assert len(drained.dead) == 1


def test_retries_run_when_the_clock_is_moved(database: Database) -> None:
    """Up to the time that the test allows."""

    @task("third time", backoff="10m", backoff_cap="10m")
    def third_time() -> int:
        if current_task().attempt < 3:
            raise OSError("not yet")
        return current_task().attempt

    task_id = third_time.submit()
    before = database.clock.now()
    assert drain(raise_errors=False).states == {"scheduled": 1}
    drained = drain(ahead="30m", raise_errors=False)
    assert drained.attempts == 2
    assert drained.completed[0].result == 3
    assert database.client.get(task_id).attempt == 3
    assert timedelta(0) < database.clock.now() - before < timedelta(minutes=31)


@pytest.mark.usefixtures("database")
def test_scheduled_tasks_and_schedules_run_when_the_clock_is_moved() -> None:
    """A schedule that the code declares is declared, and fires at each due time."""

    @task("nightly", cron="0 3 * * *")
    def nightly() -> str:
        return str(current_task().due_at)

    @task("later")
    def later() -> None: ...

    later.options(delay="36h").submit()
    later.options(delay="90h").submit()
    assert drain().attempts == 0
    drained = drain(ahead="72h")
    assert len(drained.of(later)) == 1
    runs = [one.result for one in drained.of(nightly)]
    assert len(runs) == 3
    assert all("03:00:00" in one for one in runs)


@pytest.mark.usefixtures("database")
def test_a_dead_letter_at_the_last_attempt() -> None:
    """A drain that has the time reaches it."""

    @task("hopeless", max_attempts=4, backoff="1m")
    def hopeless() -> None:
        raise OSError("no")

    task_id = hopeless.submit()
    drained = drain(ahead="1h", raise_errors=False)
    assert (drained.attempts, drained.states) == (4, {"dead": 1})
    peers.retry(task_id)
    assert drain(raise_errors=False).attempts == 1


def test_there_is_an_end(database: Database) -> None:
    """A task that submits itself does not hang the test."""

    @task("again")
    def again() -> None:
        again.submit()

    again.submit()
    with pytest.raises(DrainFailed, match="no end after 20 attempts: again 20 times") as caught:
        drain(max_attempts=20)
    assert caught.value.drained.states == {"completed": 20}
    with database.connect() as connection:
        held = connection.execute("select count(*) from peers.lease").fetchone()
    assert held == (0,)


@pytest.mark.usefixtures("database")
def test_only_some_queues_and_kinds_run() -> None:
    """Others stay as they are; a task that nobody can run is an error."""

    @task("a")
    def a() -> None: ...

    @task("b", queue="side")
    def b() -> None: ...

    a.submit()
    b.submit()
    assert len(drain(queues=["side"]).of(b)) == 1
    peers.submit("unknown")
    assert len(drain(kinds=[a]).of(a)) == 1
    with pytest.raises(ConfigError, match="no handler is imported for unknown"):
        drain()
    with pytest.raises(ConfigError, match="no handler is imported for nobody"):
        drain(kinds=["nobody"])
    with pytest.raises(BadArgument, match="lists of names"):
        drain(queues="side")


@pytest.mark.usefixtures("database")
def test_batches_run_together() -> None:
    """As many as there are, up to the size of a batch."""

    @task("sum", batch_size=3)
    def many(rows: list[dict[str, Any]]) -> list[int]:
        sizes.append(len(rows))
        return [row["n"] for row in rows]

    sizes: list[int] = []
    peers.submit_many(many, [{"n": n} for n in range(7)])
    drained = drain()
    assert sizes == [3, 3, 1]
    assert [one.result for one in drained.tasks] == list(range(7))


@pytest.mark.usefixtures("database")
def test_limits_hold() -> None:
    """A limit of starts in a period keeps the rest back until the clock is moved."""

    @task("call", limit=Limit(starts=2, per="1m"))
    def call(n: int) -> int:
        return n

    call.submit(0)
    drain()
    peers.submit_many(call, [{"n": n} for n in range(1, 6)])
    first = drain().attempts
    assert first < 5
    drained = drain(ahead="10m")
    assert first + drained.attempts == 5


def test_a_drain_works_inside_a_transaction_that_is_rolled_back(
    database: Database, session: Session
) -> None:
    """Uncommitted tasks run, their children too, and nothing stays."""

    @task("welcome")
    def welcome(user: int) -> int:
        mail.submit(user=user)
        return user

    @task("mail")
    def mail(user: int) -> str:
        if current_task().attempt == 1:
            raise Retry("1h")
        return f"sent to {user}"

    session.execute(text("create temp table mine (n int) on commit drop"))
    welcome.submit_in(session, 7)
    assert submitted() == []
    [only] = assert_submitted(welcome, {"user": 7}, within=session)
    drained = drain(session, ahead="2h")
    assert drained.states == {"completed": 2}
    assert drained.of(mail)[0].result == "sent to 7"
    assert peers.get_in(session, only.id).state == "completed"
    moved = Clock(session).now()
    assert timedelta(minutes=59) < moved - database.clock.now() < timedelta(hours=3)
    session.rollback()
    assert submitted() == []
    with database.connect() as connection:
        left = connection.execute(
            "select (select count(*) from peers.clock), (select count(*) from peers.peer)"
        ).fetchone()
    assert left == (0, 0)


def test_a_drain_leaves_nothing_behind_when_it_fails(database: Database) -> None:
    """A test that is interrupted gives back what was claimed."""

    @task("stops")
    def stops() -> None:
        raise KeyboardInterrupt

    stops.submit()
    with pytest.raises(KeyboardInterrupt):
        drain()
    with database.connect() as connection:
        left = connection.execute(
            "select (select count(*) from peers.lease), (select count(*) from peers.ready)"
        ).fetchone()
    assert left == (0, 1)


@pytest.mark.usefixtures("database")
def test_a_handler_makes_many_requests_at_once() -> None:
    """Each is a transaction of its own, on one connection."""

    @task("many")
    async def many() -> int:
        ids = await asyncio.gather(*(leaf.submit_async(n) for n in range(20)))
        return len(set(ids))

    @task("leaf")
    def leaf(n: int) -> int:
        current_task().progress(n)
        return len(current_task().parents())

    many.submit()
    drained = drain()
    assert drained.of(many)[0].result == 20
    assert drained.states == {"completed": 21}


@pytest.mark.usefixtures("database")
def test_a_drain_leaks_no_descriptors() -> None:
    """However many tasks ask for something."""

    @task("asks")
    def asks() -> int:
        return len(current_task().parents())

    peers.submit_many(asks, [{}] * 3)
    drain()
    before = len(list(Path("/proc/self/fd").iterdir()))
    peers.submit_many(asks, [{}] * 20)
    drain()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.usefixtures("database")
def test_a_progress_that_is_no_number_does_not_fail_a_handler() -> None:
    """As on a peer."""

    @task("odd")
    def odd() -> None:
        current_task().progress("half")  # type: ignore[arg-type]

    odd.submit()
    assert drain().states == {"completed": 1}


@pytest.mark.usefixtures("database")
def test_a_drain_runs_on_the_loop_of_a_test() -> None:
    """Async handlers share it; sync ones do not block it."""

    @task("async")
    async def async_() -> None:
        loops.append(asyncio.get_running_loop())
        await sync.submit_async(n=1)

    @task("sync")
    def sync(n: int) -> int:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return n

    @task("batch", batch_size=5)
    async def batch(rows: list[dict[str, Any]]) -> list[None]:
        loops.append(asyncio.get_running_loop())
        return [None for _ in rows]

    async def test() -> None:
        await async_.submit_async()
        with pytest.raises(BadArgument, match="drain_async"):
            drain(kinds=[async_])
        peers.submit_many(batch, [{}, {}])
        drained = await drain_async()
        assert drained.states == {"completed": 4}
        assert loops == [asyncio.get_running_loop()] * 2

    loops: list[asyncio.AbstractEventLoop] = []
    asyncio.run(test())


def test_a_drain_needs_a_database_of_a_test(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the settings name may be in use."""
    monkeypatch.setenv("PEERS_DATABASE_URL", Database(database_url).url)
    with pytest.raises(ConfigError, match="no test database"):
        drain()
    assert drain(database_url).attempts == 0
    with psycopg.connect(database_url, autocommit=True) as connection:
        assert drain(connection).attempts == 0
