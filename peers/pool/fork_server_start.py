"""The start of a fork server, and of one that will be needed: it imports while the peer loads.

Nothing is imported here that takes time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Order:
    """What a fork server is started for. `log`: form and level."""

    app: str
    log: tuple[str, str]
    environment: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Started:
    """The process, and our end of what connects us."""

    process: subprocess.Popen[bytes]
    socket: socket.socket


_early: Final[list[tuple[Order, Started]]] = []
"""Those that nobody has asked for yet."""


def start(order: Order) -> Started:
    """Start one, or return the one that was started early. Raises `OSError`."""
    for early in _early:
        if early[0] == order:
            _early.remove(early)
            return early[1]
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "peers.worker.fork_server",
                 str(theirs.fileno()), str(os.getpid()), order.app, *order.log],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=order.environment,
            )  # fmt: skip
        except OSError:
            ours.close()
            raise
    return Started(process, ours)


@contextmanager
def started_early(order: Order) -> Iterator[None]:
    """Have one import the app already; it is ended if nobody has asked for it within the block."""
    with contextlib.suppress(OSError):  # who needs it will tell that there is no room
        _early.append((order, start(order)))
    try:
        yield
    finally:
        for early in [early for early in _early if early[0] == order]:
            _early.remove(early)
            started = early[1]
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(started.process.pid, signal.SIGKILL)
            started.process.wait()
            started.socket.close()  # not before: it would complain that nobody listens
