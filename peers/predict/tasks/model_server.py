"""Serve the command in the model's process: load the model, and run the smoke test.

Where a process of the workers loads the same model, a fork of it serves the command. So a command
with its own peer does not import and load everything a second time. A process that must not be
forked refuses; the command then starts a process of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NoReturn

from peers import PeersError
from peers.predict.kinds import MODEL_PROCESS_SOCKET
from peers.predict.models import Model
from peers.predict.signature import Signature
from peers.predict.spec import Manifest, ModelRef
from peers.predict.tasks.smoke_test import measure_model, smoke_test

_STDOUT: Final = 1
_STDERR: Final = 2
_LOG_WRITER: Final = "log"
"""The thread that writes a worker's log. The fork works without it."""
_HARMLESS: Final = frozenset({"jemalloc_bg_thd"})
"""The thread of pyarrow's allocator, which a fork starts again when it needs it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that could be loaded. `asynchronous`: `predict_async` has to be used."""

    reference: ModelRef
    asynchronous: bool
    signature: Signature


@dataclass(frozen=True, slots=True)
class Forked:
    """The first message of a fork."""

    pid: int


def serve(pipe: Connection, load: Callable[[], tuple[ModelRef, Model]]) -> NoReturn:
    """Load a model, run the tests that the command sends through the pipe, and exit."""
    os.dup2(_STDERR, _STDOUT)
    try:
        reference, model = load()
        pipe.send(Loaded(reference, model.asynchronous, model.signature))
        while True:
            request = pipe.recv()
            if isinstance(request, Manifest):
                pipe.send((measure_model(model, request),))  # a bare None ends the test of a row
                continue
            manifest, chunks, crashed = request
            pipe.send(smoke_test(model, manifest, chunks, crashed, on_row=pipe.send))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        pass  # the command has ended, or reports the interrupt itself
    except (PeersError, OSError) as error:
        pipe.send(error)
    # the command waits for this process: skip exit handlers and threads
    sys.stderr.flush()
    os._exit(0)


# ---------------------------------------------------------------------------- a fork of the worker


def connect_to_command() -> Connection | None:
    """Return the connection to the command that waits for this process to load its model."""
    path = os.environ.get(MODEL_PROCESS_SOCKET)
    if path is None:
        return None
    ours = socket.socket(socket.AF_UNIX)
    try:
        ours.connect(path)
    except OSError:  # another process was first, or the command has ended
        ours.close()
        return None
    return Connection(ours.detach())


def serve_in_fork(pipe: Connection, serve: Callable[[Connection], None]) -> None:
    """Call `serve` in a detached grandchild; return in this process only."""
    sys.stdout.flush()  # the fork must not print it a second time
    sys.stderr.flush()
    writers = sum(thread.name == _LOG_WRITER for thread in threading.enumerate())
    with pipe, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which are checked below
        try:
            between = os.fork()
        except OSError:
            return
        if between:
            os.waitpid(between, 0)
            return
        try:
            os.setsid()
            if _threads(os.getppid()) == 1 + writers and not os.fork():
                _log_to_stderr()
                pipe.send(Forked(os.getpid()))
                serve(pipe)
        except BaseException:  # noqa: BLE001  # the fork must never continue as a worker
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)


def _threads(pid: int) -> int:
    """Count the threads of the parent process, which a fork lacks.

    OpenBLAS ends its own threads in a fork, so this is counted after the fork.
    """
    names = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            names.append((task / "comm").read_text().rstrip("\n"))
    return sum(name not in _HARMLESS for name in names)


def _log_to_stderr() -> None:
    """Write the log to stderr: the thread that writes it elsewhere is not in the fork."""
    logging.captureWarnings(capture=False)
    root = logging.getLogger()
    root.handlers[:] = [logging.StreamHandler()]
