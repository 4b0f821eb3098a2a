"""Handlers that tell of what surrounds them: their worker's environment, the cooldowns of all."""

from __future__ import annotations

import os

from peers import current_task, task


@task("environment")
def environment(names: list[str]) -> dict[str, str | None]:
    """What these variables are in the worker."""
    return {name: os.environ.get(name) for name in names}


@task("holds.off", max_attempts=1)
def holds_off(name: str, seconds: float) -> float:
    """Has everybody leave an outside system alone."""
    return current_task().cooldown(seconds, "busy", name=name)


@task("cools.down")
def cools_down(name: str) -> float:
    """For how long it is to be left alone."""
    return current_task().cooldown_left(name)


@task("async.holds.off", max_attempts=1)
async def async_holds_off(name: str, seconds: float) -> list[float]:
    """Both, on the loop."""
    held = await current_task().cooldown_async(seconds, name=name)
    return [held, await current_task().cooldown_left_async(name)]
