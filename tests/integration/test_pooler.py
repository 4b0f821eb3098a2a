"""Submitting, and every command, through PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

import peers
from peers.client.result_thread import ResultThread
from peers.database.connection import connect
from peers.embedded import places
from peers.embedded.accounts import server_account
from tests.integration.test_client import sqlalchemy_url
from tests.support.cli import PATIENCE, Here, join, submit, until
from tests.support.cli import peers as command
from tests.support.world import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.server import Connection, Databases

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")

SERVERS = 2
OFTEN = 12  # more than the five executions after which psycopg prepares
CONFIGURATION = """
[databases]
* = {server}
[pgbouncer]
pool_mode = {mode}
default_pool_size = {servers}
listen_addr =
unix_socket_dir = {folder}
auth_type = any
logfile = {folder}/log
pidfile = {folder}/pid
"""


@contextmanager
def pgbouncer(databases: Databases, mode: str) -> Iterator[Path]:
    """Run a PgBouncer before the server under test; yield the folder of its socket."""
    folder = places.temporary_folder()
    server = conninfo_to_dict(databases._server_url)
    line = make_conninfo(**{k: str(v) for k, v in server.items() if k != "dbname"})
    (folder / "ini").write_text(
        CONFIGURATION.format(server=line, servers=SERVERS, folder=folder, mode=mode)
    )
    account = server_account()
    places.give(folder, account)
    assert PROGRAM is not None
    process = subprocess.Popen(
        [PROGRAM, "-q", str(folder / "ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        cwd="/", user=account.uid if os.geteuid() == 0 else None,
    )  # fmt: skip
    try:
        until(lambda: (folder / ".s.PGSQL.6432").exists() or process.poll() is not None, "it")
        assert process.poll() is None, (folder / "log").read_text()
        yield folder
    finally:
        process.terminate()
        process.wait(PATIENCE)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def pooler(databases: Databases) -> Iterator[Path]:
    """The folder of the socket of a PgBouncer in transaction mode."""
    with pgbouncer(databases, "transaction") as folder:
        yield folder


@pytest.fixture
def pooled(pooler: Path, database_url: str) -> str:
    """The test's database by way of the pooler; its default isolation level is no good for us."""
    name = conninfo_to_dict(database_url)["dbname"]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            psycopg.sql.SQL(
                "alter database {} set default_transaction_isolation to 'repeatable read'"
            ).format(psycopg.sql.Identifier(str(name)))
        )
    return make_conninfo(host=str(pooler), port=6432, user="app", dbname=name)


@pytest.fixture
def others(pooled: str) -> Iterator[Callable[[], None]]:
    """Other clients of the pooler, who change servers all the time; call: each works as before."""
    clients = [
        psycopg.connect(pooled, autocommit=True, prepare_threshold=None) for _ in range(2 * SERVERS)
    ]

    def check() -> None:
        for client in clients:
            row = client.execute(
                "select current_setting('default_transaction_isolation'),"
                " current_setting('timezone'), count(*) from pg_prepared_statements"
            ).fetchone()
            assert row is not None
            assert (row[0], row[2]) == ("repeatable read", 0)
            zones.add(row[1])
        assert len(zones) == 1, zones

    zones: set[str] = set()
    check()
    yield check
    check()
    for client in clients:
        client.close()


def count(db: Connection) -> int:
    """The tasks that there are."""
    [row] = db.execute("select count(*) as n from peers.task").fetchall()
    return int(row["n"])


@pytest.mark.usefixtures("others")
def test_submit_and_graph_work_on_their_own(
    pooled: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as one likes, and under any default of the database."""
    monkeypatch.setenv("PEERS_DATABASE_URL", pooled)
    for _ in range(OFTEN):
        peers.submit("a")
        with peers.graph() as graph:
            graph.add("c", depends_on=[graph.add("b")])
    assert count(db) == 3 * OFTEN


def test_results_are_polled(
    pooled: str, db: Connection, others: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notifications do not arrive there, so none are asked for; every operation works."""
    db.execute("set default_transaction_isolation to 'read committed'")
    peer = Peer(db, UUID(join(db, "a")))
    asked: list[object] = []
    monkeypatch.setattr(ResultThread, "_register", lambda _self, ids: asked.append(ids))
    with peers.Client(pooled) as client:
        for number in range(OFTEN):
            task_id = client.submit("a", {"n": number})
            timer = threading.Timer(0.1, lambda: peer.complete(*peer.claim(), result="done"))
            timer.start()
            assert client.result(task_id, 20) == "done"
            timer.join()
            assert client.get(task_id).state == "completed"
            assert len(client.find(limit=1, state="completed")) == 1
            others()
        waiter = client._waiter
        assert waiter is not None
        assert not waiter._is_listening
    assert asked == []


def submit_sync(target: Any, commit: Callable[[], object]) -> None:
    """Submits a task and a graph, again and again, each in a transaction."""
    task = peers.task(f"pooler.{id(target)}")(lambda: None)
    for _ in range(OFTEN):
        task.submit_in(target)
        with peers.graph(target) as graph:
            graph.add("c", depends_on=[graph.add("b")])
        commit()


def read_committed(connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """The application's transactions are such that it may submit edges."""
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return connection


def test_an_application_submits_in_its_psycopg_connection(
    pooled: str, db: Connection, others: Callable[[], None]
) -> None:
    """Whose threshold for preparing is left as it is, and never counts for us."""
    with read_committed(psycopg.connect(pooled)) as own:

        def commit() -> None:
            own.commit()
            others()

        submit_sync(own, commit)
        assert own.prepare_threshold == 5
    assert count(db) == 3 * OFTEN


def test_an_application_submits_in_its_sqlalchemy_session(
    pooled: str, db: Connection, others: Callable[[], None]
) -> None:
    """Session and Connection; statements of the application are none of our business."""
    engine = create_engine(sqlalchemy_url(pooled), isolation_level="READ COMMITTED")
    with Session(engine) as session:

        def commit() -> None:
            session.commit()
            others()

        submit_sync(session, commit)
        driver = session.connection().connection.driver_connection
        assert driver is not None
        assert driver.prepare_threshold == 5
    with engine.connect() as connection:
        submit_sync(connection, connection.commit)
        connection.execute(text("select 1"))
    engine.dispose()
    assert count(db) == 6 * OFTEN


def test_an_application_submits_asynchronously(
    pooled: str, db: Connection, others: Callable[[], None]
) -> None:
    """The same in psycopg's and SQLAlchemy's async connections."""
    pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio needs greenlet")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    task = peers.task("pooler.async")(lambda: None)

    async def often(target: Any) -> None:
        for _ in range(OFTEN):
            await task.submit_in(target)
            async with peers.graph(target) as graph:
                graph.add("c", depends_on=[graph.add("b")])
            await target.commit()
            others()

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(pooled) as own:
            await own.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            await often(own)
        engine = create_async_engine(sqlalchemy_url(pooled), isolation_level="READ COMMITTED")
        async with AsyncSession(engine) as session:
            await often(session)
        async with engine.connect() as connection:
            await often(connection)
        await engine.dispose()

    asyncio.run(main())
    assert count(db) == 9 * OFTEN


def test_every_command_works_through_a_pooler(
    pooled: str,
    db: Connection,
    others: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They do what they do, and leave nothing behind in the pooler's connections."""
    assert command("migrate", url=pooled).code == 0
    here = Here(pooled, monkeypatch, capsys)
    db.execute("set default_transaction_isolation to 'read committed'")
    peer = join(db, "a")
    for words in (
        ["submit", "a"], ["submit", "a", "--after", "1"], ["submit", "z"],
        ["change", "2", "--priority", "7"], ["change", "2", "--in", "1s"], ["cancel", "2"],
        ["pause", "default"], ["resume", "default"], ["check", "--repair"], ["explain", "1"],
        ["status", "--running", "--json"], ["dead", "list"], ["dead", "retry", "--all"],
    ):  # fmt: skip
        found = here(*words)
        assert found.code in (0, 1), (words, found)
        assert "Traceback" not in found.err
        others()
    [claim] = db.execute("select task_ids, token from peers.claim(%s, 'default', 9)", (peer,))
    failure = {"task_id": claim["task_ids"][0], "token": str(claim["token"]), "error_type": "E"}
    db.execute(
        "select from peers.fail(%s, %s::jsonb)",
        (peer, psycopg.types.json.Jsonb([{**failure, "reject": True}])),
    )
    for words, code in (
        (["dead", "show", "1"], 0), (["dead", "retry", "1"], 0), (["cancel", "1"], 0),
        (["prune", "--keep-completed", "0s"], 0), (["explain", "1"], 4),
    ):  # fmt: skip
        assert here(*words).code == code, words
    assert count(db) == 1


def test_what_is_set_for_a_session_would_reach_others(
    pooled: str, others: Callable[[], None]
) -> None:
    """The check sees it when a connection of ours is not made for a pooler (a broken variant)."""
    with connect(pooled, application_name="careless"):
        with pytest.raises(AssertionError):
            others()
        with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as admin:
            for _ in range(OFTEN):  # for the fixture's last look
                admin.execute("reset default_transaction_isolation")


def test_a_pooler_in_statement_mode_is_refused(databases: Databases, database_url: str) -> None:
    """With the setting to change, by every command and by the client: they need transactions."""
    name = conninfo_to_dict(database_url)["dbname"]
    with pgbouncer(databases, "statement") as folder:
        url = make_conninfo(host=str(folder), port=6432, user="app", dbname=name)
        for words in (["submit", "a"], ["status"], ["migrate"], ["cancel", "1"]):
            found = command(*words, url=url)
            assert found.code == 78, (words, found)
            assert "refuses transactions" in found.err
            assert "Use pool_mode = transaction or session." in found.err
        with peers.Client(url) as client:
            log = folder / "log"
            before = log.read_text()
            with pytest.raises(peers.ConfigError, match="refuses transactions"):
                client.submit("a")
            tries = log.read_text().removeprefix(before).count(" pooler error: ")
            assert tries == 1, "it is not tried again"
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select count(*) from peers.task").fetchone() == (0,)


def test_a_parameter_that_the_pooler_refuses_is_named(pooled: str, pooler: Path) -> None:
    """Postgres does run there: it is a setting that is wrong."""
    found = command("status", url=pooled, env={"PGOPTIONS": "-c work_mem=8MB"})
    assert (found.code, "unsupported startup parameter: options" in found.err) == (78, True)
    assert "ignore_startup_parameters" in found.err
    found = command("status", url=make_conninfo(host=str(pooler), port=6432, dbname="nosuch"))
    assert found.code == 78, found


@pytest.mark.parametrize(
    "env", [{"PGDATESTYLE": "German"}, {"PGOPTIONS": "-c intervalstyle=sql_standard"}]
)
def test_commands_read_times_whatever_the_form_is(
    database_url: str, db: Connection, env: dict[str, str]
) -> None:
    """A role or database may have another form of times as its default."""
    peer = join(db, "a")
    submit(db, "a")
    db.execute("select * from peers.claim(%s, 'default', 1)", (peer,))
    for words in (["status", "--running"], ["status", "--json"]):
        found = command(*words, url=database_url, env=env)
        assert (found.code, found.err) == (0, ""), (words, found)
