"""What finished tasks cost: claims beside none, beside ten million, and during a prune.

    python -m benchmarks.retention [--finished 10000000] [--pruned 1000000] [--rounds 5]

claims: one session claims and completes batches of 500 no-op tasks, in an empty database and in one
that is full of finished tasks, in turns. prune: the same while another session deletes finished
tasks as the maintenance of a peer does: steps of about 50 ms, with as long a pause after each.
round: one round of retention that finds all tasks too young.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from benchmarks.cpu import CpuMeter
from benchmarks.server import Connection, Server, connect, running, tidy
from peers.database import connection as database
from peers.database import schema
from peers.types import CONTRACT_VERSION

_BATCH: Final = 500
_FILL_AT_ONCE: Final = 1_000_000
_STEP_SECONDS: Final = 0.05
_STEP_MOST: Final = 10_000
_DAYS: Final = 30
_MILLION: Final = 1_000_000
_MOST_ROUNDS: Final = 40

# the finished tasks of the last 30 days, as the triggers would have left them
_FILL: Final = """
    insert into peers.task (
        kind, args, queue, state, attempt, token, result, graph_id, created_at, scheduled_at,
        started_at, finished_at)
    select 'shop.kind_' || n %% 20, jsonb_build_object('order', n, 'path', '/srv/images/' || n),
           (array['default', 'media', 'mail'])[1 + n %% 3],
           case when n %% 50 = 0 then 'cancelled' else 'completed' end::peers.task_state, 1,
           gen_random_uuid(), jsonb_build_object('bytes', n), null, at, at, at, at
    from (select n, now() - interval '30 days' * (1 - n::double precision / %(all)s) as at
          from generate_series(%(from)s::bigint, %(to)s) n) f
"""


@dataclass
class Figures:
    """What some rounds have measured."""

    micros: list[float] = field(default_factory=list)
    """CPU time of Postgres for each task, in each round."""
    rates: list[float] = field(default_factory=list)
    """Tasks a second, in each round."""
    claims: list[float] = field(default_factory=list)
    """Seconds of each claim."""

    def __str__(self) -> str:
        claims = sorted(self.claims)
        return (
            f"CPU {statistics.median(self.micros):5.1f} us a task,"
            f" {statistics.median(self.rates):7,.0f} tasks/s,"
            f" a claim {1e3 * statistics.median(claims):.1f} ms,"
            f" p99 {1e3 * claims[len(claims) * 99 // 100]:.1f} ms"
        )


class Session:
    """A peer that consists of its verbs, and the work that it does."""

    def __init__(self, server: Server, url: str) -> None:
        self._server = server
        self.url = url
        with database.connect(url, application_name="benchmark") as connection:
            schema.migrate(connection)
        self._connection = connect(url)
        self._connection.execute("set synchronous_commit = off")
        self._peer: UUID = _value(
            self._connection,
            "select peers.join('bench', 1, '{\"default\": 8}', %s::jsonb, '1 hour', %s)",
            json.dumps([{"kind": "bench.noop"}]), CONTRACT_VERSION,
        )  # fmt: skip
        self._resume: str | None = None

    def close(self) -> None:
        """Close its connection."""
        self._connection.close()

    def submit(self, count: int) -> None:
        """Submit no-op tasks."""
        self._connection.execute(
            "insert into peers.task (kind) select 'bench.noop' from generate_series(1, %s)", [count]
        )

    def drain(self, figures: Figures) -> None:
        """Claim and complete all tasks."""
        meter = CpuMeter(self._server.postmaster, [])
        done, began = 0, time.monotonic()
        meter.begin()
        while count := self._batch(figures):
            done += count
        cpu = meter.end()
        figures.micros.append(cpu.postgres / 1e3 / done)
        figures.rates.append(done / (time.monotonic() - began))

    def _batch(self, figures: Figures) -> int:
        began = time.monotonic()
        row = self._connection.execute(
            "select token, task_ids, resume::text from peers.claim(%s, 'default', %s, %s)",
            [self._peer, _BATCH, self._resume],
        ).fetchone()
        assert row is not None
        token, ids, self._resume = row
        if not ids:
            return 0
        figures.claims.append(time.monotonic() - began)
        self._connection.execute(
            "select * from peers.complete(%s, %s::uuid[], %s::bigint[], %s::jsonb)",
            [self._peer, [token], ids, json.dumps([None] * len(ids))],
        )
        return len(ids)


def fill(url: str, count: int) -> None:
    """Insert finished tasks of the last 30 days, without the triggers."""
    with connect(url) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute("set synchronous_commit = off")
        for start in range(1, count + 1, _FILL_AT_ONCE):
            end = min(count, start + _FILL_AT_ONCE - 1)
            connection.execute(_FILL, {"from": start, "to": end, "all": count})


@contextlib.contextmanager
def pruning(url: str, count: int, deleted: list[int]) -> Iterator[None]:
    """Delete the oldest finished tasks, step by step, as a peer does."""
    stop = threading.Event()

    def prune() -> None:
        with connect(url) as connection:
            age = _value(connection, "select now() - max(finished_at) from (select finished_at from"
                         " peers.task order by id limit %s) t", count)  # fmt: skip
            size, finished = _STEP_MOST, False
            while not finished and not stop.is_set():
                began = time.monotonic()
                row = connection.execute(
                    "select deleted, finished from peers.apply_retention(%s, null, %s)", [age, size]
                ).fetchone()
                assert row is not None
                deleted.append(row[0])
                finished, seconds = row[1], time.monotonic() - began
                if seconds > 2 * _STEP_SECONDS:
                    size = max(1, size // 2)
                elif seconds < _STEP_SECONDS:
                    size = min(_STEP_MOST, size * 2)
                stop.wait(seconds)

    thread = threading.Thread(target=prune)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def young_round(url: str) -> tuple[float, int]:
    """Return how long a round takes that finds all tasks too young, and how many it examined."""
    with connect(url) as connection:
        began, examined = time.monotonic(), 0
        while True:
            row = connection.execute(
                "select looked_at, finished from peers.apply_retention(%s, null, %s)",
                [f"{_DAYS + 1} days", _STEP_MOST],
            ).fetchone()
            assert row is not None
            examined += row[0]
            if row[1]:
                return time.monotonic() - began, examined


def _value(connection: Connection, query: Any, *arguments: object) -> Any:
    row = connection.execute(query, arguments).fetchone()
    assert row is not None
    return row[0]


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--finished", type=int, default=10 * _MILLION)
    parser.add_argument("--pruned", type=int, default=_MILLION)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=50_000, help="of each round")
    options = parser.parse_args()
    with running() as server, server.database("none") as none, server.database("full") as full:
        sessions = {"none": Session(server, none), f"{options.finished:,}": Session(server, full)}
        began = time.monotonic()
        fill(full, options.finished)
        tidy(full)
        print(f"Postgres {server.version}; filled in {time.monotonic() - began:.0f} s", flush=True)
        figures = {name: Figures() for name in sessions}
        for number in range(options.rounds + 1):
            for name, session in sessions.items():
                session.submit(options.tasks)
                session.drain(figures[name] if number else Figures())  # the first one warms up
        for name, each in figures.items():
            print(f"claims beside {name:>10} finished tasks: {each}", flush=True)
        few, many = (statistics.median(each.micros) for each in figures.values())
        print(f"CPU ratio {many / few:.2f}")
        seconds, examined = young_round(full)
        print(f"a round that finds all too young: {1e3 * seconds:.1f} ms, {examined:,} examined")
        busy, deleted, session = Figures(), list[int](), sessions[f"{options.finished:,}"]
        with pruning(full, options.pruned, deleted):
            while sum(deleted) < options.pruned and len(busy.rates) < _MOST_ROUNDS:
                session.submit(options.tasks)
                session.drain(busy)
        print(f"claims while {sum(deleted):,} are deleted in {len(deleted)} steps: {busy}")
        seconds, examined = young_round(full)
        print(f"a round after that: {1e3 * seconds:.1f} ms, {examined:,} examined")
        for session in sessions.values():
            session.close()


if __name__ == "__main__":
    main()
