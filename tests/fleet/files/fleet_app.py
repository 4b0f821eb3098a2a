"""The handlers of the fleet test. Each notes what it does in a ledger outside of the database."""

from __future__ import annotations

import os
import time
from datetime import timedelta

from peers import current_task, task
from tests.e2e.ledger import recorded

_MEGABYTE = 1 << 20
_AT_ONCE = timedelta(0)


@task("step", backoff=_AT_ONCE)
def step(n: int, seconds: float) -> dict[str, object]:
    """Take a while, and return the number and where it ran."""
    with recorded():
        time.sleep(seconds)
        return {"token": current_task().token, "n": n, "host": os.uname().nodename}


@task("hog", max_attempts=1)
def hog() -> dict[str, object]:
    """Take memory until the kernel kills the worker."""
    taken = []
    with recorded():
        while True:
            taken.append(os.urandom(16 * _MEGABYTE))
