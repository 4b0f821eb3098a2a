"""An async handler of `peers run`: many of them wait at once on one event loop."""

from __future__ import annotations

import asyncio

from peers import task


@task("bench.wait")
async def wait(seconds: float) -> None:
    """Let others run meanwhile."""
    await asyncio.sleep(seconds)
