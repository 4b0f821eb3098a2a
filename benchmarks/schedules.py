"""How late schedules fire with an idle fleet, what 10,000 of them cost it, and how fast they fire.

    python -m benchmarks.schedules [--peers 4] [--seconds 30] [--schedules 10000]

All times are by the database's clock. "Submitted" is when the due time was recorded; the task is
submitted in the same transaction. "Started" is when a peer claimed it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, LiteralString

from benchmarks import statement_log
from benchmarks.cpu import CpuMeter
from benchmarks.processes import Processes
from benchmarks.server import Connection, Server, connect, running, tidy
from peers import task
from peers.database import schema
from peers.database.connection import connect as peers_connect

_GOAL: Final = 0.25
_SETTLE: Final = 15.0
"""Seconds until a fleet that has joined is idle."""
_PATIENCE: Final = 300.0
_LOOK_EVERY: Final = 0.05
_RARE: Final = """
    insert into peers.schedule (name, cron, kind)
    select 'rare ' || n, '0 0 1 1 *', 'bench.tick' from generate_series(1, %s) n
"""
_FREQUENT: Final = """
    insert into peers.schedule (name, every, anchor, kind)
    select 'frequent ' || n, '7 seconds', now() + n * interval '0.37 s', 'bench.tick'
    from generate_series(1, 20) n
"""
_BURST: Final = """
    update peers.schedule set cron = null, every = '1 day', anchor = %s::timestamptz
    where name like 'rare %%'
"""
_LATE: Final = """
    select extract(epoch from r.recorded_at - r.due_at)::float8,
           extract(epoch from t.started_at - r.due_at)::float8
    from peers.schedule_run r join peers.task t on t.id = r.task_id
    where r.schedule like 'frequent %%' and r.outcome = 'fired' and t.started_at is not null
"""


@task("bench.tick")
def tick() -> None:
    """Do nothing."""


class Bench:
    """A server, a database with a fleet, and what was measured."""

    def __init__(self, server: Server, url: str, connection: Connection, peers: int) -> None:
        self._server = server
        self._url = url
        self._connection = connection
        self._peers = peers

    def idle(self, seconds: float) -> tuple[float, float, float]:
        """Return what an idle fleet costs: statements a second and peer, and CPU of both sides.

        The CPU is in percent of one core: of Postgres for the whole fleet, and of each peer.
        """
        with self._fleet() as fleet:
            time.sleep(_SETTLE)
            self._until("select not exists (select from peers.schedule where next_due_at is null)")
            offset = self._server.log.stat().st_size
            meter = CpuMeter(self._server.postmaster, fleet.pids)
            meter.begin()
            began = time.monotonic()
            time.sleep(seconds)
            taken, used = time.monotonic() - began, meter.end()
            statements = statement_log.read(self._server.log, offset)
        return (
            len(statements) / taken / self._peers,
            used.postgres / taken / 1e7,
            used.client / taken / self._peers / 1e7,
        )

    def lateness(self, seconds: float) -> tuple[list[float], list[float]]:
        """Return how late tasks were submitted and started, of schedules that seldom meet."""
        self._connection.execute(_FREQUENT)
        with self._fleet():
            time.sleep(_SETTLE + seconds)
            self._connection.execute("delete from peers.schedule where name like 'frequent %'")
            found = self._connection.execute(
                _LATE + " and r.due_at > (select min(due_at) from peers.schedule_run)"
                " + make_interval(secs => %s)", [_SETTLE]
            ).fetchall()  # fmt: skip
        return [row[0] for row in found], [row[1] for row in found]

    def burst(self) -> float:
        """Return the seconds until all rare schedules, due at one moment, are fired."""
        [[due_at]] = self._connection.execute(
            "select date_trunc('second', now()) + interval '40 s'"
        ).fetchall()
        self._connection.execute(_BURST, [due_at])
        with self._fleet():
            self._until(
                "select not exists (select from peers.schedule where next_due_at is null"
                " or next_due_at < now() + interval '12 hours')"
            )
        [[taken]] = self._connection.execute(
            "select extract(epoch from max(recorded_at) - %s)::float8 from peers.schedule_run"
            " where due_at = %s and outcome = 'fired'", [due_at, due_at]
        ).fetchall()  # fmt: skip
        return float(taken)

    @contextlib.contextmanager
    def _fleet(self) -> Iterator[Processes]:
        command = [sys.executable, "-m", "peers", "run", "--app", "benchmarks.schedules",
                   "--queues", "default=2", "--log-level", "error",
                   "--database-url", self._url]  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "peers.log")
            with Processes(command, {}, self._peers, log) as fleet:
                self._until(f"select count(*) >= {self._peers} from peers.peer_status where alive")
                yield fleet
                fleet.check()

    def _until(self, query: LiteralString) -> None:
        give_up = time.monotonic() + _PATIENCE
        while self._connection.execute(query).fetchall() != [(True,)]:
            if time.monotonic() > give_up:
                raise TimeoutError(f"it is not true: {query}")
            time.sleep(_LOOK_EVERY)


def _described(name: str, seconds: list[float]) -> str:
    late = sorted(seconds)
    p99 = late[min(len(late) - 1, int(0.99 * len(late)))]
    return (
        f"{name:10} {len(late)} tasks: median {1000 * statistics.median(late):.0f} ms,"
        f" p99 {1000 * p99:.0f} ms, worst {1000 * late[-1]:.0f} ms;"
        f" {sum(each < _GOAL for each in late)} of {len(late)} within {1000 * _GOAL:.0f} ms"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--schedules", type=int, default=10_000)
    options = parser.parse_args()
    with running() as server, server.database("bench") as url, connect(url) as connection:
        with peers_connect(url, application_name="bench") as owner:
            schema.migrate(owner)
        print(f"Postgres {server.version}, Linux {platform.release()}, {os.cpu_count()} cores,"
              f" {options.peers} peers", flush=True)  # fmt: skip
        bench = Bench(server, url, connection, options.peers)
        with statement_log.logged(connection, ["bench"]):
            for count in (0, options.schedules):
                connection.execute(_RARE, [count])
                tidy(url)
                statements, database, peers = bench.idle(options.seconds)
                print(f"idle, {count:,} schedules: {statements:.2f} statements a second and peer,"
                      f" CPU {database:.2f} % of a core for Postgres, {peers:.2f} % a peer",
                      flush=True)  # fmt: skip
        submitted, started = bench.lateness(options.seconds)
        print(_described("submitted", submitted), flush=True)
        print(_described("started", started), flush=True)
        taken = bench.burst()
        print(f"{options.schedules:,} schedules due at one moment: all fired within {taken:.1f} s"
              f" ({options.schedules / taken:,.0f} a second)")  # fmt: skip


if __name__ == "__main__":
    main()
