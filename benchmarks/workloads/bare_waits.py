"""The same waits without tasks. What they lack to the ideal, the machine takes."""

from __future__ import annotations

import asyncio
import time
from multiprocessing import get_context
from typing import Final

from benchmarks.systems.timers import exact_timers

_LONGEST_TOTAL: Final = 2.0


def efficiency(at_once: int, seconds: float, total_seconds: float, *, sync: bool) -> float:
    """Return the ideal time divided by the time that processes or coroutines take to wait."""
    each = max(1, round(min(_LONGEST_TOTAL, total_seconds) / seconds))
    if not sync:
        return each * seconds / asyncio.run(_coroutines(at_once, each, seconds))
    with get_context("spawn").Pool(at_once) as pool:
        pool.starmap(_sleep, [(1, seconds)] * at_once, chunksize=1)  # all of them are there
        taken = pool.starmap(_sleep, [(each, seconds)] * at_once, chunksize=1)
    return each * seconds * at_once / sum(taken)


def _sleep(times: int, seconds: float) -> float:
    exact_timers()
    began = time.monotonic()
    for _ in range(times):
        time.sleep(seconds)
    return time.monotonic() - began


async def _coroutines(at_once: int, times: int, seconds: float) -> float:
    async def wait() -> None:
        for _ in range(times):
            await asyncio.sleep(seconds)

    began = time.monotonic()
    await asyncio.gather(*(wait() for _ in range(at_once)))
    return time.monotonic() - began
