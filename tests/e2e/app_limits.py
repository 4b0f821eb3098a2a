"""Handlers of kinds under limits, which note every few milliseconds that they run."""

from __future__ import annotations

import asyncio
import time

from peers import task
from tests.e2e.ledger import note, recorded

_TICK = 0.005


@task("limits.work")
def work(account: int, seconds: float) -> int:
    """Run for so long."""
    with recorded():
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _TICK))
            note("tick")
        return account


@task("limits.async")
async def work_async(account: int, seconds: float) -> int:
    """Run for so long, beside others in one worker."""
    with recorded():
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _TICK))
            note("tick")
        return account


@task("limits.rate")
def rate(account: int) -> int:
    """Start, and that is all."""
    with recorded():
        return account


@task("limits.quick")
def quick(n: int = 0) -> int:
    """Return at once."""
    return n


@task("limits.free")
def free(n: int = 0) -> int:
    """Run under no limit."""
    with recorded():
        return n


@task("limits.sleep")
def sleep(seconds: float, account: int = 0) -> None:  # noqa: ARG001  # a limit reads it
    """Sleep."""
    time.sleep(seconds)
