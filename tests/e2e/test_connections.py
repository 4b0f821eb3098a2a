"""How many connections and statements a peer needs, and what it does when there are no more."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.e2e.harness import Stage, until

OURS = "from pg_stat_activity where application_name ~ '^peers ' and datname = current_database()"
IDLE_SECONDS = 20.0


@pytest.fixture
def limited(stage: Stage) -> Iterator[str]:
    """The URL of a role that may have two connections at a time."""
    role = sql.Identifier(f"limited_{secrets.token_hex(4)}")
    stage.db.execute(sql.SQL("create role {} login connection limit 2").format(role))
    stage.db.execute(sql.SQL("grant peers_worker to {}").format(role))
    try:
        yield make_conninfo(stage.url, user=role.as_string().strip('"'))
    finally:
        for peer in stage.peers:
            peer.kill()
        stage.db.execute(sql.SQL("revoke peers_worker from {}").format(role))
        stage.db.execute(sql.SQL("drop role {}").format(role))


def test_a_peer_holds_two_connections(stage: Stage) -> None:
    """Idle and busy. A third one exists while handlers request something, and a little longer."""
    stage.peer(slots=2, poll_interval="50ms")
    ids = [stage.submit("nap", {"seconds": 0.001}) for _ in range(100)]
    stage.until_state("completed", *ids)
    assert _names(stage) == ["peers heartbeat", "peers main"]
    parent = stage.submit("noop")
    child = stage.submit("rollup", depends_on=[parent])
    stage.until_state("completed", parent, child)
    assert _names(stage) == ["peers heartbeat", "peers main", "peers requests"]
    stage.until_true(f"select count(*) = 2 {OURS}")


def test_an_idle_peer_calls_less_than_one_function_a_second(stage: Stage) -> None:
    """Polls, heartbeats and maintenance together; and it holds no transaction open."""
    name = stage.row("select current_database() as name")["name"]
    stage.db.execute(f'alter database "{name}" set track_functions = pl'.encode())
    peer = stage.peer(slots="default=2")
    began = time.monotonic()
    while time.monotonic() - began < IDLE_SECONDS:
        assert stage.rows(f"select 1 {OURS} and state = 'idle in transaction'") == []
        time.sleep(0.5)
    assert peer.terminate() == 0
    verbs = ("claim", "heartbeat", "promote", "next_due", "reclaim", "reconcile", "unrunnable")
    calls = stage.row(
        "select sum(calls)::int as calls from pg_stat_user_functions where funcname = any (%s)",
        list(verbs),
    )["calls"]
    assert 3 <= calls < IDLE_SECONDS, "joining is counted in"


def test_a_peer_waits_for_a_free_connection(stage: Stage, limited: str) -> None:
    """It says so, starts when there is one, keeps its identity and its task when it loses the main
    connection and somebody else takes that place, and goes on when the place is free.
    """
    with psycopg.connect(limited), psycopg.connect(limited):
        peer = stage.launch(database_url=limited, poll_interval="50ms", slots=2)
        said = peer.await_event("no_connection_free")["reason"]
        assert "no free connection" in said
        assert peer.process.poll() is None
    peer.joined()
    assert peer.events("database_lost") == [], "it had none to lose"
    held = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(held)
    before = peer.log.read_text().count("no free connection")
    with _taking_the_place(stage, limited):
        until(lambda: peer.log.read_text().count("no free connection") > before, "a word of it")
        stage.open(stage.gate())
        time.sleep(1.0)
        assert peer.process.poll() is None
        assert stage.task(held)["state"] == "running"
    stage.until_state("completed", held, stage.submit("noop"))
    assert stage.task(held)["attempt"] == 1
    assert len(peer.events("peer_joined")) == 1


def _names(stage: Stage) -> list[str]:
    found = stage.rows(f"select application_name as name {OURS} order by 1")
    return [row["name"] for row in found]


def _taking_the_place(stage: Stage, limited: str) -> psycopg.Connection[tuple[object, ...]]:
    """Terminate the peer's main connection, and connect before the peer does."""
    while True:
        stage.rows(
            f"select pg_terminate_backend(pid, 10000) {OURS} and application_name = 'peers main'"
        )
        try:
            return psycopg.connect(limited)
        except psycopg.OperationalError:
            time.sleep(0.01)
