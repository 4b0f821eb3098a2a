"""Batch handlers that meet poison: a row may raise, be refused, hang, or take the worker along."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import (
    Any,
    NotRequired,
)

from typing_extensions import TypedDict

import peers
from peers import current_batch, current_task, task
from tests.peers.ledger import LEDGER_VARIABLE

SIZE = 64
LOG_SUFFIX = ".calls"


class Row(TypedDict):
    """The args of a task of these kinds."""

    n: int
    poison: NotRequired[str]
    gate: NotRequired[str]


def calls(ledger: Path) -> list[list[int]]:
    """The numbers that each call of a batch handler was given, in the order of the calls."""
    log = ledger.with_name(ledger.name + LOG_SUFFIX)
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _note(rows: list[Row]) -> None:
    line = json.dumps([row["n"] for row in rows]) + "\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    file = os.open(os.environ[LEDGER_VARIABLE] + LOG_SUFFIX, flags, 0o600)
    os.write(file, line.encode())
    os.close(file)


def _raise() -> None:
    raise ValueError("this row cannot be added up")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang() -> None:
    time.sleep(3600)


def _retry() -> None:
    raise peers.Retry(in_=0, message="not now")


_POISONS: dict[str, Callable[[], None]] = {
    "raise": _raise,
    "kill": _kill,
    "hang": _hang,
    "retry": _retry,
}


def _results(rows: list[Row]) -> list[Any]:
    """A result for each; poisons that end the whole call do so here."""
    results: list[Any] = []
    for row, current in zip(rows, current_batch(), strict=True):
        poison = row.get("poison")
        if poison in _POISONS:
            _POISONS[poison]()
        result: Any = {"n": row["n"], "token": current.token}
        if poison == "reject":
            result = peers.Reject(f"row {row['n']} is not wanted")
        elif poison == "unwritable":
            result = object()
        results.append(result)
    return results


@task("batch", batch_size=SIZE, max_attempts=2, backoff=0, timeout=30.0)
def batch(rows: list[Row]) -> list[Any]:
    """Adds nothing up, but takes many at once."""
    _note(rows)
    return _results(rows)


@task("batch.async", batch_size=SIZE, max_attempts=2, backoff=0)
async def batch_async(rows: list[Row]) -> list[Any]:
    """The same on an event loop."""
    _note(rows)
    await asyncio.sleep(0)
    return _results(rows)


@task("batch.patient", batch_size=8, batch_wait=4.0)
def batch_patient(rows: list[Row]) -> list[Any]:
    """Waits for others to come."""
    _note(rows)
    return _results(rows)


@task("batch.hasty", batch_size=SIZE, max_attempts=1, timeout=0.5)
def batch_hasty(rows: list[Row]) -> list[Any]:
    """A call may take half a second."""
    _note(rows)
    return _results(rows)


@task("batch.short", batch_size=SIZE, max_attempts=1)
def batch_short(rows: list[Row]) -> list[Any]:
    """Drops a row on the way."""
    _note(rows)
    return _results(rows)[1:]


@task("batch.held", batch_size=SIZE, max_attempts=2, backoff=0)
def batch_held(rows: list[Row]) -> list[Any]:
    """Runs until the gate of its first row opens, or one of its tasks is cancelled and it heeds."""
    _note(rows)
    gate = rows[0].get("gate")
    while gate and not Path(gate).exists():
        time.sleep(0.005)
    return _results(rows)


@task("alone")
def alone(n: int) -> dict[str, Any]:
    """No batch handler."""
    _note([Row(n=n)])
    return {"n": n, "token": current_task().token}
