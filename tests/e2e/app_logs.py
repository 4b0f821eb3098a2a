"""Handlers that print and log, and end in every way."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from peers import current_task, task

_LOOK_AGAIN = 0.005
_POOL = ThreadPoolExecutor(1)
_log = logging.getLogger("shop")


def _say(who: str) -> None:
    """One line by each way."""
    print(f"{who} prints")
    print(f"{who} prints to stderr", file=sys.stderr)
    _log.info("%s logs", who)


@task("log.plain")
def plain(who: str) -> None:
    """Its log is not kept."""
    _say(who)
    print("no end", end="")


@task("log.threads")
def threads() -> None:
    """A thread of its own, and one of the app's pool."""
    thread = threading.Thread(target=_say, args=("thread",))
    thread.start()
    thread.join()
    _POOL.submit(_say, "pool").result()


@task("log.async.threads")
async def async_threads(who: str) -> None:
    """A thread of its own, one of asyncio, and one of the loop's pool."""
    thread = threading.Thread(target=_say, args=(f"{who} thread",))
    thread.start()
    await asyncio.to_thread(_say, f"{who} to_thread")
    await asyncio.get_running_loop().run_in_executor(None, _say, f"{who} executor")
    thread.join()


@task("log.fails", max_attempts=1, keep_log=True)
def fails(how: str, gate: str = "") -> None:
    """Print by every way, and end as it is told."""
    _say("handler")
    subprocess.run(["sh", "-c", "echo program; echo error >&2"], check=True)
    os.write(1, b"descriptor\n")
    ctypes.CDLL(None).puts(b"library")
    thread = threading.Thread(target=print, args=("thread",))
    thread.start()
    thread.join()
    print("last", end="", flush=True)
    match how:
        case "raises":
            raise ValueError("no")
        case "exits":
            os._exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hangs":
            while not Path(gate).exists():
                time.sleep(_LOOK_AGAIN)
        case _:
            return


@task("log.always", keep_log="always")
def always(text: str) -> None:
    """Its log is kept although it completes."""
    print(text)


@task("log.odd", max_attempts=1, keep_log=True)
def odd() -> None:
    """What no database likes."""
    print("nul \0, half \udce4, colour \x1b[31mred\x1b[0m, euro €")
    os.write(1, b"raw \xff\xfe nul \0\n")
    raise ValueError("no")


@task("log.large", max_attempts=1, keep_log=True)
def large(lines: int) -> None:
    """More than is kept."""
    for number in range(lines):
        print(f"line {number} é")
    raise ValueError("no")


@task("log.steps", keep_log=True)
def steps(gate: str, count: int) -> None:
    """A line each time a gate opens."""
    for number in range(count):
        print(f"step {number}")
        while not Path(f"{gate}-{number}").exists():
            time.sleep(_LOOK_AGAIN)
    print("done")


@task("log.async", max_attempts=1, keep_log=True, queue="default")
async def on_the_loop(who: str, how: str, gate: str) -> None:
    """Many at once."""
    for number in range(3):
        print(f"{who} {number}")
        _log.info("%s logs %d", who, number)
        await asyncio.sleep(_LOOK_AGAIN)
    await asyncio.create_task(_print_later(who))
    while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240  # a look at a file takes no time
        await asyncio.sleep(_LOOK_AGAIN)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "blocks":
        time.sleep(60)  # noqa: ASYNC251  # that is the point
    if how == "raises":
        raise ValueError(who)


async def _print_later(who: str) -> None:
    await asyncio.sleep(0)
    print(f"{who} subtask")


@task("log.batch", batch_size=4, max_attempts=1, keep_log=True)
def batch(args: list[dict[str, Any]]) -> list[Any]:
    """One of them raises; it is found by bisecting."""
    print(f"called with {[each['n'] for each in args]}")
    if any(each["n"] == 2 for each in args):
        raise ValueError("two")
    return [None for _ in args]


@task("log.last.words", max_attempts=2, keep_log=True)
def last_words() -> None:
    """Print the attempt."""
    print(f"attempt {current_task().attempt}")
    raise ValueError("no")
