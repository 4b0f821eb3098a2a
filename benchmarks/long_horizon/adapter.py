"""Peers as the harness's adapter: one `peers run`, one producer, and samples on stdout.

The harness starts this program once for each replica. Peers is used as its users would: the
command, INSERTs into peers.task, and the view peers.queue_status.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psycopg

from benchmarks.long_horizon import meters, samples
from benchmarks.long_horizon.meters import Meter
from benchmarks.long_horizon.options import Options
from benchmarks.long_horizon.pacing import Credit
from benchmarks.long_horizon.producer import Clock, Producer, Requests

MANIFEST: Final = Path(__file__).with_name("adapter.json")
_REPOSITORY: Final = Path(__file__).parents[2]
_PEERS: Final = (sys.executable, "-m", "peers")
_DRAIN: Final = "3s"
_SHUTDOWN: Final = 4.5
"""Seconds. The contract allows 5 from SIGTERM to the end."""
_LOOK_AGAIN: Final = 0.5
_DEPTHS: Final = (
    "select coalesce(sum(ready), 0), coalesce(sum(running), 0), coalesce(sum(scheduled), 0)"
    " from peers.queue_status"
)
_JOINED: Final = "select exists (select from peers.peer_status where pid = %s and alive)"
_JOIN_PATIENCE: Final = 10.0
_DEPTH_TIMEOUT: Final = "-c statement_timeout=1000"
"""Milliseconds. A sample without depths is better than a late one."""
_PR_SET_PDEATHSIG: Final = 1


def main() -> int:
    """Run one replica until SIGTERM. If its peer ends by itself, return 1."""
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    options = Options.read(os.environ)
    subprocess.run(
        [*_PEERS, "migrate", "--database-url", options.database_url],
        check=True, stdout=sys.stderr, cwd=_REPOSITORY,
    )  # fmt: skip
    # It stays at the end: the runner adds up what all replicas have counted.
    parent = os.environ.get(meters.VARIABLE)
    folder = Path(tempfile.mkdtemp(prefix=f"replica-{options.instance}-", dir=parent))
    print(_descriptor(options), flush=True)
    peer = start_peer(options, folder)
    await_joined(options, peer)
    producer = start_producer(options, folder)
    try:
        return report(options, folder, peer, producer, stopped)
    finally:
        producer.stop()
        end(peer)


def start_peer(options: Options, folder: Path) -> subprocess.Popen[bytes]:
    """Start a peer that dies with this process, also by SIGKILL: they are one replica."""
    libc = ctypes.CDLL(None)
    return subprocess.Popen(
        [*_PEERS, "run", "--app", options.app, f"--queues=default={options.workers}",
         "--drain-timeout", _DRAIN, "--log-level", "warning",
         "--database-url", options.database_url],
        env={**os.environ, meters.VARIABLE: str(folder)}, cwd=_REPOSITORY,
        stdin=subprocess.DEVNULL, stdout=sys.stderr,
        # safe: no other thread runs yet
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
    )  # fmt: skip


def await_joined(options: Options, peer: subprocess.Popen[bytes]) -> None:
    """Wait until the peer is ready: its start is no latency of the first jobs."""
    give_up = time.monotonic() + _JOIN_PATIENCE
    with psycopg.connect(options.database_url, autocommit=True) as connection:
        while connection.execute(_JOINED, [peer.pid]).fetchone() == (False,):
            if peer.poll() is not None or time.monotonic() > give_up:
                return
            time.sleep(_LOOK_AGAIN / 10)


def start_producer(options: Options, folder: Path) -> Producer:
    """Start the threads that insert tasks."""
    credit = Credit(options.rate, options.rate_file)
    # the harness's pipe is read in any case: it would fill up and stop the harness's thread
    Requests(credit if options.asks_on_stdin else Credit(0.0, None)).start()
    if not options.asks_on_stdin:
        Clock(credit, options.batch_seconds).start()
    producer = Producer(options, Meter(folder), folder, credit)
    producer.start()
    return producer


def report(
    options: Options, folder: Path, peer: subprocess.Popen[bytes], producer: Producer,
    stopped: threading.Event,
) -> int:  # fmt: skip
    """Print a sample at each tick of the wall clock, until SIGTERM, or return 1 at a failure."""
    window = samples.Window(_reading(folder))
    observer = Observer(options)
    tick = samples.next_tick(_wall_clock(), options.sample_seconds)
    while not stopped.is_set():
        if peer.poll() is not None or not producer.is_alive():
            print(f"ended by itself: peer {peer.poll()}, {producer}", file=sys.stderr)
            return 1
        left = tick - _wall_clock()
        if left > 0:
            stopped.wait(min(left, _LOOK_AGAIN))
            continue
        metrics = window.add(_reading(folder)) | observer.depths()
        for line in samples.lines(metrics, options.instance, _wall_clock(), options.sample_seconds):
            print(line, flush=True)
        tick = samples.next_tick(_wall_clock(), options.sample_seconds)
    return 0


class Observer:
    """Reads what is true of the whole system. Only the first replica does."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._connection: psycopg.Connection[Any] | None = None

    def depths(self) -> dict[str, float]:
        """Return how many tasks are in which state; nothing while the database is away."""
        if not self._options.observes:
            return {}
        try:
            [(ready, running, scheduled)] = self._connect().execute(_DEPTHS).fetchall()
        except psycopg.Error:
            return {}
        return {
            "queue_depth": float(ready),
            "running_depth": float(running),
            "scheduled_depth": float(scheduled),
            "total_backlog": float(ready + running + scheduled),
        }

    def _connect(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._options.database_url, autocommit=True, application_name="observer",
                options=_DEPTH_TIMEOUT,
            )  # fmt: skip
        return self._connection


def end(peer: subprocess.Popen[bytes]) -> None:
    """Let the peer drain; kill it when the time is over."""
    peer.terminate()
    try:
        peer.wait(_SHUTDOWN)
    except subprocess.TimeoutExpired:
        peer.kill()
        peer.wait()


def _descriptor(options: Options) -> str:
    with psycopg.connect(options.database_url) as connection:
        [(contract,)] = connection.execute("select peers.contract_version()").fetchall()
    manifest = json.loads(MANIFEST.read_text())
    return samples.descriptor(
        manifest, version("peers"), str(contract), options.instance, _wall_clock()
    )


def _reading(folder: Path) -> samples.Reading:
    return samples.Reading(
        time.monotonic(), meters.counts(folder), meters.claim_latencies(folder),
        meters.end_to_end_latencies(folder),
    )  # fmt: skip


def _wall_clock() -> float:
    return time.clock_gettime(time.CLOCK_REALTIME)


if __name__ == "__main__":
    sys.exit(main())
