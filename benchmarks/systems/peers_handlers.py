"""Handlers of `peers run`: one that does nothing, and one that waits."""

from __future__ import annotations

import time

from benchmarks.systems.recording import record_start
from benchmarks.systems.timers import exact_timers
from peers import task


@task("bench.noop")
def noop(number: int) -> None:
    """Record the start."""
    record_start(number)


@task("bench.wait")
def wait(seconds: float) -> None:
    """Wait in a worker process of its own."""
    time.sleep(seconds)


exact_timers()
