"""The control: the same waits, alone. What is missing to the ideal there, the machine takes."""

from __future__ import annotations

import asyncio
import time
from multiprocessing import get_context
from typing import Final

from benchmarks.waits import SECONDS, exact_timers

_EACH: Final = 200
"""Waits of each process or coroutine."""


def efficiency(ways: int, *, sync: bool) -> float:
    """Return the ideal time by the time that `ways` processes or coroutines take to wait."""
    if not sync:
        return _EACH * SECONDS / asyncio.run(_coroutines(ways))
    with get_context("spawn").Pool(ways) as pool:
        pool.map(_sleep, [1] * ways, chunksize=1)  # all of them are there
        taken = pool.map(_sleep, [_EACH] * ways, chunksize=1)
    return _EACH * SECONDS * ways / sum(taken)


def _sleep(times: int) -> float:
    exact_timers()
    began = time.monotonic()
    for _ in range(times):
        time.sleep(SECONDS)
    return time.monotonic() - began


async def _coroutines(ways: int) -> float:
    async def wait() -> None:
        for _ in range(_EACH):
            await asyncio.sleep(SECONDS)

    began = time.monotonic()
    await asyncio.gather(*(wait() for _ in range(ways)))
    return time.monotonic() - began
