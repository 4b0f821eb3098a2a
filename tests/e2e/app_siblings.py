"""Async handlers that would end the loop on which others run, and those others. No sync ones."""

from __future__ import annotations

import _thread
import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers import current_batch, current_task, task
from tests.e2e.ledger import recorded

_LOOK_AGAIN = 0.005
_SIBLINGS_LOOK_AGAIN = 5 * _LOOK_AGAIN  # forty of them must not keep the loop busy
_KEPT: list[Any] = []


async def _gate(gate: str, look_again: float = _LOOK_AGAIN) -> None:
    while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240  # a gate is a file, and quick to ask
        await asyncio.sleep(look_again)


@task("damaged.sibling", max_attempts=1)
async def sibling(gate: str) -> dict[str, Any]:
    """Has a task of its own, uses a thread, and waits."""
    with recorded():
        await asyncio.create_task(_gate(gate, _SIBLINGS_LOOK_AGAIN))
        await asyncio.to_thread(time.sleep, 0)
        return {"token": current_task().token}


async def _raise(error: BaseException) -> None:
    raise error


def _exit() -> None:
    raise SystemExit(7)


def _in_thread(function: Callable[[], object]) -> None:
    """Call the function while the loop waits for events, so that no handler has it."""
    main = threading.main_thread().ident

    def call() -> None:
        # The main thread cannot go on before this one gives up the GIL.
        while main is None or sys._current_frames()[main].f_code.co_name != "select":
            time.sleep(0.001)
        function()

    threading.Thread(target=call).start()


def _cancel_all() -> None:
    for one in asyncio.all_tasks():
        one.cancel()


async def _do(how: str) -> None:  # noqa: C901, PLR0915 - one case for each evil
    loop = asyncio.get_running_loop()
    match how:
        case "child exits":
            _KEPT.append(asyncio.create_task(_raise(SystemExit(7))))
        case "child is awaited":
            await asyncio.create_task(_raise(SystemExit(7)))
        case "child interrupts":
            _KEPT.append(asyncio.create_task(_raise(KeyboardInterrupt())))
        case "callback exits":
            loop.call_soon(_exit)
        case "timer exits":
            loop.call_later(_LOOK_AGAIN, _exit)
        case "stops the loop":
            loop.stop()
        case "stops the loop later":
            loop.call_soon(loop.stop)
        case "stops the loop from a thread":
            _in_thread(lambda: loop.call_soon_threadsafe(loop.stop))
        case "closes the loop":
            loop.close()
        case "cancels all":
            _cancel_all()
        case "child cancels all":
            _KEPT.append(asyncio.create_task(asyncio.to_thread(_exit)))
            loop.call_soon(_cancel_all)
        case "ends the executor":
            await loop.shutdown_default_executor()
        case "ends the generators":
            await loop.shutdown_asyncgens()
        case "unwatches":
            loop.set_task_factory(None)
        case "a policy":
            asyncio.set_event_loop_policy(None)  # type: ignore[deprecated]  # an app may do it
            asyncio.set_event_loop(None)
            sys.exit(7)
        case "interrupts the main thread":
            _in_thread(_thread.interrupt_main)
        case "exits from a thread":
            _in_thread(lambda: os._exit(7))
        case "kills itself from a thread":
            _in_thread(lambda: os.kill(os.getpid(), signal.SIGKILL))
        case _:
            raise ValueError(f"there is no {how}")
    await asyncio.sleep(50 * _LOOK_AGAIN)
    raise RuntimeError("nothing came of it")


@task("damaged.crasher", max_attempts=1)
async def crasher(how: str, gate: str) -> None:
    """Waits for the gate, and does what ends a process that runs nothing else."""
    with recorded():
        await _gate(gate)
        await _do(how)


@task("damaged.rows", max_attempts=1, batch_size=8, batch_wait=2)
async def rows(elements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Many in one call; one of them has the process killed while the loop is idle."""
    if any(element["kills"] for element in elements):
        await _do("kills itself from a thread")
    return [{"token": one.token, "together": len(elements)} for one in current_batch()]
