"""Tasks that only wait, as in a workload of remote requests: how near to ideal concurrency comes.

    python -m benchmarks.simulated_wait [--tasks 100000] [--ways 8,64,256] [--database-url URL]

Each task is a row, one handler call and a recorded result; claims and outcomes are committed
durably. The wait is simulated: 28.2 ms of sleep (the sync ones without the kernel's timer slack).
The peer is warm when the queue is opened; the clock runs from the first claim to the last outcome,
both by the database. Up to 8 at once the handlers are sync, a process each; beyond that they are
async, on one event loop. Beside the efficiency stands that of the same waits alone, in processes or
coroutines without a task: no scheduler comes nearer to the ideal on this machine.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from typing import Any, Final

from benchmarks import wait_control
from benchmarks.throughput import PATIENCE, await_empty, server
from benchmarks.waits import SECONDS
from peers.database import schema
from peers.database.connection import Connection, connect

MOST_PROCESSES: Final = 8
_READY: Final = "select count(*) filter (where alive) from peers.peer_status"


def main() -> None:
    """Measure each concurrency, print a table, and the figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--ways", default="8,64,256", help="how many at once, with commas")
    parser.add_argument("--database-url", help="an empty database; else a private one, with fsync")
    options = parser.parse_args()
    one_by_one = options.tasks * SECONDS
    print(
        f"{options.tasks:,} tasks of {SECONDS * 1000:g} ms simulated wait, one row each, durable;"
    )
    print(f"one after the other they would wait for {one_by_one / 60:.1f} minutes")
    print("at once  handlers    ideal  measured  efficiency  waits alone   tasks/s")
    figures = []
    for ways in map(int, options.ways.split(",")):
        with (
            server(options.database_url) as url,
            connect(url, application_name="bench") as connection,
        ):
            schema.migrate(connection)
            figures.append(measure(connection, url, options.tasks, ways))
        print(
            "{ways:7d}  {handlers:8}  {ideal:5.1f} s  {measured:6.1f} s  {efficiency:10.1%}  "
            "{waits_alone:11.1%}  {per_second:8,.0f}".format(**figures[-1]),
            flush=True,
        )
    print(
        json.dumps({"tasks": options.tasks, "simulated_wait_ms": SECONDS * 1000, "ways": figures})
    )


def measure(connection: Connection, url: str, tasks: int, ways: int) -> dict[str, Any]:
    """Have one peer with `ways` slots do all tasks; seconds."""
    sync = ways <= MOST_PROCESSES
    kind, app = ("bench.wait", "waits") if sync else ("bench.wait.async", "waits_async")
    command = [sys.executable, "-m", "peers", "run", "--app", f"benchmarks.{app}",
               f"--queues=default={ways}", "--log-level=error", "--database-url", url]  # fmt: skip
    peer = subprocess.Popen(command)
    try:
        warm_up(connection, kind, ways)
        connection.execute("select peers.pause('default')")
        with connection.cursor().copy("copy peers.task (kind) from stdin") as copy:
            copy.write(f"{kind}\n" * tasks)
        connection.execute("vacuum analyze")
        connection.execute("checkpoint")
        connection.execute("select peers.resume('default')")
        await_empty(connection)
    finally:
        peer.send_signal(signal.SIGTERM)
        code = peer.wait(PATIENCE)
    assert code == 0, f"the peer ended with {code}"
    [(count, seconds)] = connection.execute(
        "select count(*), extract(epoch from max(finished_at) - min(started_at))::float from"
        " (select * from peers.task where state = 'completed' and attempt = 1"
        "  order by id desc limit %s) t",
        [tasks],
    ).fetchall()
    assert count == tasks, f"{count} of {tasks} tasks completed at their first attempt"
    ideal = tasks * SECONDS / ways
    return {
        "ways": ways, "handlers": "sync" if sync else "async", "ideal": round(ideal, 2),
        "measured": round(seconds, 2), "efficiency": round(ideal / seconds, 4),
        "waits_alone": round(wait_control.efficiency(ways, sync=sync), 4),
        "per_second": round(count / seconds, 1),
    }  # fmt: skip


def warm_up(connection: Connection, kind: str, ways: int) -> None:
    """Until the peer has joined and each worker has run something."""
    give_up = time.monotonic() + PATIENCE
    while connection.execute(_READY).fetchall() != [(1,)]:
        assert time.monotonic() < give_up, "the peer did not join"
        time.sleep(0.1)
    for _ in range(3):
        connection.execute(
            "insert into peers.task (kind) select %s from generate_series(1, %s)", [kind, 20 * ways]
        )
        await_empty(connection)


if __name__ == "__main__":
    main()
