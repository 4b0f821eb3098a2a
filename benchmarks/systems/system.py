"""What the workloads know of a measured system."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import Processes

URL: Final = "BENCHMARK_URL"
RECORDS: Final = "BENCHMARK_RECORDS"
"""Variables that the programs of all systems read."""
PROJECT: Final = Path(__file__).parents[2]
PATIENCE: Final = 900.0
_ERROR_TAIL: Final = 1500


class ProgramError(Exception):
    """A program of a system ended with an error."""


class NotInstalledError(Exception):
    """The system is not on this machine and could not be installed."""


@dataclass(frozen=True, slots=True)
class System:
    """A task queue, and how to drive it.

    `program` takes a verb: `prepare`, `bulk FIRST COUNT`, `single COUNT`, `paced COUNT GAP`,
    `load RATE SECONDS`, and `graph SHAPE SIZE` if the system has graphs. Its last line of output is
    a JSON object.
    """

    name: str
    version: str
    settings: str
    """How it is set up, in a few words: what its authors recommend for speed."""
    program: Sequence[str]
    worker: Sequence[str]
    """Command of a process that runs handlers, one at a time if the system can."""
    unfinished: str
    """SQL: whether a task waits or runs."""
    task_table: str
    share: float = 1.0
    """How many tasks it gets, compared with the fastest: all should take a few seconds."""
    graphs: Sequence[str] = ()
    """The shapes of graphs that it has."""
    graph_seconds: str = ""
    """SQL: seconds from the first start to the last end of a graph's tasks."""
    url_variable: str = URL
    """The variable in which its processes find the URL of the database."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def database(self) -> str:
        """The name of its database."""
        return "bench_" + self.name.lower().replace("-", "_").replace(" ", "_")

    def call(self, url: str, *verb: object) -> dict[str, Any]:
        """Run the program and return the object that it prints."""
        done = subprocess.run(
            [*self.program, *map(str, verb)], env=self._environment(url), cwd=PROJECT, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-_ERROR_TAIL:].strip()
            raise ProgramError(f"{self.name}, {verb[0]}: exit code {done.returncode}: {said}")
        printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return printed

    def start(self, url: str, *verb: object) -> subprocess.Popen[str]:
        """Start the program, and let it run."""
        return subprocess.Popen(
            [*self.program, *map(str, verb)], env=self._environment(url), cwd=PROJECT,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def workers(self, url: str, count: int, records: Path, *options: str) -> Processes:
        """Return `count` processes that run handlers. Entering them starts them."""
        environment = {**self.environment, self.url_variable: url, RECORDS: str(records), **_PATH}
        log = records.with_suffix(".log")
        return Processes([*self.worker, *options], environment, count, log)

    def _environment(self, url: str) -> dict[str, str]:
        return {**os.environ, **self.environment, URL: url, **_PATH}


_PATH: Final = {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
