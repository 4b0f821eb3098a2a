"""Let workers run what waits, and measure how fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench import Bench, unfinished
from benchmarks.cpu import CpuMeter, CpuTime
from benchmarks.processes import Processes
from benchmarks.starts import Starts
from benchmarks.systems.system import System

PATIENCE: Final = 120.0
"""Seconds without progress after which a run has failed."""
NANOSECONDS: Final = 1e9
_LOOK: Final = 0.005
_SAMPLE: Final = 0.1


class Drained(NamedTuple):
    """A queue that workers have emptied. Times are in nanoseconds."""

    tasks: int
    starts: NDArray[np.int64]
    all_at_work: int
    """When the last worker started its first handler."""
    ended: int
    """When the database said that nothing waits and nothing runs."""
    cpu: CpuTime
    cpu_tasks: int
    """How many tasks the CPU time was spent on."""

    @property
    def rate(self) -> float:
        """Tasks a second, from the first start of a handler to the end."""
        return self.tasks * NANOSECONDS / (self.ended - int(self.starts[0]))

    def part_rates(self, parts: int) -> list[float]:
        """Split the starts into equal parts and return the rate of each.

        The first part begins when all workers are at work.
        """
        starts = self.starts[self.starts >= self.all_at_work]
        edges = np.linspace(0, len(starts) - 1, parts + 1).astype(int)
        seconds = np.diff(starts[edges]) / NANOSECONDS
        return [float(rate) for rate in np.diff(edges) / seconds]

    def figures(self) -> dict[str, float]:
        """Return what the tables show."""
        each = self.cpu_tasks * 1000
        return {
            "tasks": self.tasks,
            "rate": round(self.rate, 1),
            "postgres_us": round(self.cpu.postgres / each, 2),
            "client_us": round(self.cpu.client / each, 2),
            "ran_again": len(self.starts) - self.tasks,
        }


def drain(
    bench: Bench, system: System, url: str, tasks: int, workers: int, *options: str
) -> Drained:
    """Start workers and wait until they have run all tasks that wait."""
    starts = bench.starts()
    with system.workers(url, workers, starts.folder, *options) as processes:
        return await_drained(bench, system, url, tasks, starts, processes)


def await_drained(
    bench: Bench, system: System, url: str, tasks: int, starts: Starts, processes: Processes
) -> Drained:
    """Wait until these workers have run all tasks. They may be at it already."""
    meter = CpuMeter(bench.server.postmaster, processes.pids)
    ask = unfinished(url, system)
    wait_for(lambda: starts.count() > 0, processes)
    meter.begin()
    uncounted = starts.count()
    next_sample = time.monotonic() + _SAMPLE

    def all_started() -> bool:
        nonlocal next_sample
        if time.monotonic() >= next_sample:
            meter.sample()
            next_sample = time.monotonic() + _SAMPLE
        return starts.count() >= tasks

    wait_for(all_started, processes, starts.count)
    wait_for(lambda: not ask(), processes)
    ended = time.monotonic_ns()
    cpu = meter.end()
    return Drained(
        tasks=tasks, starts=starts.times(), all_at_work=starts.last_process_started_at(),
        ended=ended, cpu=cpu, cpu_tasks=max(1, tasks - uncounted),
    )  # fmt: skip


def wait_for(
    condition: Callable[[], bool],
    processes: Processes,
    progress: Callable[[], int] = lambda: 0,
) -> None:
    """Wait until the condition holds. Raise an error if a process ends or nothing moves."""
    reached, give_up = progress(), time.monotonic() + PATIENCE
    while not condition():
        processes.check()
        if (now := progress()) != reached:
            reached, give_up = now, time.monotonic() + PATIENCE
        if time.monotonic() > give_up:
            raise TimeoutError(f"no progress for {PATIENCE:g} s, after {reached} starts")
        time.sleep(_LOOK)
