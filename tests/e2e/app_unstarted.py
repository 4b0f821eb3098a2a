"""Handlers that note when they start and wait for a gate: sync, async, and in batches."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from peers import current_batch, current_task, task
from tests.e2e.ledger import LEDGER_VARIABLE

BATCH_SIZE = 4
_LOOK_AGAIN = 0.005


class Row(TypedDict):
    """The args of a task in a batch."""

    gate: str
    seconds: NotRequired[float]


def _note(*task_ids: int) -> None:
    """One write, however many tasks."""
    lines = "".join(
        f"{task_id} - start {os.getpid()} {time.monotonic_ns()}\n" for task_id in task_ids
    )
    file = os.open(os.environ[LEDGER_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, lines.encode())
    os.close(file)


def _await_gates(*gates: str) -> None:
    while not all(Path(gate).exists() for gate in gates):
        time.sleep(_LOOK_AGAIN)


@task("unstarted.sync", backoff=0)
def gated(gate: str, seconds: float = 0.0) -> None:
    """Occupies its worker."""
    _note(current_task().id)
    time.sleep(seconds)
    _await_gates(gate)


@task("unstarted.async", backoff=0)
async def gated_async(gate: str, seconds: float = 0.0) -> None:
    """Occupies a slot."""
    _note(current_task().id)
    await asyncio.sleep(seconds)
    while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240  # a gate is a file, and quick to ask
        await asyncio.sleep(_LOOK_AGAIN)


@task("unstarted.batch", batch_size=BATCH_SIZE, backoff=0)
def batch(rows: list[Row]) -> list[None]:
    """Occupies its worker until all gates are open."""
    _note(*(each.id for each in current_batch()))
    time.sleep(rows[0].get("seconds", 0.0))
    _await_gates(*(row["gate"] for row in rows))
    return [None] * len(rows)


@task("unstarted.batch.async", batch_size=BATCH_SIZE, backoff=0)
async def batch_async(rows: list[Row]) -> list[None]:
    """Occupies a slot until all gates are open."""
    _note(*(each.id for each in current_batch()))
    await asyncio.sleep(rows[0].get("seconds", 0.0))
    while not all(Path(row["gate"]).exists() for row in rows):  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(_LOOK_AGAIN)
    return [None] * len(rows)
