"""The job of the harness as a plain handler: a short wait, measured from the INSERT."""

from __future__ import annotations

import os
import time
from typing import Final

from benchmarks.long_horizon.meters import meter, now
from peers import task

_WORK_SECONDS: Final = float(os.environ.get("JOB_WORK_MS", "1")) / 1000


@task("bench.job")
def job(seq: int, inserted_at: int, padding: str) -> None:  # noqa: ARG001  # the payload
    """Wait as long as the harness says. `inserted_at` is a value of `now()`."""
    counters = meter()
    counters.started(now() - inserted_at)
    if _WORK_SECONDS:
        time.sleep(_WORK_SECONDS)
    counters.completed(now() - inserted_at)
