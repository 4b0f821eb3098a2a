"""How many no-op tasks a second two peers move, beside what the SQL alone moves on one connection.

    python -m benchmarks.throughput [--tasks 100000] [--peers 2] [--rounds 3] [--database-url URL]

Each task is one handler call and one result; claims and outcomes are committed durably. The clock
runs from the first claim to the last outcome, both by the database. Arms alternate; medians count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from peers.database import functions, schema
from peers.database.connection import Connection, connect
from peers.embedded import throwaway
from peers.types import KindPolicy

KIND: Final = "bench.noop"
BATCH: Final = 500
PATIENCE: Final = 600.0
_SETTINGS: Final = {"shared_buffers": "512MB", "max_wal_size": "4GB"}


def main() -> None:
    """Measure, print a line for each round, and the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--peers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--database-url", help="an empty database; else a private one, with fsync")
    options = parser.parse_args()
    with (
        server(options.database_url) as url,
        connect(url, application_name="bench") as connection,
    ):
        schema.migrate(connection)
        sql, peers = [], []
        for number in range(1, options.rounds + 1):
            sql.append(run_sql(connection, options.tasks))
            peers.append(run_peers(connection, url, options.tasks, options.peers))
            print(f"round {number}: SQL alone {sql[-1]:,.0f}/s, peers {peers[-1]:,.0f}/s")
        print(json.dumps({
            "tasks": options.tasks, "peers": options.peers, "rounds": options.rounds,
            "server_version": connection.info.server_version,
            "sql_per_second": round(statistics.median(sql)),
            "peers_per_second": round(statistics.median(peers)),
            "ratio": round(statistics.median(peers) / statistics.median(sql), 2),
        }))  # fmt: skip


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    """Yield the given database, or a private server for this run."""
    if url is not None:
        yield url
        return
    with throwaway(settings={**_SETTINGS, "fsync": "on", "synchronous_commit": "on"}) as postgres:
        yield postgres.url()


def submit(connection: Connection, tasks: int) -> None:
    """Fill the queue, and leave the tables as a quiet hour would."""
    with connection.cursor().copy("copy peers.task (kind) from stdin") as copy:
        copy.write(f"{KIND}\n" * tasks)
    connection.execute("vacuum analyze")
    connection.execute("checkpoint")


def rate(connection: Connection, tasks: int) -> float:
    """Tasks a second from the first claim to the last outcome of the newest `tasks` tasks."""
    [(count, seconds)] = connection.execute(
        "select count(*), extract(epoch from max(finished_at) - min(started_at))::float"
        " from (select * from peers.task where state = 'completed' order by id desc limit %s) t",
        [tasks],
    ).fetchall()
    assert count == tasks
    return float(count / seconds)


def run_sql(connection: Connection, tasks: int) -> float:
    """Claim and complete batches on one connection: what the kernel costs by itself."""
    submit(connection, tasks)
    lease, queues = timedelta(minutes=5), {"default": 1}
    peer_id = functions.join(connection, "bench", os.getpid(), queues, [KindPolicy(KIND)], lease)
    while claimed := functions.claim(connection, peer_id, "default", BATCH):
        token = str(claimed[0].token).encode()
        outcomes = b",".join(
            b'{"task_id":%d,"token":"%s","result":1}' % (task.task_id, token) for task in claimed
        )
        functions.complete(connection, peer_id, b"[%s]" % outcomes)
    functions.leave(connection, peer_id)
    return rate(connection, tasks)


def run_peers(connection: Connection, url: str, tasks: int, peers: int) -> float:
    """Let real peers do it."""
    submit(connection, tasks)
    command = [sys.executable, "-m", "peers", "run", "--app", "benchmarks.noop",
               "--queues=default=1", "--log-level=warning", "--database-url", url]  # fmt: skip
    processes = [subprocess.Popen(command) for _ in range(peers)]
    try:
        await_empty(connection)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(PATIENCE) for process in processes]
    assert codes == [0] * peers
    return rate(connection, tasks)


def await_empty(connection: Connection) -> None:
    """Wait until nothing is ready and nothing is leased."""
    give_up = time.monotonic() + PATIENCE
    query = "select exists (select from peers.ready) or exists (select from peers.lease)"
    while connection.execute(query).fetchall() == [(True,)]:
        assert time.monotonic() < give_up, "the peers did not finish"
        time.sleep(0.1)


if __name__ == "__main__":
    main()
