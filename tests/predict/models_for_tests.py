"""Callables as users write them, and worse ones."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

GATE = "PREDICT_TEST_GATE"


def double(rows: list[dict[str, float]]) -> list[float]:
    """Twice x; a row of -1 raises, one of -2 kills the process, one of -3 takes for ever."""
    values = [row["x"] for row in rows]
    if -3 in values:
        time.sleep(3600)
    if -2 in values:
        os.kill(os.getpid(), signal.SIGSEGV)
    if -1 in values:
        raise ValueError("x must not be -1")
    return [value * 2 for value in values]


def deaf(rows: list[dict[str, float]]) -> list[float]:
    """Uses SIGALRM for itself, and lets no signal through while a row of -3 takes for ever."""
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 3600)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    try:
        return double(rows)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Mute(Exception):  # noqa: N818 - what it is
    """It cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def taciturn(rows: list[dict[str, float]]) -> list[float]:
    """A row of -11 raises without a text, one of -12 what has none, one of -13 a very long one."""
    values = {row["x"] for row in rows}
    if -11 in values:
        raise AssertionError
    if -12 in values:
        raise Mute
    if -13 in values:
        raise ValueError("begins" + "x" * 50_000 + "the point")
    return double(rows)


def kills(rows: list[dict[str, float]]) -> list[float]:
    """Whatever comes."""
    os.kill(os.getpid(), signal.SIGSEGV)
    return double(rows)


async def double_async(rows: list[dict[str, float]]) -> list[float]:
    """The same, awaited."""
    if any(row["x"] == -3 for row in rows):
        await asyncio.sleep(3600)
    return double(rows)


async def blocks_the_loop(rows: list[dict[str, float]]) -> list[float]:
    """It waits, and then computes without ever yielding."""
    await asyncio.sleep(0)
    return double(rows)


def gated(rows: list[dict[str, float]]) -> list[float]:
    """Waits at row 2500 until the gate is open."""
    while any(row["x"] == 2500 for row in rows) and not Path(os.environ[GATE]).exists():
        time.sleep(0.005)
    return double(rows)


def one_less(rows: list[dict[str, float]]) -> list[float]:
    """Drops a row where there are many."""
    return double(rows)[: max(1, len(rows) - 1)]


def fragile(rows: list[dict[str, float]]) -> list[float]:
    """Needs something outside for a row of -1: until the gate is open, it is not there."""
    if Path(os.environ[GATE]).exists():
        return [row["x"] if row["x"] == -1 else row["x"] * 2 for row in rows]
    return double(rows)


def gated_fragile(rows: list[dict[str, float]]) -> list[float]:
    """Waits at row 2500 until the gate is open, and fails for a row of -1 until then."""
    gated([row for row in rows if row["x"] == 2500])
    return fragile(rows)


def kills_until_fixed(rows: list[dict[str, float]]) -> list[float]:
    """Dies of a row of -2 until the gate is open."""
    if Path(os.environ[GATE]).exists():
        return [row["x"] * 2 for row in rows]
    return double(rows)


class Heavy:
    """A model that says when it is loaded."""

    def __init__(self) -> None:
        with open(os.environ[GATE] + ".loaded", "a", encoding="utf-8") as stream:
            stream.write(f"{os.getpid()}\n")

    def __call__(self, rows: list[dict[str, float]]) -> list[float]:
        """Twice x."""
        return double(rows)
