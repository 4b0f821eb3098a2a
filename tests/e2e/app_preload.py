"""An app that notes each of its imports, and does something else while it is imported."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy.random

from peers import current_task, task
from tests.e2e.ledger import recorded

IMPORTS = "PEERS_TEST_IMPORTS"
AT_IMPORT = "PEERS_TEST_AT_IMPORT"

_KEPT: list[Any] = []
_beats = 0


def _beat() -> None:
    global _beats  # noqa: PLW0603
    while True:
        _beats += 1
        time.sleep(0.01)


def _at_import(what: str | None) -> None:
    match what:
        case "thread":
            threading.Thread(target=_beat, name="beat", daemon=True).start()
        case "connection":
            _KEPT.append(socket.socketpair())
        case "loop":
            _KEPT.append(asyncio.new_event_loop())
        case "file":
            _KEPT.append(open(__file__))  # noqa: SIM115
        case "process":
            _KEPT.append(subprocess.Popen(["sleep", "1000"]))
        case "log":
            _KEPT.append(open(os.environ[IMPORTS] + ".log", "a"))  # noqa: SIM115
        case _:
            pass


with open(os.environ[IMPORTS], "a") as _imports:
    _imports.write(f"{os.getpid()}\n")
_at_import(os.environ.get(AT_IMPORT))


@task("who", max_attempts=2)
def who(gate: str) -> dict[str, Any]:
    """Tell of the process, once the gate is open."""
    with recorded():
        while not Path(gate).exists():
            time.sleep(0.005)
        before = _beats
        time.sleep(0.05)
        opened = _opened()
        return {
            "token": current_task().token,
            "pid": os.getpid(),
            "parent": os.getppid(),
            "session": os.getsid(0),
            "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "random": [random.random(), float(numpy.random.random())],
            "beats": _beats - before,
            "sockets": sum("socket:" in what for what in opened),
            "markers": sum("peers-marker" in what for what in opened),
            "pipes": sum("pipe:" in what for what in opened),
        }


def _opened() -> list[str]:
    found = []
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the one that was used to look
            found.append(str(entry.readlink()))
    return found
