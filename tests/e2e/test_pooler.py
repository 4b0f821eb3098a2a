"""A pooler between a peer and Postgres, in each of its modes."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from peers.database.pooler import is_pooled
from tests.e2e.harness import Stage, until

BAD_CONFIGURATION: Final = 78
SESSIONS: Final = 4
PGBOUNCER: Final = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

DEALLOCATES = """
    create function public.deallocates() returns trigger language plpgsql as $$
    begin
        execute 'deallocate all';
        return null;
    end $$;
    create trigger deallocates after update on peers.task execute function public.deallocates();
"""


@pytest.fixture
def pooled(stage: Stage, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a PgBouncer before the stage's database, in the mode that the test asks for."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # it refuses to run as root, and others cannot look into pytest's own folders
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        config = folder / "pgbouncer.ini"
        config.write_text(_config(stage, port, request.param))
        started = subprocess.Popen(
            [PGBOUNCER, str(config)], user=_user(stage) if os.geteuid() == 0 else None,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        url = make_conninfo(stage.url, host="127.0.0.1", port=port)
        try:
            until(lambda: _answers(url) or started.poll() is not None, "pgbouncer")
            assert started.poll() is None, "pgbouncer did not start"
            yield url
        finally:
            started.terminate()
            started.wait()


def _user(stage: Stage) -> str:
    """Whoever can reach the server's socket."""
    host = Path(stage.db.info.host)
    return host.owner() if host.is_absolute() else "nobody"


def _config(stage: Stage, port: int, mode: str) -> str:
    info = stage.db.info
    return f"""
[databases]
* = host={info.host} port={info.port} user={info.user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
server_round_robin = {int(mode == "transaction")}
"""


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("pooled", ["statement"], indirect=True)
def test_a_pooler_that_refuses_transactions_is_bad_configuration(stage: Stage, pooled: str) -> None:
    """The peer says what is wrong and what to do, ends with 78, and has not joined."""
    peer = stage.launch(database_url=pooled)
    assert peer.wait() == BAD_CONFIGURATION, peer.log.read_text()
    assert "refuses transactions" in peer.log.read_text()
    assert "pool_mode = transaction or session" in peer.log.read_text()
    assert stage.rows("select * from peers.peer") == []


@pytest.mark.parametrize("pooled", ["session"], indirect=True)
def test_a_peer_behind_a_pooler_in_session_mode_works(stage: Stage, pooled: str) -> None:
    """Each of its two connections has a session of its own there, and one of them listens."""
    peer = stage.peer(database_url=pooled, poll_interval="1h")
    ids = [stage.submit("noop") for _ in range(20)]
    stage.until_state("completed", *ids)
    assert _connections(stage) == ["peers heartbeat", "peers main"]
    assert peer.terminate() == 0
    stage.assert_clean()


@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
@pytest.mark.parametrize("listens", [True, False], ids=["listen_url", "polls"])
def test_a_peer_behind_a_pooler_in_transaction_mode_works(
    stage: Stage, pooled: str, listens: bool
) -> None:
    """Tasks in batches and one by one, failures, cancellations, retries, scheduled ones, and what
    handlers request. With a direct address it is notified; without one it polls every second. Other
    clients of the pooler find their sessions as they have left them.
    """
    settings = {"listen_url": stage.url} if listens else {}
    others = [
        psycopg.connect(pooled, autocommit=True, prepare_threshold=None) for _ in range(SESSIONS)
    ]
    before = {_state(client) for client in others}
    peer = stage.peer(slots=2, database_url=pooled, poll_interval="1h", **settings)
    with stage.db.transaction():
        many = [stage.submit("nap", {"seconds": 0.001}) for _ in range(300)]
        child = stage.submit("rollup", depends_on=[stage.submit("noop") for _ in range(3)])
    again = stage.submit("dies.once", {"how": "exit"})
    later = stage.row(
        "insert into peers.task (kind, scheduled_at) values ('noop', now() + interval '1 s')"
        " returning id"
    )["id"]
    stage.until_state("completed", *many, child, again, later)
    for _ in range(3):
        stage.until_state("completed", stage.submit("noop"))
    held = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(held)
    stage.db.execute("select peers.cancel(%s)", (held,))
    stage.until_state("cancelled", held)
    assert {_state(client) for client in others} == before
    for client in others:
        client.close()
    assert peer.terminate() == 0
    assert len(peer.events("peer_joined")) == 1
    assert peer.events("database_refused") == []
    stage.assert_clean()


@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
def test_handlers_submit_through_the_pooler(stage: Stage, pooled: str) -> None:
    """Graphs within the lease, once."""
    stage.peer("tests.e2e.app_submissions", database_url=pooled, poll_interval="50ms")
    ids = [stage.submit("submits", {"children": 5}) for _ in range(4)]
    stage.until_state("completed", *ids)
    children = stage.rows("select args ->> 'parent' as parent from peers.task where kind = 'child'")
    assert sorted(int(child["parent"]) for child in children) == sorted(ids * 5)


def test_a_session_that_loses_its_prepared_statements_is_taken_for_shared(stage: Stage) -> None:
    """The symptom of a pooler that was put in between later (here a trigger of the application's
    deallocates them): the peer prepares nothing any more, and goes on.
    """
    stage.db.execute(DEALLOCATES.encode())
    peer = stage.peer(poll_interval="20ms")
    for _ in range(30):
        stage.until_state("completed", stage.submit("noop"))
    assert len(peer.events("peer_joined")) == 1
    assert peer.terminate() == 0
    stage.assert_clean()


def _connections(stage: Stage) -> list[str]:
    rows = stage.rows(
        "select application_name as name from pg_stat_activity"
        " where application_name ~ '^peers ' and datname = current_database() order by 1"
    )
    return [row["name"] for row in rows]


def _state(client: psycopg.Connection[Any]) -> tuple[Any, ...]:
    """What the session has that the client gets for its next transaction."""
    row = client.execute(
        "select current_setting('lock_timeout'), current_setting('statement_timeout'),"
        " current_setting('default_transaction_isolation'), current_setting('intervalstyle'),"
        " current_setting('synchronous_commit'),"
        " current_setting('client_connection_check_interval'),"
        " (select count(*) from pg_prepared_statements),"
        " (select count(*) from pg_listening_channels())"
    ).fetchone()
    assert row is not None
    return tuple(row)


# ------------------------------------------------------------------- without a pooler at hand


class Pool:
    """Lends one of its servers for each transaction, in their order."""

    info = SimpleNamespace(backend_pid=0)

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Every transaction is allowed."""
        return contextlib.nullcontext()

    def __init__(self, servers: Iterator[str]) -> None:
        self._servers = servers

    def execute(self, _query: str) -> Any:
        """Answers with the server's number."""
        server = int(next(self._servers))

        class Answer:
            def fetchall(self) -> list[tuple[int]]:
                return [(server,)]

        return Answer()


@pytest.mark.parametrize("order", ["1", "12", "123", "1221", "1112", "11221", "1123"])
def test_however_a_pooler_picks_its_sessions_it_is_found_out(order: str) -> None:
    """The same one again and again, one after the other, or as they get free."""
    servers = iter(order * 100)
    one: Any = Pool(servers)
    other: Any = Pool(servers)
    assert is_pooled(one, other)


def test_two_sessions_of_our_own_are_well() -> None:
    """Nothing is said of connections that keep their sessions."""
    one: Any = Pool(itertools.repeat("1"))
    other: Any = Pool(itertools.repeat("2"))
    assert not is_pooled(one, other)
