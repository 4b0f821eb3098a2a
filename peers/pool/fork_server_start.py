"""Start a fork server, also before it is needed: then it imports the app while the peer loads.

This module imports nothing that takes long to import.
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

from peers.pool import liveness


@dataclass(frozen=True, slots=True)
class ForkServerOptions:
    """The options of a fork server. `log`: form and level."""

    app: str
    log: tuple[str, str]
    environment: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartedForkServer:
    """The process, and our end of its control socket."""

    process: subprocess.Popen[bytes]
    socket: socket.socket


_early: Final[list[tuple[ForkServerOptions, StartedForkServer]]] = []
"""Servers that were started early and not taken yet."""


def start(options: ForkServerOptions) -> StartedForkServer:
    """Start a fork server, or take the one that was started early. Raises `OSError`."""
    for early in _early:
        if early[0] == options:
            _early.remove(early)
            return early[1]
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "peers.worker.fork_server",
                 str(theirs.fileno()), str(liveness.log_fd()), str(os.getpid()), options.app,
                 *options.log],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *liveness.inherited_by_workers()),
                start_new_session=True,
                env=options.environment,
            )  # fmt: skip
        except OSError:
            ours.close()
            raise
    return StartedForkServer(process, ours)


@contextmanager
def started_early(options: ForkServerOptions) -> Iterator[None]:
    """Start a fork server early; kill it unless `start` has taken it when the block ends."""
    with contextlib.suppress(OSError):  # a later `start` reports it
        _early.append((options, start(options)))
    try:
        yield
    finally:
        for early in [early for early in _early if early[0] == options]:
            _early.remove(early)
            started = early[1]
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(started.process.pid, signal.SIGKILL)
            started.process.wait()
            started.socket.close()  # not earlier, or the process prints a traceback when it writes
