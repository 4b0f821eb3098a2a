"""Handlers that declare their limits in code."""

from __future__ import annotations

import time

import peers
from peers import Limit, Snooze, current_task, task
from tests.e2e.ledger import recorded


@task(
    "declared.charge",
    limit=[Limit(2, key="account"), Limit(3, starts=1000, per="1s", name="declared all")],
)
def charge(account: int) -> int:
    """Run for a moment."""
    with recorded():
        time.sleep(0.02)
        return account


@task("declared.call", limit=Limit(8, learns=True, name="api"))
def call(refused: bool = False) -> str:
    """Call an API, which refuses too many calls."""
    if refused and peers.get_limit("api").most_now == 8:
        left = current_task().cooldown(1.5, "HTTP 429")
        raise Snooze(in_=left, message="HTTP 429")
    return "ok"


@task("declared.call_async", limit=Limit(4, name="other api"))
async def call_async() -> float:
    """Shut the limit of this task."""
    return await current_task().cooldown_async(60, name="other api")


@task("declared.lower")
def lower() -> bool:
    """Change a limit from a handler."""
    return peers.set_limit("declared all", max_running=1)
