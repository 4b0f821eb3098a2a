"""A sync handler that waits as long as a request of the reference's workload takes."""

from __future__ import annotations

import time
from typing import Final

from peers import task

SECONDS: Final = 0.0282


@task("bench.wait")
def wait() -> int:
    """A simulated wait: a worker process sleeps."""
    time.sleep(SECONDS)
    return 1
