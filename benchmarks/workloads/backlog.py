"""Backlog: how long a claim takes with few and with many tasks waiting, blocked, or finished.

The times are those of the statements that call `peers.claim`, as Postgres logs them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks import statement_log
from benchmarks.bench import Bench
from benchmarks.figures import percentile
from benchmarks.server import Connection, connect, tidy
from benchmarks.systems.system import System
from benchmarks.workloads.draining import drain, wait_for

_CLAIM: Final = "peers.claim("
_WAITING: Final = 10
_SLOTS: Final = 8
_TASK_SECONDS: Final = 0.05
_FEED: Final = 0.01
_SETTLE: Final = 1.0
_INSERT: Final = (
    "insert into peers.task (kind, args)"
    " select %s, jsonb_build_object('seconds', %s::float) from generate_series(1, %s)"
)


def measure(bench: Bench) -> None:
    """Measure the claims of one peer, whose tasks take 50 ms, under each kind of backlog."""
    sizes = bench.sizes
    for waiting in sizes.backlogs:
        _case(bench, f"{waiting:,} waiting", waiting, _nothing)
    _case(bench, f"{sizes.blocked_tasks:,} blocked", _WAITING, _block(sizes.blocked_tasks))
    _case(bench, f"{sizes.finished_tasks:,} finished", _WAITING, _finish(bench))
    unrunnable = sizes.unrunnable_tasks
    _case(bench, f"{unrunnable:,} of a kind that no peer runs", _WAITING, _strand(unrunnable))


def _case(bench: Bench, case: str, waiting: int, prepare: Callable[[str], None]) -> None:
    system = bench.peers
    with bench.failures_of("backlog", system), bench.database(system) as url:
        prepare(url)
        with connect(url) as connection:
            connection.execute(_INSERT, ["bench.wait", _TASK_SECONDS, waiting])
            tidy(url)
            with statement_log.logged(connection, [system.database]):
                log = bench.server.log
                with _peer(bench, system, url, connection):
                    offset = log.stat().st_size
                    _keep_waiting(connection, waiting, bench.sizes.claim_seconds)
                claims = [s.milliseconds for s in statement_log.read(log, offset)
                          if s.database == system.database and _CLAIM in s.text]  # fmt: skip
        bench.add(
            "backlog", system, case=case, claims=len(claims),
            p50_ms=round(percentile(claims, 50), 3), p99_ms=round(percentile(claims, 99), 3),
        )  # fmt: skip


@contextmanager
def _peer(bench: Bench, system: System, url: str, connection: Connection) -> Iterator[None]:
    """Start a peer that is at work."""
    done = (
        "select exists (select from peers.task where kind = 'bench.wait' and state = 'completed')"
    )
    options = [f"--queues=default={_SLOTS}"]
    with system.workers(url, 1, bench.starts().folder, *options) as workers:
        wait_for(lambda: connection.execute(done).fetchall() == [(True,)], workers)
        time.sleep(_SETTLE)
        yield


def _keep_waiting(connection: Connection, waiting: int, seconds: float) -> None:
    """Insert tasks as others are claimed."""
    give_up = time.monotonic() + seconds
    capacity = math.ceil(_SLOTS / _TASK_SECONDS * _FEED)
    count = "select count(*) from (select from peers.ready where kind = 'bench.wait' limit %s) r"
    while time.monotonic() < give_up:
        [(found,)] = connection.execute(count, [waiting]).fetchall()
        missing = waiting - found if waiting <= _WAITING else capacity
        if missing > 0:
            connection.execute(_INSERT, ["bench.wait", _TASK_SECONDS, missing])
        time.sleep(_FEED)


def _nothing(url: str) -> None:
    pass


def _block(tasks: int) -> Callable[[str], None]:
    """Add children of a parent that is not due for a year."""

    def prepare(url: str) -> None:
        with connect(url) as connection:
            connection.execute(
                """
                with parent as (
                    insert into peers.task (kind, scheduled_at)
                    values ('bench.noop', now() + interval '1 year') returning id
                ), child as (
                    insert into peers.task (kind, args)
                    select 'bench.wait', '{"seconds": 0}' from generate_series(1, %s) returning id
                )
                insert into peers.dependency (parent_id, child_id)
                select parent.id, child.id from parent, child
                """,
                [tasks],
            )

    return prepare


def _finish(bench: Bench) -> Callable[[str], None]:
    """Run tasks that do nothing."""

    def prepare(url: str) -> None:
        tasks = bench.sizes.finished_tasks
        bench.peers.call(url, "bulk", 0, tasks)
        drain(bench, bench.peers, url, tasks, 1)

    return prepare


def _strand(tasks: int) -> Callable[[str], None]:
    """Add tasks of a kind that no peer runs. They come first in the queue."""

    def prepare(url: str) -> None:
        with connect(url) as connection:
            connection.execute(_INSERT, ["bench.unknown", 0.0, tasks])

    return prepare
