"""A handler that tells when it was started."""

from __future__ import annotations

import time

from peers import task


@task("bench.stopwatch")
def stopwatch() -> int:
    """CLOCK_MONOTONIC in nanoseconds, which all processes of a machine share."""
    return time.monotonic_ns()
