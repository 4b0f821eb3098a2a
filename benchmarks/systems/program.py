"""The verbs that the programs of the Python systems have in common."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final

_LOAD_STEP: Final = 0.01
_NANOSECONDS: Final = 1e9
LOAD_NUMBERS: Final = 1_000_000_000
"""The tasks of a load and of a warm-up have numbers from here on, those that are timed below."""


class Program(ABC):
    """Submit tasks to one system over one connection."""

    batch: ClassVar[int] = 5000
    """Tasks of one call of `submit_many`."""

    def __init__(self) -> None:
        self.url = os.environ["BENCHMARK_URL"]

    @abstractmethod
    async def prepare(self) -> None:
        """Make the system's tables in an empty database."""

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    @abstractmethod
    async def submit_one(self, number: int) -> None:
        """Submit one task and commit."""

    @abstractmethod
    async def submit_many(self, numbers: range) -> None:
        """Submit tasks in one call and commit."""

    async def work(self) -> None:
        """Run handlers until SIGTERM."""
        raise NotImplementedError

    async def graph(self, shape: str, size: int) -> dict[str, Any]:
        """Submit a graph of this shape and return its numbers of tasks and edges."""
        raise NotImplementedError


def main(program: Program) -> None:
    """Run the verb of the command line."""
    asyncio.run(run(program, *sys.argv[1:]))


async def run(program: Program, verb: str, *arguments: str) -> None:
    """Run one verb and print what it measured."""
    if verb == "prepare":
        await program.prepare()
        print(json.dumps({}))
        return
    if verb == "work":
        await program.work()
        return
    await program.open()
    began = time.monotonic_ns()
    figures = await _timed(program, verb, *arguments)
    seconds = (time.monotonic_ns() - began) / _NANOSECONDS
    await program.close()
    print(json.dumps({"seconds": seconds, **figures}))


async def _timed(program: Program, verb: str, *arguments: str) -> dict[str, Any]:
    match verb, *arguments:
        case "bulk", first, count:
            await _bulk(program, int(first), int(count))
        case "single", count:
            for number in range(int(count)):
                await program.submit_one(number)
        case "paced", count, gap:
            return await _paced(program, int(count), float(gap))
        case "load", rate, seconds:
            await _load(program, float(rate), float(seconds))
        case "graph", shape, size:
            return await program.graph(shape, int(size))
        case _:
            raise ValueError(f"unknown verb: {verb} {' '.join(arguments)}")
    return {}


async def _bulk(program: Program, first: int, count: int) -> None:
    end = first + count
    for start in range(first, end, program.batch):
        await program.submit_many(range(start, min(end, start + program.batch)))


async def _paced(program: Program, count: int, gap: float) -> dict[str, Any]:
    """Submit one by one, and note when each submission returned."""
    submitted_at = []
    for number in range(count):
        await program.submit_one(number)
        submitted_at.append(time.monotonic_ns())
        await asyncio.sleep(gap)
    return {"submitted_at": submitted_at}


async def _load(program: Program, rate: float, seconds: float) -> None:
    """Submit a hundredth of the rate every hundredth of a second."""
    began, next_number = time.monotonic(), LOAD_NUMBERS
    while (elapsed := time.monotonic() - began) < seconds:
        due = LOAD_NUMBERS + round(rate * (elapsed + _LOAD_STEP))
        await program.submit_many(range(next_number, due))
        next_number = due
        await asyncio.sleep(_LOAD_STEP - (time.monotonic() - began) % _LOAD_STEP)
