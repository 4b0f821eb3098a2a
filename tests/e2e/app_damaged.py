"""Handlers that use up what others in their process need, and those others."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from peers import current_task, task
from tests.e2e.ledger import recorded

_AT_ONCE = timedelta(0)
_FEW = 64
_KEPT: list[Any] = []


# -------------------------------------------------------------------- what a worker can run out of


def _exhaust_descriptors() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FEW, hard))
    try:
        while True:
            _KEPT.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return


def _exhaust_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), hard))


def _close_streams() -> None:
    for fd in (0, 1, 2):
        os.close(fd)


_SPOILS: dict[str, Callable[[], None]] = {
    "descriptors": _exhaust_descriptors,
    "memory": _exhaust_memory,
    "streams": _close_streams,
}


def _told() -> dict[str, Any]:
    return {"token": current_task().token, "pid": os.getpid()}


@task("damaged.by")
def damages(what: str) -> dict[str, Any]:
    """Completes, and leaves its worker without something that others need."""
    with recorded():
        told = _told()
    _SPOILS[what]()
    return told


@task("damaged.async.by")
async def damages_async(what: str) -> dict[str, Any]:
    """The same on a loop."""
    return damages(what)


def _need(what: str) -> None:
    match what:
        case "descriptors":
            os.close(os.open(os.devnull, os.O_RDONLY))
        case "memory":
            bytearray(64 << 20)
        case "streams":
            for fd in (0, 1, 2):
                os.fstat(fd)
        case _:
            pass


@task("damaged.needs", max_attempts=1)
def needs(what: str) -> dict[str, Any]:
    """Needs what others may have used up; has only one attempt."""
    with recorded():
        _need(what)
        return _told()


@task("damaged.async.needs", max_attempts=1)
async def needs_async(what: str) -> dict[str, Any]:
    """The same on a loop."""
    return needs(what)


@task("damaged.wrapped", max_attempts=1)
def needs_wrapped() -> dict[str, Any]:
    """Tells in its own words that it could not have a descriptor."""
    try:
        return needs("descriptors")
    except OSError as error:
        raise ValueError("there was no file") from error


@task("damaged.exhausts", max_attempts=2, backoff=_AT_ONCE)
def exhausts() -> None:
    """Wants more memory than any worker has."""
    bytearray(1 << 50)


@task("damaged.async.exhausts", max_attempts=2, backoff=_AT_ONCE)
async def exhausts_async() -> None:
    """The same on a loop."""
    exhausts()


def _fails() -> None:
    raise RuntimeError(str(os.getpid()))


fails_1 = task("fails.1", max_attempts=1)(_fails)
fails_2 = task("fails.2", max_attempts=1)(_fails)
fails_3 = task("fails.3", max_attempts=1)(_fails)


@task("pid")
def pid() -> dict[str, Any]:
    """In which process it ran."""
    with recorded():
        return _told()


@task("grows")
def grows(megabytes: int) -> dict[str, Any]:
    """Holds memory for ever."""
    with recorded():
        _KEPT.append(b"x" * (megabytes << 20))
        return _told()
