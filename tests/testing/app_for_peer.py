"""Handlers that a real peer runs, and that run inline."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any

from peers import Reject, current_task, task

_TOO_LONG = 1.0 if "pytest" in sys.modules else 60.0
"""Seconds. In the process of the tests nobody can stop a handler; a peer does, soon or late."""


class Colour(Enum):
    """A value that has a name."""

    RED = "red"


@dataclass
class Point:
    """A value with fields."""

    x: int
    y: Decimal


@task("pid", queue="default", priority=7, max_attempts=2, timeout="1m", backoff="2s")
def pid() -> int:
    """Return the process of the worker."""
    return os.getpid()


@task("crash", max_attempts=1)
def crash() -> None:
    """End the worker."""
    os._exit(3)


@task("typed", max_attempts=1)
def typed(point: Point, day: date, colour: Colour = Colour.RED) -> tuple[Point, date, Colour]:
    """Return what it got, if that has the right types."""
    assert (type(point), type(point.y), type(day)) == (Point, Decimal, date)
    return point, day, colour


_RESULTS: dict[str, Any] = {
    "set": {1},
    "nan": float("nan"),
    "nul": {"a": ["b\0"]},
    "surrogate": "\ud800",
    "large": "x" * (1 << 20),
    "tuple": (1, {"k": (2.5, None)}),
}


@task("odd", max_attempts=1)
def odd(what: str) -> Any:
    """Return or raise something that is hard to store."""
    match what:
        case "deep":
            deep: list[Any] = []
            for _ in range(1001):
                deep = [deep]
            return deep
        case "reject":
            raise Reject("no")
        case "exit":
            sys.exit(1)
        case "timeout":
            raise TimeoutError("of something else")
        case _:
            return _RESULTS[what]


@task("annotated", max_attempts=1)
def annotated(number: int) -> date:
    """Return a value of another type than it says."""
    return number  # type: ignore[return-value]  # that is the mistake


@task("slow", max_attempts=1, timeout=0.3)
def slow() -> None:
    """Run longer than allowed."""
    time.sleep(_TOO_LONG)


@task("hangs", max_attempts=1)
def hangs() -> None:
    """Run longer than it said itself."""
    current_task().kill_after(0.3)
    time.sleep(_TOO_LONG)


@task("slow async", max_attempts=1, timeout=0.3)
async def slow_async() -> None:
    """Await longer than allowed."""
    await asyncio.sleep(30)


@task("async", max_attempts=1)
async def async_(n: int) -> int:
    """Return a number."""
    await asyncio.sleep(0)
    return n + current_task().attempt
