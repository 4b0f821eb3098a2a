"""Handlers that run by a schedule, and the schedules that their code declares."""

from __future__ import annotations

from datetime import timedelta

from peers import Schedule, current_task, task


@task("tick", every=timedelta(days=300))
def tick(n: int = 0) -> dict[str, object]:
    """Tell when it was due."""
    due_at = current_task().due_at
    return {"n": n, "due_at": None if due_at is None else due_at.isoformat()}


@task(
    "tock", queue="default", priority=7,
    schedules=[
        Schedule(cron="0 2 * * *", timezone="Europe/Berlin", args={"n": 1}, overlap="skip"),
        Schedule(name="tock hourly", cron="@hourly", misfire="all", catch_up=3600, args={"n": 2}),
    ],
)  # fmt: skip
async def tock(n: int) -> dict[str, object]:
    """Tell when it was due, from an event loop."""
    due_at = await current_task().due_at_async()
    return {"n": n, "due_at": None if due_at is None else due_at.isoformat()}
