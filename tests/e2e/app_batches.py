"""Batch handlers that meet poison: a row may raise, be refused, hang, or take the worker along."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from inspect import getcoroutinestate
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator
from typing_extensions import TypedDict

import peers
from peers import current_batch, current_task, task
from peers.types import BATCH_WAIT_MAX
from tests.e2e.ledger import LEDGER_VARIABLE, whole_lines

SIZE = 64
LOG_SUFFIX = ".calls"


class Row(TypedDict):
    """The args of a task of these kinds."""

    n: int
    poison: NotRequired[str]
    gate: NotRequired[str]


def _checked(poison: str) -> str:
    """What a user's own check of args may do."""
    if poison == "kill":
        _kill()
    if poison == "hang":
        _hang()
    return poison


class DangerousRow(TypedDict):
    """Args that are dangerous to look at."""

    n: int
    poison: NotRequired[Annotated[str, AfterValidator(_checked)]]


def calls(ledger: Path) -> list[list[int]]:
    """The numbers that each call of a batch handler was given, in the order of the calls."""
    log = ledger.with_name(ledger.name + LOG_SUFFIX)
    return [json.loads(line) for line in whole_lines(log)]


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


def _garble() -> None:
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"\xff" * 100)


def _hang() -> None:
    time.sleep(3600)


def _retry() -> None:
    raise peers.Retry(in_=0, message="not now")


_POISONS: dict[str, Callable[[], None]] = {
    "raise": _raise,
    "kill": _kill,
    "garble": _garble,
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


@task("batch.dangerous", batch_size=8, max_attempts=1, timeout=1.0)
def batch_dangerous(rows: list[DangerousRow]) -> list[Any]:
    """Its args are what hangs or kills."""
    return [{"n": row["n"]} for row in rows]


@task("batch.altered", batch_size=SIZE, max_attempts=1)
def batch_altered(rows: list[dict[str, Any]]) -> list[Any]:
    """Takes its rows apart."""
    found = []
    for row in rows:
        if row.pop("poison", "") == "raise":
            _raise()
        found.append({"n": row.pop("n")})
    return found


async def _opened(gate: str) -> None:
    while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240  # a file is what a test can make
        await asyncio.sleep(0.01)


class Lazy(dict[str, int]):
    """A result that fails when it is looked at."""

    def items(self) -> Any:
        """As a row of a database that is gone."""
        raise KeyError("the column is gone")


@task("batch.odd", batch_size=SIZE, max_attempts=1)
def batch_odd(rows: list[Row]) -> list[Any]:
    """Returns things that are hard to write down."""
    return [Lazy(n=row["n"]) if "poison" in row else {"n": row["n"]} for row in rows]


@task("batch.odd.async", batch_size=SIZE, max_attempts=1)
async def batch_odd_async(rows: list[Row]) -> list[Any]:
    """The same on an event loop."""
    return [Lazy(n=row["n"]) if "poison" in row else {"n": row["n"]} for row in rows]


@task("batch.steps", batch_size=4, max_attempts=1, timeout=1.0)
async def batch_steps(rows: list[Row]) -> list[Any]:
    """Yields between its rows; a poison is met before or after that."""
    _note(rows)
    for row in rows:
        poison = row.get("poison", "")
        if poison in {"kill", "hang"}:
            _POISONS[poison]()
        await asyncio.sleep(0)
        if poison == "raise":
            _raise()
    return [{"n": row["n"]} for row in rows]


@task("batch.gathered", batch_size=16, max_attempts=2, backoff=0)
async def batch_gathered(rows: list[Row]) -> list[Any]:
    """Gives each row an asyncio task of its own."""

    async def one(row: Row) -> dict[str, int]:
        await asyncio.sleep(0.01)
        if "poison" in row:
            _kill()
        await asyncio.sleep(0.05)
        return {"n": row["n"]}

    _note(rows)
    return await asyncio.gather(*map(one, rows))


@task("gated.async", max_attempts=1)
async def gated_async(gate: str) -> str:
    """Does nothing bad meanwhile; knows its own coroutine, as some libraries want to."""
    await _opened(gate)
    this: Any = asyncio.current_task()
    return getcoroutinestate(this.get_coro())


@task("batch.halves", batch_size=4, max_attempts=1)
async def batch_halves(rows: list[Row]) -> list[Any]:
    """Fails as long as there are several; each alone waits for its gate."""
    _note(rows)
    if len(rows) > 1:
        _raise()
    await _opened(rows[0]["gate"])
    return [{"n": row["n"]} for row in rows]


@task("batch.halves.sync", batch_size=4, max_attempts=1)
def batch_halves_sync(rows: list[Row]) -> list[Any]:
    """The same without a loop."""
    _note(rows)
    if len(rows) > 1:
        _raise()
    while not Path(rows[0]["gate"]).exists():
        time.sleep(0.005)
    return [{"n": row["n"]} for row in rows]


@task("batch.patient", batch_size=8, batch_wait=1.0)
def batch_patient(rows: list[Row]) -> list[Any]:
    """Waits for others to come."""
    _note(rows)
    return _results(rows)


@task("batch.very_patient", batch_size=8, batch_wait=BATCH_WAIT_MAX)
def batch_very_patient(rows: list[Row]) -> list[Any]:
    """Waits for others for as long as a batch may."""
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


@task("batch.large", batch_size=1000)
def batch_large(rows: list[Row]) -> list[Any]:
    """As many as there may be."""
    _note(rows)
    return [{"n": row["n"]} for row in rows]


@task("alone")
def alone(n: int) -> dict[str, Any]:
    """No batch handler."""
    _note([Row(n=n)])
    return {"n": n, "token": current_task().token}
