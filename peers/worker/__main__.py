"""Start of a worker: `python -m peers.worker SOCKET PAGE PARENT APP FORM LEVEL`.

SOCKET and PAGE are inherited file descriptors, PARENT is the pid of the parent, APP the modules to
import, separated by commas; FORM and LEVEL are those of the log.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
from typing import Final

from peers.frames import Begin, Broken, Hello, KindDeclared
from peers.handlers import registry
from peers.page import Page
from peers.worker import logs
from peers.worker.channel import Channel
from peers.worker.describe import describe
from peers.worker.imports import keep_own_frames
from peers.worker.loop_async import AsyncLoop
from peers.worker.loop_sync import SyncLoop

_PR_SET_PDEATHSIG: Final = 1


def main(socket_fd: int, page_fd: int, parent: int, app: str) -> None:
    """Import the app, say hello, and run what the parent sends until it says stop."""
    _die_with(parent)
    channel = Channel(socket.socket(fileno=socket_fd))
    page = Page(page_fd, writable=True)
    try:
        for module in app.split(","):
            importlib.import_module(module)
        for handler in registry().values():
            handler.settle()
    except BaseException as error:  # noqa: BLE001  # whatever user code raises, the parent is told
        has_own_frames = keep_own_frames(error)
        told = describe(error)
        trace = told.traceback if has_own_frames else None
        channel.send(Broken(f"{told.error_type}: {told.message}", trace or ""))
        return
    # what the app is made of stays: no collection shall walk over it while a handler waits
    gc.collect()
    gc.freeze()
    channel.send(Hello(_declared()))
    # nobody interrupts a worker from outside; a handler that does (`_thread.interrupt_main`) would
    # hit whoever runs at that moment
    signal.signal(signal.SIGINT, lambda *_: None)
    begin = channel.receive()
    if isinstance(begin, Begin):
        (AsyncLoop if begin.asynchronous else SyncLoop)(channel, page).run()


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, even while a handler holds the GIL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()


def _declared() -> list[KindDeclared]:
    return [
        KindDeclared(
            kind=handler.kind,
            asynchronous=handler.is_async,
            max_attempts=handler.max_attempts,
            timeout=None if handler.timeout is None else handler.timeout.total_seconds(),
            backoff_base=handler.backoff.total_seconds(),
            backoff_cap=handler.backoff_cap.total_seconds(),
            batch_size=handler.batch_size,
            batch_wait=handler.batch_wait.total_seconds(),
        )
        for handler in registry().values()
    ]


if __name__ == "__main__":
    logs.configure(*sys.argv[5:])  # type: ignore[arg-type]  # the parent has checked them
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    # Threads and exit handlers of user code must not keep a worker that was told to stop.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
