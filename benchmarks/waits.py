"""A sync handler that waits as long as a request of the reference's workload takes."""

from __future__ import annotations

import ctypes
import time
from typing import Final

from peers import task

SECONDS: Final = 0.0282
_PR_SET_TIMERSLACK: Final = 29


def exact_timers() -> None:
    """Have this thread's sleeps end when they should: by default the kernel adds up to 50 µs."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)


@task("bench.wait")
def wait() -> int:
    """Simulate a wait: a worker process sleeps."""
    time.sleep(SECONDS)
    return 1


exact_timers()
