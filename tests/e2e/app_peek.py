"""Handlers that are looked at while they run. A gate is a path: a handler ends when it exists."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from peers import task
from tests.e2e.ledger import recorded


def _slowly(seconds: float) -> None:
    time.sleep(seconds)


@task("peek.sleep")
def sleep(gate: str, padding: int = 0) -> dict[str, Any]:
    """Sleep in a function of its own."""
    with recorded():
        kept = b"x" * padding
        while not Path(gate).exists():
            _slowly(0.2)
        return {"kept": len(kept)}


@task("peek.busy")
def busy(gate: str) -> int:
    """Compute in Python."""
    with recorded():
        turns = 0
        while turns % 1000 or not Path(gate).exists():
            turns += 1
        return 1


@task("peek.regex")
def regex(size: int) -> bool:
    """Match a pattern that backtracks: C code that holds the GIL for seconds."""
    with recorded():
        return re.match(r"(a+)+$", "a" * size + "b") is None


@task("peek.c_sleep")
def c_sleep(seconds: int) -> int:
    """Wait in a C function that holds the GIL; return how many seconds it was woken early."""
    with recorded():
        rest: int = ctypes.PyDLL(None).sleep(seconds)
        return rest


@task("peek.child")
def child(gate: str) -> int:
    """Wait for a program."""
    with recorded():
        script = f'while [ ! -e "{gate}" ]; do sleep 0.05; done'
        return subprocess.run(["sh", "-c", script], check=True).returncode


def _stack_signal() -> int:
    """The signal that the peer sends when C code holds the GIL."""
    return next(n for n in range(signal.SIGRTMAX - 5, signal.SIGRTMAX) if _is_caught(n))


def _is_caught(number: int) -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [mask] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


@task("peek.default_signal")
def default_signal(seconds: int) -> int:
    """Give the signal its default action, which would end the process; then hold the GIL."""
    with recorded():
        faulthandler.unregister(_stack_signal())
        rest: int = ctypes.PyDLL(None).sleep(seconds)
        return rest


@task("peek.other_file")
def other_file(seconds: int, path: str) -> str:
    """Open a file at the descriptor that the stacks would go to; then hold the GIL."""
    with recorded():
        [fd] = [
            int(entry.name)
            for entry in list(Path("/proc/self/fd").iterdir())
            if entry.exists() and "peers-stacks" in str(entry.readlink())
        ]
        with Path(path).open("w") as file:
            os.dup2(file.fileno(), fd)
        ctypes.PyDLL(None).sleep(seconds)
        return Path(path).read_text()


def _wait_for(gate: str) -> None:
    while not Path(gate).exists():
        time.sleep(0.05)


@task("peek.threads")
def threads(gate: str) -> int:
    """Wait for a thread."""
    with recorded():
        thread = threading.Thread(target=_wait_for, args=(gate,), name="helper")
        thread.start()
        thread.join()
        return 1


async def _deeper(gate: str) -> None:
    while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240, PTH110  # gates are files
        await asyncio.sleep(0.05)


async def _deep(gate: str) -> None:
    await _deeper(gate)


@task("peek.await")
async def awaiting(gate: str) -> int:
    """Wait in a coroutine that a coroutine awaits."""
    with recorded():
        await _deep(gate)
        return 1


@task("peek.gather")
async def gathering(gate: str) -> int:
    """Wait for asyncio tasks."""
    with recorded():
        await asyncio.gather(_deep(gate), _deeper(gate))
        return 1


@task("peek.block")
async def blocking(gate: str) -> int:
    """Block the event loop."""
    with recorded():
        _wait_for(gate)
        return 1
