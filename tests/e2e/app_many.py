"""Async handlers that are many at once."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from peers import current_task, task
from tests.e2e.ledger import recorded

_here: Final = [0]
_all_here: Final = asyncio.Event()


@task("meets")
async def meets(others: int) -> dict[str, Any]:
    """Waits until so many are here at once."""
    with recorded():
        _here[0] += 1
        if _here[0] == others:
            _all_here.set()
        await _all_here.wait()
        return {"token": current_task().token}
