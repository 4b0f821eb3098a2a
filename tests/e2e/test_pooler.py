"""A pooler between a peer and Postgres that lends sessions for one transaction only."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from peers.database.pooler import refuse_pooler
from peers.errors import ConfigError
from tests.e2e.harness import Stage, until

BAD_CONFIGURATION: Final = 78
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


@pytest.mark.parametrize("pooled", ["transaction", "statement"], indirect=True)
def test_a_peer_behind_a_pooler_that_shares_sessions_is_bad_configuration(
    stage: Stage, pooled: str
) -> None:
    """It says what is wrong and what to do, ends with 78, and has not joined."""
    peer = stage.launch(database_url=pooled)
    assert peer.wait() == BAD_CONFIGURATION, peer.log.read_text()
    assert "pooler in transaction mode" in peer.log.read_text()
    assert "pool_mode = session" in peer.log.read_text()
    assert stage.rows("select * from peers.peer") == []


@pytest.mark.parametrize("pooled", ["session"], indirect=True)
def test_a_peer_behind_a_pooler_in_session_mode_works(stage: Stage, pooled: str) -> None:
    """Each of its connections has a session of its own there."""
    peer = stage.peer(database_url=pooled)
    ids = [stage.submit("noop") for _ in range(20)]
    stage.until_state("completed", *ids)
    assert peer.terminate() == 0
    stage.assert_clean()


def test_a_session_that_loses_its_prepared_statements_ends_the_peer(stage: Stage) -> None:
    """The symptom of a pooler that was put in between later (here a trigger of the application's
    deallocates them): 78, and the peer has left, with no lease.
    """
    stage.db.execute(DEALLOCATES.encode())
    peer = stage.peer(poll_interval="20ms")
    while peer.process.poll() is None:
        stage.submit("noop")
    assert peer.wait() == BAD_CONFIGURATION
    assert "pooler in transaction mode" in peer.log.read_text()
    assert stage.rows("select * from peers.peer") == []
    assert stage.rows("select * from peers.lease") == []


# ------------------------------------------------------------------- without a pooler at hand


class Pool:
    """Lends one of its servers for each statement, as its `order` has it."""

    def __init__(self, order: str) -> None:
        self._servers = iter(order * 100)

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
    pool: Any = Pool(order)
    with pytest.raises(ConfigError, match="pooler"):
        refuse_pooler(pool, pool)


def test_two_sessions_of_our_own_are_well() -> None:
    """Nothing is said of connections that keep their sessions."""
    one: Any = Pool("1")
    other: Any = Pool("2")
    refuse_pooler(one, other)
