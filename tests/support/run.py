"""The test run as a whole: its mark on every process, its servers, and what outlives it."""

from __future__ import annotations

import os
import secrets
import signal
import time
from pathlib import Path
from typing import Final

_MARK: Final = "TEST_RUN_OF_PEERS"
_SURVIVORS_END_WITHIN: Final = 20.0
_LOOK_AGAIN: Final = 0.05


def mark() -> None:
    """Mark every process that this run starts, through the environment that it inherits."""
    os.environ[_MARK] = secrets.token_hex(8)


def survivors() -> list[str]:
    """Return the processes of this run that are still alive after a generous wait."""
    give_up = time.monotonic() + _SURVIVORS_END_WITHIN
    while (found := _marked()) and time.monotonic() < give_up:
        time.sleep(_LOOK_AGAIN)
    return found


def _marked() -> list[str]:
    mark, found = f"{_MARK}={os.environ[_MARK]}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark in (folder / "environ").read_bytes().split(b"\0")
            command = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except OSError:  # it has ended, or belongs to another user
            continue
        if marked and int(folder.name) != os.getpid():
            found.append(f"{folder.name}: {command}")
    return found


def restore_interrupts() -> None:
    """Give SIGINT its default effect back.

    A shell starts a background job, and nohup a command, with SIGINT ignored. Every process that a
    test starts would inherit that, and Ctrl-C would not end it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
