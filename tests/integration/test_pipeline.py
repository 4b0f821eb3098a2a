"""A transaction in one round trip: all of it is committed, or nothing; and nobody waits for it."""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import psycopg
import pytest
from psycopg.pq.abc import PGresult

from peers.database.connection import connect
from peers.database.deadlines import BoundedConnection, Bounds
from peers.database.jobs import Job
from peers.database.pipeline import Pipeline, Statement, StatementRefused
from peers.database.reconnecting import ReconnectingConnection
from peers.errors import BadTask, DatabaseUnreachable, PeerLost
from peers.peer.leases import Leases
from peers.peer.membership import Membership
from peers.peer.state import PeerState
from tests.support.proxy import Proxy
from tests.support.server import Connection

BOUNDS = Bounds(0.5, 2.0, 3.0)
PATIENCE = 30.0
INSERT = Statement(b"insert into public.note values ($1::text)", (b"noted",), (0,))
BACKEND = Statement(b"select pg_backend_pid()")


@pytest.fixture
def notes(db: Connection) -> Connection:
    """A database with an empty table `note`, whose COMMIT refuses the word `late`."""
    db.execute("create table public.note (word text not null)")
    db.execute(
        "create function public.refuse() returns trigger language plpgsql as $$"
        " begin raise exception 'too late' using errcode = 'P0001'; end $$"
    )
    db.execute(
        "create constraint trigger refuse after insert on public.note deferrable initially deferred"
        " for each row when (new.word = 'late') execute function public.refuse()"
    )
    return db


@pytest.fixture(params=["own session", "shared session"])
def connection(database_url: str, request: pytest.FixtureRequest) -> Iterator[BoundedConnection]:
    """A connection with a session of its own, and one that must leave its session as it is."""
    pooled = request.param == "shared session"
    made = connect(database_url, application_name="test", bounds=BOUNDS, pooled=pooled)
    yield made
    made.close()


def words(db: Connection) -> list[str]:
    """What was committed."""
    return [row["word"] for row in db.execute("select word from public.note").fetchall()]


def until(pipeline: Pipeline) -> list[PGresult]:
    """The results, once they are there."""
    give_up = time.monotonic() + PATIENCE
    while (results := pipeline.receive()) is None:
        assert time.monotonic() < give_up
        pipeline.flush()
    return results


def test_all_statements_are_one_transaction(
    notes: Connection, connection: BoundedConnection
) -> None:
    """They see what the ones before have done, and there is a result for each."""
    pipeline = Pipeline(connection)
    for turn in range(3):  # prepared the first time
        pipeline.send([INSERT, Statement(b"select count(*) from public.note"), INSERT])
        results = until(pipeline)
        assert len(results) == 3
        assert not pipeline.is_busy
        assert int.from_bytes(results[1].get_value(0, 0) or b"", "big") == 2 * turn + 1
    assert words(notes) == ["noted"] * 6


def test_a_refused_statement_undoes_all_and_is_named(
    notes: Connection, connection: BoundedConnection
) -> None:
    """Also when the database refuses to prepare it. The next transaction works."""
    pipeline = Pipeline(connection)
    for refused in (b"select 1 / 0", b"select peers.no_such_function()"):
        pipeline.send([INSERT, Statement(refused), INSERT])
        with pytest.raises(StatementRefused) as caught:
            until(pipeline)
        assert caught.value.index == 1
    pipeline.send([INSERT])
    until(pipeline)
    assert words(notes) == ["noted"]


def test_a_refused_commit_undoes_all(notes: Connection, connection: BoundedConnection) -> None:
    """No statement is at fault then, so that none is named."""
    pipeline = Pipeline(connection)
    pipeline.send([INSERT, INSERT._replace(parameters=(b"late",))])
    with pytest.raises(StatementRefused) as caught:
        until(pipeline)
    assert caught.value.index is None
    assert "too late" in str(caught.value.error)
    assert words(notes) == []


def test_errors_of_peers_are_translated(db: Connection, connection: BoundedConnection) -> None:
    """They have the classes of peers.errors, as everywhere."""
    del db
    pipeline = Pipeline(connection)
    with pytest.raises(BadTask):
        pipeline.run(Statement(b"select peers.submit('')"))
    with pytest.raises(psycopg.errors.DivisionByZero):
        pipeline.run(Statement(b"select 1 / 0"))


def test_statements_wait_alone_between_transactions(
    notes: Connection, connection: BoundedConnection
) -> None:
    """The same connection serves psycopg's own calls."""
    pipeline = Pipeline(connection)
    pipeline.send([INSERT])
    until(pipeline)
    assert connection.execute("select count(*) from public.note").fetchall() == [(1,)]
    with connection.transaction():
        connection.execute("insert into public.note values ('mine')")
    assert pipeline.run(Statement(b"select word from public.note")).ntuples == 2
    assert sorted(words(notes)) == ["mine", "noted"]


def test_a_large_statement_is_sent_as_fast_as_the_database_reads(database_url: str) -> None:
    """The bound on the reply would end a wait after each piece, and the next try as well."""
    with connect(database_url, application_name="test", bounds=BOUNDS) as connection:
        text = b"x" * (16 << 20)
        result = Pipeline(connection).run(Statement(b"select length($1::text)", (text,), (0,)))
        assert int.from_bytes(result.get_value(0, 0) or b"", "big") == len(text)


def test_bounds_are_of_one_transaction(db: Connection, connection: BoundedConnection) -> None:
    """A transaction with bounds of its own changes nothing for the next one."""
    del db
    pipeline = Pipeline(connection)
    shown = Statement(b"select current_setting('lock_timeout')")
    pipeline.send([shown], Bounds(0.123, 1.0, 1.0))
    assert until(pipeline)[0].get_value(0, 0) == b"123ms"
    pipeline.send([shown])
    assert until(pipeline)[0].get_value(0, 0) == b"500ms"
    assert connection.execute("select current_setting('lock_timeout')").fetchall() == [("500ms",)]


def test_a_shared_session_stays_as_it_is(
    database_url: str, db: Connection, notes: Connection
) -> None:
    """Behind a pooler: nothing is prepared and nothing set, and transactions are READ COMMITTED
    whatever the default is.
    """
    del notes
    db.execute(
        f'alter database "{db.info.dbname}" set default_transaction_isolation to serializable'
    )
    with connect(database_url, application_name="t", bounds=BOUNDS, pooled=True) as connection:
        pipeline = Pipeline(connection)
        isolation = Statement(b"select current_setting('transaction_isolation')")
        for _ in range(8):
            assert pipeline.run(isolation).get_value(0, 0) == b"read committed"
            [[level]] = connection.execute("select current_setting('transaction_isolation')")
            assert level == "read committed"
            pipeline.send([INSERT, Statement(b"select 1 / 0")])
            with pytest.raises(StatementRefused):
                until(pipeline)
        connection.local_settings = {}
        connection.isolation_level = None
        assert connection.execute(
            "select current_setting('lock_timeout'), current_setting('transaction_isolation'),"
            " (select count(*) from pg_prepared_statements)"
        ).fetchall() == [("0", "serializable", 0)]


# ---------------------------------------------------------------------- on the main connection


class Main:
    """A reconnecting connection, its selector, and what it has told."""

    def __init__(self, url: str, bounds: Bounds = BOUNDS) -> None:
        self.selector = selectors.DefaultSelector()
        self.heard: list[str] = []
        self.own: list[tuple[str, int]] = []
        """What the session itself has sent, and how many results there were at that time."""
        self.results: list[Any] = []
        self.connection = ReconnectingConnection(
            lambda: self._connect(url, bounds), self.selector, lambda: None,
            on_notify=self._hear,
        )  # fmt: skip
        self.connection.use(self._connect(url, bounds))

    def _hear(self, payload: str, is_own: bool) -> None:
        self.heard.append(payload)
        if is_own:
            self.own.append((payload, len(self.results)))

    def _connect(self, url: str, bounds: Bounds) -> BoundedConnection:
        made = connect(url, application_name="test", bounds=bounds)
        made.execute("listen bells")
        return made

    def job(self, *statements: Statement) -> Job:
        """A job whose end goes to `results`."""
        return Job(
            list(statements), self.results.append, self.results.append,
            lambda: self.results.append("lost"),
        )  # fmt: skip

    def turn(self) -> None:
        """One turn of the main loop."""
        for key, _ in self.selector.select(0.05):
            key.data()
        self.connection.collect()

    def until_results(self) -> Any:
        """Turn until a job has ended."""
        give_up = time.monotonic() + PATIENCE
        while not self.results:
            assert time.monotonic() < give_up
            self.turn()
        return self.results.pop()


@pytest.fixture
def main(database_url: str) -> Iterator[Main]:
    """A main loop's connection."""
    made = Main(database_url)
    yield made
    made.connection.close()


def test_nobody_waits_for_a_job(main: Main, db: Connection) -> None:
    """While the database works, the loop turns; then the job has its results."""
    db.execute("select pg_advisory_lock(1)")
    main.connection.start(main.job(Statement(b"select pg_advisory_lock(1)"), BACKEND))
    for _ in range(4):
        main.turn()
        assert not main.connection.is_idle
        assert not main.results
    db.execute("select pg_advisory_unlock(1)")
    assert len(main.until_results()) == 2
    assert main.connection.is_idle


def test_a_statement_waits_for_the_job_before_it(main: Main) -> None:
    """The job ends first, in the same session."""
    main.connection.start(main.job(Statement(b"select pg_sleep(0.2)"), BACKEND))
    pid = main.connection.do(lambda c: c.execute("select pg_backend_pid()").fetchall()[0][0])
    [results] = main.results
    assert int.from_bytes(results[1].get_value(0, 0), "big") == pid


def test_notifications_are_heard_at_any_time(main: Main, db: Connection) -> None:
    """While nothing is in progress, during a job, and during a statement of psycopg's own."""
    db.execute("select pg_notify('bells', 'idle')")
    give_up = time.monotonic() + PATIENCE
    while main.heard != ["idle"]:
        assert time.monotonic() < give_up
        main.turn()
    main.connection.start(main.job(Statement(b"select pg_sleep(0.2)")))
    db.execute("select pg_notify('bells', 'job')")
    main.until_results()
    db.execute("select pg_notify('bells', 'do')")
    main.connection.do(lambda c: c.execute("select pg_sleep(0.1)"))
    assert main.heard == ["idle", "job", "do"]


def test_an_own_notification_follows_the_results_of_its_job(main: Main, db: Connection) -> None:
    """So the peer knows which transaction has made tasks ready."""
    db.execute("select pg_notify('bells', 'theirs')")
    main.connection.start(main.job(Statement(b"select pg_notify('bells', 'ours')")))
    main.until_results()
    assert set(main.heard) == {"theirs", "ours"}
    assert main.own == [("ours", 1)]


def test_a_notification_is_heard_that_came_before_an_error(main: Main, db: Connection) -> None:
    """Otherwise it would wait for whatever the database sends next."""

    def fail(pipeline: Pipeline) -> None:
        db.execute("select pg_notify('bells', 'with the reply')")
        pipeline.run(Statement(b"select pg_sleep(0.1)"))
        pipeline.run(Statement(b"select 1 / 0"))

    with pytest.raises(psycopg.errors.DivisionByZero):
        main.connection.transact(fail)
    assert main.heard == ["with the reply"]


def test_a_peer_that_ends_records_on_a_new_connection(main: Main, db: Connection) -> None:
    """Its last job may show that the old one is lost. Its outcomes would be lost with it."""
    leases = Mock(spec=Leases)
    leases.record_all.side_effect = lambda: main.connection.transact(lambda p: p.run(BACKEND))
    membership = Membership(
        PeerState(uuid4()), Mock(), main.connection, leases, Mock(), Mock(), Mock()
    )
    main.connection.start(main.job(Statement(b"select pg_sleep(60)")))
    db.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'test' and datname = current_database()"
    )
    membership.record_all()
    leases.record_all.assert_called_once()
    assert main.results == ["lost"]


def test_a_large_job_is_sent_while_the_loop_turns(main: Main) -> None:
    """More than the socket takes at once is sent piece by piece."""
    text = b"x" * (16 << 20)
    main.connection.start(main.job(Statement(b"select length($1::text)", (text,), (0,))))
    [result] = main.until_results()
    assert int.from_bytes(result.get_value(0, 0), "big") == len(text)


def test_the_loop_rests_after_a_large_job_that_was_waited_for(main: Main) -> None:
    """A selector that still waited for a chance to write would return at once for ever."""
    text = b"x" * (16 << 20)
    main.connection.start(main.job(Statement(b"select length($1::text)", (text,), (0,))))
    main.connection.finish()
    assert len(main.results.pop()) == 1
    assert main.selector.select(0.05) == []


def test_a_job_without_a_reply_loses_the_connection(database_url: str) -> None:
    """The database falls silent: the bound ends the job, whose fate is unknown; the loop turned
    all the while. A new connection does the next job.
    """
    with Proxy(database_url) as proxy:
        main = Main(proxy.url, Bounds(0.5, 1.0, 2.0))
        with proxy.silence():
            main.connection.start(main.job(BACKEND))
            began = time.monotonic()
            with pytest.raises(DatabaseUnreachable):
                main.until_results()
            assert main.results == ["lost"]
            assert 1.5 < time.monotonic() - began < PATIENCE / 3
        give_up = time.monotonic() + PATIENCE
        while not main.connection.restore():
            assert time.monotonic() < give_up
        main.results.clear()
        main.connection.start(main.job(BACKEND))
        assert len(main.until_results()) == 1
        main.connection.close()


def test_a_connection_that_breaks_loses_its_job(main: Main, db: Connection) -> None:
    """It is told at once."""
    main.connection.start(main.job(Statement(b"select pg_sleep(60)")))
    db.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'test' and datname = current_database()"
    )
    with pytest.raises(DatabaseUnreachable):
        main.until_results()
    assert main.results == ["lost"]
    assert not main.connection.is_up


def test_a_refusal_is_passed_on(main: Main) -> None:
    """With the error and the number of the statement; it raises nothing by itself."""
    main.connection.start(main.job(BACKEND, Statement(b"select 1 / 0")))
    refused = main.until_results()
    assert isinstance(refused, StatementRefused)
    assert refused.index == 1
    assert main.connection.is_idle


def test_a_lost_peer_is_raised_where_the_job_raises_it(main: Main) -> None:
    """The loop handles it, and the connection serves the next job."""

    def lost(_: StatementRefused) -> None:
        raise PeerLost("gone")

    main.connection.start(Job([Statement(b"select 1 / 0")], main.results.append, lost))
    with pytest.raises(PeerLost):
        main.until_results()
    main.connection.start(main.job(BACKEND))
    assert len(main.until_results()) == 1
