"""Graphs: two idle workers, one graph submitted in one piece, each task does nothing."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.bench import Bench, unfinished
from benchmarks.processes import Processes
from benchmarks.server import connect, tidy
from benchmarks.starts import Starts
from benchmarks.systems.system import System
from benchmarks.workloads.draining import wait_for

WORKERS: Final = 2
FAN: Final = 1000
_WARM_UP: Final = 2000
_WARM_UP_NUMBERS: Final = 2_000_000_000


def measure(bench: Bench) -> None:
    """Measure tasks a second, from the first start to the last end, by the database's clock."""
    sizes = bench.sizes
    shapes = {
        "chains": sizes.chain_tasks,
        "fan": FAN,
        "layers": sizes.layer_tasks,
        "random": sizes.random_tasks,
    }
    systems = [system for system in bench.systems if system.graphs]
    for number, system in bench.alternate(sizes.graph_rounds, systems):
        if number == 1 or system is bench.peers:  # the others take many seconds for a graph
            for shape in system.graphs:
                _measure(bench, system, shape, shapes[shape], number)
    if sizes.large_graph_tasks:
        _measure(bench, bench.peers, "random", sizes.large_graph_tasks, 1, "large graph")


def _measure(
    bench: Bench, system: System, shape: str, size: int, number: int, workload: str = "graphs"
) -> None:
    starts = bench.starts()
    with bench.failures_of(workload, system), bench.database(system) as url:
        tidy(url)
        with system.workers(url, WORKERS, starts.folder) as workers:
            _warm_up(system, url, starts, workers)
            figures = _run_graph(system, url, shape, size, starts, workers)
            bench.add(workload, system, round=number, shape=shape, **figures)


def _warm_up(system: System, url: str, starts: Starts, workers: Processes) -> None:
    """Let each worker run something."""
    submitted = 0
    while starts.processes() < WORKERS:
        system.call(url, "bulk", _WARM_UP_NUMBERS, _WARM_UP)
        submitted += _WARM_UP
        _await_starts(starts, submitted, workers)
    ask = unfinished(url, system)
    wait_for(lambda: not ask(), workers)


def _await_starts(starts: Starts, count: int, workers: Processes) -> None:
    wait_for(lambda: starts.count() >= count, workers, starts.count)


def _run_graph(
    system: System, url: str, shape: str, size: int, starts: Starts, workers: Processes
) -> dict[str, Any]:
    before = starts.count()
    submitted = system.call(url, "graph", shape, size)
    tasks = submitted["tasks"]
    _await_starts(starts, before + tasks, workers)
    ask = unfinished(url, system)
    wait_for(lambda: not ask(), workers)
    with connect(url) as connection:
        [(seconds,)] = connection.execute(system.graph_seconds.encode()).fetchall()
    return {
        "tasks": tasks,
        "edges": submitted["edges"],
        "submit_rate": round(tasks / submitted["seconds"], 1),
        "rate": round(tasks / seconds, 1),
    }
