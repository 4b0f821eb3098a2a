"""What keeps a peer waiting for ever: a database that says nothing, locks, slow imports, a log that
nobody reads. The fence and SIGTERM come first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.e2e.disasters import LEASE
from tests.e2e.harness import PeerProcess, Stage, until, workers_end
from tests.support.proxy import Proxy

HEEDED = 25.0
"""Seconds; a second is promised, and the machine may be slow. Without it, it is 40 s and more."""
LONG_LEASE = {"lease_timeout": "10m"}


@pytest.fixture
def network(stage: Stage) -> Iterator[Proxy]:
    """Between a peer and the stage's database."""
    with Proxy(stage.url) as proxy:
        yield proxy


def seconds_to(peer: PeerProcess, event: str) -> float:
    """SIGTERM; how long until the peer has logged this event."""
    sent = time.time()
    peer.process.terminate()
    logged = datetime.fromisoformat(peer.await_event(event)["time"])
    return logged.timestamp() - sent


# ---------------------------------------------------------------------------------- SIGTERM


def test_sigterm_is_heeded_while_the_database_says_nothing(stage: Stage, network: Proxy) -> None:
    """The peer waits for an answer that will not come: SIGTERM is heeded within a second, and the
    drain takes no longer than its timeout and the moment for the last words.
    """
    peer = stage.peer(
        database_url=network.url, drain_timeout="1s", poll_interval="50ms", **LONG_LEASE
    )
    task_id = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(task_id)
    with network.silence():
        time.sleep(0.2)  # it polls: now it waits
        assert seconds_to(peer, "peer_draining") < HEEDED
        assert peer.wait() == 0
        assert time.time() - _time_of(peer, "peer_draining") < 1 + HEEDED


@pytest.mark.parametrize("table", ["task", "peer", "lease"])
def test_sigterm_is_heeded_while_somebody_has_a_table_locked(stage: Stage, table: str) -> None:
    """An ACCESS EXCLUSIVE lock, as of a VACUUM FULL, keeps statements waiting, but not the peer."""
    peer = stage.peer(drain_timeout="1s", poll_interval="50ms", **LONG_LEASE)
    with stage.connect() as other, other.transaction():
        other.execute(f"lock table peers.{table} in access exclusive mode")
        stage.until_true(
            "select exists (select from pg_stat_activity where wait_event_type = 'Lock'"
            " and datname = current_database())"
        )
        assert seconds_to(peer, "peer_draining") < HEEDED
        assert peer.wait() == 0
        assert time.time() - _time_of(peer, "peer_draining") < 1 + HEEDED


def test_a_table_that_is_locked_for_longer_than_a_lease(stage: Stage) -> None:
    """The main loop turns, the heartbeat beats, what runs runs on; afterwards all goes on."""
    queues = "default=2,b=1,c=1,d=1,e=1,f=1"  # each waits for the lock in its turn
    peer = stage.peer(slots=queues, poll_interval="50ms", **LEASE)
    running = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(running)
    waiting = stage.submit("noop")
    with stage.connect() as other, other.transaction():
        other.execute("lock table peers.ready in access exclusive mode")
        peer.await_event("database_refused", times=3)
        until(lambda: _outlived(stage, 3.0), "more than a lease")
    stage.open(stage.gate())
    stage.until_state("completed", running, waiting)
    assert stage.task(running)["attempt"] == 1
    assert len(peer.events("peer_joined")) == 1
    assert peer.events("peer_fenced") == []
    stage.assert_clean()


def test_sigterm_ends_a_start_that_waits_for_the_database(stage: Stage, network: Proxy) -> None:
    """The database falls silent just when a peer connects: it ends with 0, and has not joined."""
    with network.silence(after=1):  # the first one only looks for the schema
        peer = stage.launch(database_url=network.url, **LONG_LEASE)
        until(lambda: network.silent or peer.process.poll() is not None, "the second connection")
        time.sleep(0.2)
        began = time.monotonic()
        assert peer.terminate() == 0
        assert time.monotonic() - began < HEEDED
    assert stage.rows("select * from peers.peer") == []


def test_sigterm_ends_a_start_that_waits_for_the_app(stage: Stage) -> None:
    """An app that takes long to import does not keep a peer from ending, with 0."""
    peer = stage.launch("tests.e2e.app_slow")
    until(peer.fork_servers, "the import")  # which may begin before the peer itself is loaded
    until(lambda: peer.catches(signal.SIGTERM), "the peer's own handler")
    began = time.monotonic()
    assert peer.terminate() == 0
    assert time.monotonic() - began < HEEDED
    assert stage.rows("select * from peers.peer") == []


# --------------------------------------------------------------------------------- the fence


def test_the_fence_does_not_wait_for_the_log(stage: Stage, network: Proxy) -> None:
    """Whoever reads the log has stopped to, and the database is gone for one peer: its workers are
    dead before another peer runs its task.
    """
    read, write = os.pipe()
    log = stage.folder / "read.log"
    reading = threading.Event()
    reading.set()
    reader = threading.Thread(target=_read_while, args=(read, log, reading), daemon=True)
    reader.start()
    peer = stage.launch_in(stage.environment(database_url=network.url, **LEASE), stderr=write)
    peer.log = log
    peer.joined()
    task_id = stage.submit("held.once", {"gate": stage.gate()})
    stage.until_started(task_id)
    stage.peer(**LEASE)
    [first] = stage.started(task_id)
    reading.clear()
    reader.join()
    _fill(write)
    try:
        with network.silence():
            stage.until_started(task_id, times=2)
            workers_end([first.pid], deadline=0)
        stage.until_state("completed", task_id)
    finally:
        peer.kill()
        os.close(read)
        os.close(write)


# ------------------------------------------------------------------------- a heart without a beat


def test_a_peer_without_a_connection_for_its_heartbeat_does_not_join(
    stage: Stage, network: Proxy
) -> None:
    """The database takes one connection and no second: the peer waits, and joins with both."""
    network.most = 1
    peer = stage.launch(database_url=network.url)
    peer.await_event("database_unreachable")
    assert stage.rows("select * from peers.peer") == []
    network.most = 2
    peer.joined()


def test_a_heartbeat_that_falls_silent_is_told_and_not_hidden_from_the_watchdog(
    stage: Stage, network: Proxy
) -> None:
    """The heartbeat loses its connection and gets no other, while the main loop has its own: the
    log says so once, the peer fences itself, and after a lease the watchdog is no longer fed; but
    it is when the database is gone for the main loop, too. When the heartbeat is back, the peer is.
    """
    address = stage.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(address))
        supervisor.settimeout(0.01)
        environment = stage.environment(database_url=network.url, poll_interval="1h", **LEASE)
        peer = stage.launch_in(environment | {"NOTIFY_SOCKET": str(address)})
        peer.joined()
        until(lambda: _alive(supervisor), "the first sign of life")
        stage.until_true(
            "select count(*) = 2 from pg_stat_activity"
            " where application_name ~ '^peers' and datname = current_database()"
        )
        network.most = 0
        _cut(stage, "heartbeat")
        peer.await_event("peer_fenced")
        until(lambda: not _alive(supervisor, within=1.5), "the watchdog to starve")
        assert len(peer.events("heartbeat_failed")) == 1
        assert peer.process.poll() is None
        network.cut()
        until(lambda: _alive(supervisor), "mercy in a real outage")
        network.most = 1000
        peer.await_event("heartbeat_recovered")
    task_id = stage.submit("noop")
    stage.until_state("completed", task_id)


# ------------------------------------------------------------------------------------- helpers


def _time_of(peer: PeerProcess, event: str) -> float:
    return datetime.fromisoformat(peer.events(event)[-1]["time"]).timestamp()


def _outlived(stage: Stage, seconds: float) -> bool:
    [row] = stage.rows("select heartbeat_at - joined_at > make_interval(secs => %s) as so"
                       " from peers.peer", seconds)  # fmt: skip
    return bool(row["so"])


def _cut(stage: Stage, duty: str) -> None:
    stage.rows(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = %s and datname = current_database()",
        f"peers {duty}",
    )


def _alive(supervisor: socket.socket, within: float = 0.01) -> bool:
    supervisor.settimeout(within)
    with contextlib.suppress(TimeoutError):
        while True:
            if b"WATCHDOG=1" in supervisor.recv(4096):
                return True
    return False


def _read_while(read: int, log: Path, reading: threading.Event) -> None:
    os.set_blocking(read, False)
    with log.open("wb", buffering=0) as file:
        while reading.is_set():
            with contextlib.suppress(BlockingIOError):
                file.write(os.read(read, 1 << 16))
            time.sleep(0.01)


def _fill(write: int) -> None:
    """Not by `write` itself: that it blocks is what it shares with the peer."""
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    other = os.open(f"/proc/self/fd/{write}", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(other, b"\n" * 512)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(other, b"\n")
    os.close(other)
