"""Snapshot: another session keeps an old snapshot, so that Postgres cannot remove any dead row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg import sql

from benchmarks.bench import Bench
from benchmarks.workloads.draining import drain

PARTS: Final = 6
_LEAST_SHARE: Final = 0.1
"""A system that is slower than this would take minutes."""


def measure(bench: Bench) -> None:
    """Measure how the rate of one worker changes from sixth to sixth."""
    systems = [system for system in bench.systems if system.share >= _LEAST_SHARE]
    for number, system in bench.alternate(bench.sizes.snapshot_rounds, systems):
        tasks = bench.sizes.snapshot_tasks
        with (
            bench.failures_of("snapshot", system),
            bench.filled(system, tasks) as url,
            _old_snapshot(url, system.task_table),
        ):
            rates = drain(bench, system, url, tasks, 1).part_rates(PARTS)
            bench.add(
                "snapshot", system, round=number, tasks=tasks,
                rates=[round(rate) for rate in rates], last_to_first=round(rates[-1] / rates[0], 3),
            )  # fmt: skip


@contextmanager
def _old_snapshot(url: str, table: str) -> Iterator[None]:
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        name = sql.Identifier(*table.split("."))
        connection.execute(sql.SQL("select from {} limit 1").format(name))
        yield
