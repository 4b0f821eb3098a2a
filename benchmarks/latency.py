"""How long an idle peer takes to start a handler after a client's INSERT.

    python -m benchmarks.latency [--samples 200] [--database-url URL]

The clock runs from before the INSERT is sent, on a connection that is open, to the handler's first
line. Inserts come one at a time, at random moments, when the peer has been idle for a while.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import time
from typing import Final

from benchmarks.throughput import PATIENCE, server
from peers.database import schema
from peers.database.connection import Connection, connect

_IDLE: Final = (0.02, 0.1)
"""Seconds between two inserts."""
_WARM_UP: Final = 20
_NANOSECONDS: Final = 1e6
"""In a millisecond."""


def main() -> None:
    """Measure, and print the percentiles as JSON; milliseconds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--database-url", help="a database to use; else a private one, with fsync")
    options = parser.parse_args()
    with (
        server(options.database_url) as url,
        connect(url, application_name="bench") as connection,
    ):
        schema.migrate(connection)
        # an hour between two polls: only the doorbell can be so quick
        command = [sys.executable, "-m", "peers", "run", "--app", "benchmarks.stopwatch",
                   "--queues", "default=1", "--poll-interval", "1h", "--log-level", "warning",
                   "--database-url", url]  # fmt: skip
        peer = subprocess.Popen(command)
        try:
            taken = [sample(connection) for _ in range(_WARM_UP + options.samples)][_WARM_UP:]
        finally:
            peer.send_signal(signal.SIGTERM)
            peer.wait(PATIENCE)
        percentiles = statistics.quantiles(taken, n=100)
        print(json.dumps({
            "samples": options.samples, "server_version": connection.info.server_version,
            "p50_ms": round(percentiles[49], 2), "p95_ms": round(percentiles[94], 2),
            "p99_ms": round(percentiles[98], 2),
        }))  # fmt: skip


def sample(connection: Connection) -> float:
    """Milliseconds from one INSERT to its handler."""
    time.sleep(random.uniform(*_IDLE))
    inserted_at = time.monotonic_ns()
    [(task_id,)] = connection.execute(
        "insert into peers.task (kind) values ('bench.stopwatch') returning id"
    ).fetchall()
    return (await_result(connection, task_id) - inserted_at) / _NANOSECONDS


def await_result(connection: Connection, task_id: int) -> int:
    """Return the result of a task, once it is completed."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        time.sleep(0.005)
        [(result,)] = connection.execute(
            "select result from peers.task where id = %s", [task_id]
        ).fetchall()
        if result is not None:
            return int(result)
    raise AssertionError(f"task {task_id} was not completed within {PATIENCE:g} s")


if __name__ == "__main__":
    main()
