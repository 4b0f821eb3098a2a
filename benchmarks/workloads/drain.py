"""Drain: two workers run tasks that do nothing, all of which wait already."""

from __future__ import annotations

from typing import Final

from benchmarks.bench import Bench
from benchmarks.workloads.draining import drain

WORKERS: Final = 2


def measure(bench: Bench) -> None:
    """Measure tasks a second, and the CPU time of each task."""
    for number, system in bench.alternate(bench.sizes.rounds, bench.systems):
        tasks = round(bench.sizes.drain_tasks * system.share)
        with bench.failures_of("drain", system), bench.filled(system, tasks) as url:
            drained = drain(bench, system, url, tasks, WORKERS)
            bench.add("drain", system, round=number, **drained.figures())
