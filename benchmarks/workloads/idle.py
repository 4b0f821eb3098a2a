"""Idle: what a worker that has nothing to do costs the database and the machine."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Final

from benchmarks import statement_log
from benchmarks.bench import Bench
from benchmarks.cpu import CpuMeter
from benchmarks.processes import Processes
from benchmarks.server import connect
from benchmarks.systems.system import System

_SETTLE: Final = 5.0
_MILLISECOND: Final = 1e6
_CONNECTIONS: Final = (
    "select count(*) from pg_stat_activity where datname = %s and application_name <> 'benchmark'"
)


def measure(bench: Bench) -> None:
    """Count the connections and statements of an idle worker of each system, all side by side."""
    seconds = bench.sizes.idle_seconds
    with ExitStack() as stack:
        admin = stack.enter_context(connect(bench.server.url("postgres")))
        databases = [system.database for system in bench.systems]
        urls = [stack.enter_context(bench.database(system)) for system in bench.systems]
        stack.enter_context(statement_log.logged(admin, databases))
        workers = [
            stack.enter_context(system.workers(url, 1, bench.starts().folder))
            for system, url in zip(bench.systems, urls, strict=True)
        ]
        time.sleep(_SETTLE)
        offset = bench.server.log.stat().st_size
        used = _watch(bench, workers, seconds)
        statements = statement_log.read(bench.server.log, offset)
        for system, milliseconds in zip(bench.systems, used, strict=True):
            [(connections,)] = admin.execute(_CONNECTIONS, [system.database]).fetchall()
            bench.add(
                "idle", system, seconds=seconds, connections=connections,
                statements_per_second=round(_count(statements, system) / seconds, 2),
                client_ms_per_second=round(milliseconds / seconds, 2),
            )  # fmt: skip


def _watch(bench: Bench, workers: list[Processes], seconds: float) -> list[float]:
    """Return the milliseconds of CPU time that each worker used meanwhile."""
    meters = [CpuMeter(bench.server.postmaster, worker.pids) for worker in workers]
    for meter in meters:
        meter.begin()
    time.sleep(seconds)
    return [meter.end().client / _MILLISECOND for meter in meters]


def _count(statements: list[statement_log.Statement], system: System) -> int:
    return sum(statement.database == system.database for statement in statements)
