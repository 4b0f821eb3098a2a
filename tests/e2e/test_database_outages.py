"""The database goes away: it is restarted, it crashes, it hangs up on single connections, it
freezes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from psycopg import sql

from peers.embedded import EmbeddedPostgres, throwaway
from tests.e2e import ledger
from tests.e2e.disasters import LEASE
from tests.e2e.harness import Stage, until, workers_end
from tests.support.proxy import Proxy
from tests.support.server import open_connection, sql_files


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A server that the tests of this module may restart, stop and freeze."""
    with throwaway() as server:
        yield server


@pytest.fixture
def own(postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Stage]:
    """A stage on that server."""
    postgres.start()
    with open_connection(postgres.url("postgres")) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(tmp_path.name)))
    url = postgres.url(tmp_path.name)
    with open_connection(url) as connection:
        for file in sql_files():
            connection.execute(file.read_bytes())
    with Stage(url, tmp_path) as stage:
        yield stage


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_in_the_middle_of_everything(
    own: Stage, postgres: EmbeddedPostgres, mode: Literal["fast", "immediate"]
) -> None:
    """Postgres is restarted, politely or by a crash, while handlers run and outcomes are on their
    way. The leases hold: running handlers go on, their outcomes are recorded once, no attempt is
    lost, and the peers keep their identities.
    """
    for _ in range(2):
        own.peer(slots=2)
    through = [own.submit("held", {"gate": own.gate()}) for _ in range(2)]
    own.until_started(*through)
    with own.db.transaction():
        stream = [own.submit("nap", {"seconds": 0.002}) for _ in range(300)]
    own.until_started(stream[20])
    postgres.restart(mode)
    own.until_state("completed", *stream)
    own.open(own.gate())
    own.until_state("completed", *through)
    assert [len(own.started(task_id)) for task_id in through] == [1, 1]
    assert own.rows("select * from peers.failure") == []
    assert [len(peer.events("peer_joined")) for peer in own.peers] == [1, 1]
    own.assert_clean()


def test_the_commits_of_outcomes_are_cut_off_again_and_again(own: Stage) -> None:
    """While a thousand quick tasks flow, the connection that claims and settles is cut again and
    again, before and after commits whose fate the peer cannot know: each outcome is recorded once,
    and no claimed task is left behind.
    """
    own.peer(slots=1)
    with own.db.transaction():
        stream = [own.submit("nap", {"seconds": 0.001}) for _ in range(1000)]
    own.until_started(stream[0])
    cuts = 0
    while own.rows("select 1 from peers.task where state <> 'completed' limit 1") and cuts < 30:
        found = own.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'peers main' and datname = current_database()"
            " and state = 'active'"
        )
        cuts += len(found)
    assert cuts
    own.until_state("completed", *stream)
    own.assert_clean()


@pytest.mark.parametrize("duty", ["main", "heartbeat"])
def test_a_single_connection_is_cut(own: Stage, duty: str) -> None:
    """Each of a peer's connections is cut twice: the peer keeps its identity, what runs goes on,
    and new work is picked up though polling would take an hour.
    """
    peer = own.peer(slots=2, lease_timeout="3s", poll_interval="1h")
    running = own.submit("held", {"gate": own.gate()})
    own.until_started(running)
    there = "from pg_stat_activity where datname = current_database() and application_name = %s"
    before = 0
    for _ in range(2):
        own.until_true(f"select exists (select {there} and pid <> %s)", f"peers {duty}", before)
        [cut] = own.rows(f"select pid, pg_terminate_backend(pid, 10000) {there}", f"peers {duty}")
        before = cut["pid"]
        task_id = own.submit("noop")
        own.until_state("completed", task_id)
    own.open(own.gate())
    own.until_state("completed", running)
    assert own.task(running)["attempt"] == 1
    assert len(peer.events("peer_joined")) == 1
    own.assert_clean()


def test_the_database_is_gone_for_longer_than_a_lease(
    own: Stage, postgres: EmbeddedPostgres
) -> None:
    """A peer that cannot renew its lease kills its workers while the database is still away. When
    it is back, what ran before runs again, uncounted, and nothing is recorded twice.
    """
    peers = [own.peer(**LEASE) for _ in range(2)]
    ids = [
        own.submit("held.once", {"gate": own.gate()}),
        own.submit("async.held", {"gate": own.gate()}),
    ]
    own.until_started(*ids)
    pids = [own.started(task_id)[0].pid for task_id in ids]
    postgres.stop()
    workers_end(pids)
    for peer in peers:
        peer.await_event("peer_fenced")
    postgres.start()
    own.open(own.gate())
    own.until_state("completed", *ids)
    for peer in peers:
        assert peer.process.poll() is None
    after = own.submit("noop")
    own.until_state("completed", after)
    own.assert_clean()


def test_the_database_freezes_for_one_peer_only(own: Stage) -> None:
    """The network between one peer and the database falls silent in the middle of its claims, which
    nobody is told. Its workers must be dead before another peer runs its task.
    """
    with Proxy(own.url) as network:
        silent_peer = own.peer(slots=2, poll_interval="20ms", database_url=network.url, **LEASE)
        task_id = own.submit("held.once", {"gate": own.gate()})
        own.until_started(task_id)
        own.peer(slots=1, **LEASE)
        [first] = own.started(task_id)
        with network.silence():
            own.until_started(task_id, times=2)
            workers_end([first.pid], deadline=0)
        own.until_state("completed", task_id)
        silent_peer.joined(times=2)
        after = [own.submit("noop") for _ in range(4)]
        own.until_state("completed", *after)
        own.assert_clean()


def test_processes_of_the_server_that_hang_are_left_behind(own: Stage) -> None:
    """The server's processes for a peer stop answering, but it takes new connections: the peer goes
    on with those, before its lease is over, and what runs runs on.
    """
    peer = own.peer(slots=2, lease_timeout="6s")
    running = own.submit("held", {"gate": own.gate()})
    own.until_started(running)
    backends = [
        row["pid"]
        for row in own.rows(
            "select pid from pg_stat_activity"
            " where datname = current_database() and application_name in"
            " ('peers main', 'peers heartbeat')"
        )
    ]
    try:
        for pid in backends:
            os.kill(pid, signal.SIGSTOP)
        task_id = own.submit("noop")
        own.until_state("completed", task_id)
        own.open(own.gate())
        own.until_state("completed", running)
    finally:
        for pid in backends:
            os.kill(pid, signal.SIGCONT)
    assert own.task(running)["attempt"] == 1
    assert peer.events("peer_fenced") == []
    own.assert_clean()


def test_a_peer_that_is_told_to_stop_while_the_database_is_gone(
    own: Stage, postgres: EmbeddedPostgres
) -> None:
    """SIGTERM during an outage: the peer waits for the database no longer than its
    drain timeout.
    """
    peer = own.peer(drain_timeout="500ms")
    task_id = own.submit("held", {"gate": own.gate()})
    own.until_started(task_id)
    postgres.stop()
    own.open(own.gate())
    until(lambda: any(e.event == "end" for e in ledger.read(own.ledger)), "the end of the handler")
    assert peer.terminate() == 0
    postgres.start()
    own.reconnect()
    assert own.task(task_id)["state"] == "running", "others will reclaim it"


def test_the_primary_turns_into_a_standby(own: Stage) -> None:
    """After a failover the old primary still answers, but takes no writes (25006). To a peer that
    is an outage: it waits, tries again, and works on when writes are taken.
    """
    peer = own.peer(poll_interval="50ms")
    own.db.execute("alter system set default_transaction_read_only = on")
    own.db.execute("select pg_reload_conf()")
    peer.await_event("database_lost", times=3)
    own.db.execute("set default_transaction_read_only = off")
    own.db.execute("alter system reset default_transaction_read_only")
    own.db.execute("select pg_reload_conf()")
    task_id = own.submit("noop")
    own.until_state("completed", task_id)
    assert peer.process.poll() is None
    own.assert_clean()


WAITS_WHILE_IT_STARTS = """
    create or replace function peers.contract_version() returns integer language plpgsql as $$
    begin
        perform pg_advisory_lock_shared(42);
        perform pg_advisory_unlock_shared(42);
        return 1;
    end $$
"""


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_the_database_goes_away_while_a_peer_starts(
    own: Stage, postgres: EmbeddedPostgres, mode: Literal["fast", "immediate"]
) -> None:
    """While it checks the schema: it says so, waits for the server, and starts."""
    own.db.execute(WAITS_WHILE_IT_STARTS)
    own.db.execute("select pg_advisory_lock(42)")
    peer = own.launch()
    own.until_true(
        "select count(*) > 0 from pg_locks where locktype = 'advisory' and not granted and"
        " database = (select oid from pg_database where datname = current_database())"
    )
    if mode == "fast":
        postgres.restart(mode)
    else:
        postgres.stop()
        peer.await_event("database_unreachable", 2)
        postgres.start()
    peer.joined()
    assert peer.events("database_unreachable")
    own.reconnect()
    task = own.submit("noop")
    own.until_state("completed", task)
    assert peer.terminate() == 0


@pytest.mark.parametrize("well", [1, 2])
def test_the_network_goes_away_while_a_peer_starts(own: Stage, well: int) -> None:
    """After the check of the schema, before or between the connections that the peer keeps."""
    with Proxy(own.url) as network:
        with network.silence(after=well):
            peer = own.launch(database_url=network.url, lease_timeout="1500ms")
            peer.await_event("database_unreachable")
        peer.joined()
        assert peer.terminate() == 0


def test_a_peer_that_waits_for_the_database_to_start_can_be_stopped(own: Stage) -> None:
    """By one signal."""
    with Proxy(own.url) as network, network.silence(after=1):
        peer = own.launch(database_url=network.url, lease_timeout="1500ms")
        peer.await_event("database_unreachable")
        assert peer.terminate() == 0
