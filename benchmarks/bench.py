"""One run of the benchmark: its server, its systems, its sizes, and what was measured so far."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.server import Server, connect, tidy
from benchmarks.sizes import Sizes
from benchmarks.starts import Starts
from benchmarks.systems.peers import NAME
from benchmarks.systems.system import System

Row = dict[str, Any]


@dataclass
class Bench:
    """What every workload needs. Workloads add rows; the report reads them."""

    server: Server
    systems: Sequence[System]
    sizes: Sizes
    folder: Path
    """For logs and records."""
    rows: list[Row] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each workload took."""
    _runs: int = 0

    @property
    def peers(self) -> System:
        """Peers itself. Some workloads are about it alone."""
        return next(system for system in self.systems if system.name == NAME)

    def add(self, workload: str, system: System, **figures: object) -> None:
        """Keep what one run measured, and print it."""
        row = {"workload": workload, "system": system.name, **figures}
        self.rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)

    def alternate(self, rounds: int, systems: Sequence[System]) -> Iterator[tuple[int, System]]:
        """Yield each system once a round, and begin each round with another one."""
        for number in range(rounds):
            first = number % len(systems)
            for system in [*systems[first:], *systems[:first]]:
                yield number + 1, system

    @contextmanager
    def database(self, system: System) -> Iterator[str]:
        """Yield the URL of a new database with the system's tables."""
        with self.server.database(system.database) as url:
            system.call(url, "prepare")
            yield url

    @contextmanager
    def filled(self, system: System, tasks: int) -> Iterator[str]:
        """Yield the URL of a new database in which this many tasks wait."""
        with self.database(system) as url:
            system.call(url, "bulk", 0, tasks)
            tidy(url)
            yield url

    def starts(self) -> Starts:
        """Make a folder for the records of one run."""
        self._runs += 1
        return Starts(self.folder / f"run-{self._runs}")

    @contextmanager
    def failures_of(self, workload: str, system: System) -> Iterator[None]:
        """Note that a run failed, and go on with the next one."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # a rival's failure is a result too
            traceback.print_exc()
            self.add(workload, system, error=f"{type(error).__name__}: {error}"[:300])

    def timed(self, name: str, workload: Callable[[Bench], None]) -> None:
        """Run a workload, and note how long it took."""
        began = time.monotonic()
        print(f"== {name}", file=sys.stderr, flush=True)
        workload(self)
        self.seconds[name] = round(time.monotonic() - began, 1)
        print(f"== {name}: {self.seconds[name]:.0f} s", file=sys.stderr, flush=True)


def unfinished(url: str, system: System) -> Callable[[], bool]:
    """Return a function that asks whether a task waits or runs. It keeps one connection open."""
    connection = connect(url)

    def ask() -> bool:
        [(answer,)] = connection.execute(system.unfinished.encode()).fetchall()
        return bool(answer)

    return ask
