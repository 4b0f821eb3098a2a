"""The job of the harness as an async handler: all of them run on one event loop."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from benchmarks.long_horizon.meters import meter, now
from peers import task

_WORK_SECONDS: Final = float(os.environ.get("JOB_WORK_MS", "1")) / 1000


@task("bench.job")
async def job(seq: int, inserted_at: int, padding: str) -> None:  # noqa: ARG001  # the payload
    """Wait as long as the harness says. `inserted_at` is a value of `now()`."""
    counters = meter()
    counters.started(now() - inserted_at)
    if _WORK_SECONDS:
        await asyncio.sleep(_WORK_SECONDS)
    counters.completed(now() - inserted_at)
