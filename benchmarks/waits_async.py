"""The same wait for an async handler: many on one event loop."""

from __future__ import annotations

import asyncio
from typing import Final

from peers import task

SECONDS: Final = 0.0282


@task("bench.wait.async")
async def wait() -> int:
    """Simulate a wait: the loop has others to run meanwhile."""
    await asyncio.sleep(SECONDS)
    return 1
