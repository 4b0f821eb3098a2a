"""Pickup: from the return of a submission to the start of its handler, at one worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks.bench import Bench
from benchmarks.figures import Figures, percentile
from benchmarks.processes import Processes
from benchmarks.server import tidy
from benchmarks.starts import Starts
from benchmarks.systems.system import System
from benchmarks.workloads.draining import wait_for

_GAP: Final = 0.02
_WARM_UP: Final = 20
_WARM_UP_NUMBERS: Final = 2_000_000_000
_SETTLE: Final = 1.0
"""Seconds after which a worker that has had nothing to do is idle."""
_MILLISECOND: Final = 1e6
_LOAD_STARTS: Final = 0.5
_LEAST_SAMPLES: Final = 20


def measure(bench: Bench) -> None:
    """Measure the delay at an idle worker, then at one with half the load that it can bear."""
    for number, system in bench.alternate(bench.sizes.pickup_rounds, bench.systems):
        with bench.failures_of("pickup", system), _worker(bench, system) as (url, starts, _):
            submitted = system.call(url, "paced", bench.sizes.pickup_samples, _GAP)["submitted_at"]
            time.sleep(_SETTLE)
            bench.add("pickup", system, round=number, **_delays(starts, submitted))
    if not bench.sizes.load_seconds:
        return
    figures = Figures(bench.rows)
    for system in bench.systems:
        rate = figures.median("drain", "rate", system=system.name)
        if rate is not None:
            with bench.failures_of("pickup under load", system):
                _under_load(bench, system, rate / 2)


def _under_load(bench: Bench, system: System, rate: float) -> None:
    """Measure while another client submits at this rate."""
    seconds = bench.sizes.load_seconds
    samples = max(_LEAST_SAMPLES, round((seconds - 2 * _LOAD_STARTS) / _GAP / 2))
    with _worker(bench, system) as (url, starts, _):
        load = system.start(url, "load", round(rate), seconds)
        try:
            time.sleep(_LOAD_STARTS)
            submitted = system.call(url, "paced", samples, _GAP)["submitted_at"]
        finally:
            load.communicate(timeout=seconds + 60)
        time.sleep(_SETTLE)
        figures = _delays(starts, submitted)
        bench.add("pickup under load", system, load=round(rate), **figures)


@contextmanager
def _worker(bench: Bench, system: System) -> Iterator[tuple[str, Starts, Processes]]:
    """Start a worker that has run a few tasks and is idle."""
    starts = bench.starts()
    with bench.database(system) as url:
        tidy(url)
        with system.workers(url, 1, starts.folder) as processes:
            system.call(url, "bulk", _WARM_UP_NUMBERS, _WARM_UP)
            wait_for(lambda: starts.count() >= _WARM_UP, processes)
            time.sleep(_SETTLE)
            yield url, starts, processes


def _delays(starts: Starts, submitted_at: list[int]) -> dict[str, float]:
    """Return percentiles in milliseconds. A worker may see a task before its submitter is told."""
    started_at = starts.first_times()
    delays = [
        (started_at[number] - at) / _MILLISECOND
        for number, at in enumerate(submitted_at)
        if number in started_at
    ]
    return {
        "samples": len(delays),
        "p50_ms": round(percentile(delays, 50), 3),
        "p99_ms": round(percentile(delays, 99), 3),
        "missing": len(submitted_at) - len(delays),
    }
