"""Load and test a request's model in a process of its own.

A model can take gigabytes, which the command would otherwise keep while it watches the run. A row
of the smoke test may kill its process. And what a model prints must not mix with the output of the
command.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from peers.predict import models
from peers.predict.errors import ModelError
from peers.predict.models import Model
from peers.predict.models.time_limit import GRACE
from peers.predict.run.model_process_fork import ForkedProcess, accept
from peers.predict.run.own_peer import OwnPeer
from peers.predict.run.request import Request
from peers.predict.spec import Chunk, Manifest, ModelRef
from peers.predict.tasks.measure import Measurement
from peers.predict.tasks.model_server import Loaded, serve
from peers.predict.tasks.smoke_test import SmokeTested

_EXIT_TIMEOUT: Final = 5.0
"""Seconds. Threads of a model might keep its process alive for ever."""
_MEASURE_TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Crashed:
    """The smoke test of this row killed the process."""

    row: int


class ModelProcess:
    """The process. Its methods raise the errors of the model, and ModelError when it dies.

    With a `peer` of our own it is a fork of the process that loads the model for the peer's
    workers. When the fork dies, a new process loads the model again, to continue or to report the
    error.
    """

    def __init__(self, request: Request, peer: OwnPeer | None = None) -> None:
        self._request = request
        self._is_loaded = False
        self._connection: Connection | None = None
        self._process: SpawnProcess | ForkedProcess | None = None
        is_remote = "://" in request.model  # there is almost nothing to load
        self._peer = None if peer is None or peer.socket is None or is_remote else peer
        if self._peer is None:
            self._start()

    def __enter__(self) -> ModelProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_loaded:  # the model is not needed: the command has failed before
            self._kill()
        self._end()

    def loaded(self) -> Loaded:
        """Wait until the model is loaded, and return what it is."""
        if self._peer is not None:
            found = self._fork_of(self._peer)
            self._peer = None
            if found is None:
                self._end()
                self._start()
                found = self._receive()
        else:
            found = self._receive()
        if not isinstance(found, Loaded):
            raise self._died()
        self._is_loaded = True
        return found

    def smoke_test(self, manifest: Manifest, chunks: Sequence[Chunk]) -> SmokeTested:
        """Predict a row of these chunks; return what the model takes and returns.

        A row that kills the process is skipped. Raises PredictError if no row can be predicted.
        """
        crashed: list[int] = []
        while True:
            self._pipe.send((manifest, chunks, crashed))
            # the smoke test itself limits a remote model, which may be slow
            is_remote = manifest.model.kind == "http"
            found = self._receive(None if is_remote else manifest.timeout)
            if isinstance(found, SmokeTested):
                return found
            if isinstance(found, _Crashed):
                crashed.append(found.row)
            elif isinstance(self._process, SpawnProcess):
                raise self._died()
            self._end()
            self._start()
            self.loaded()

    def measure(self, manifest: Manifest) -> Measurement | None:
        """Return how fast the model is; None if that is unknown or takes too long.

        Raises ModelError when the model breaks its contract with several rows.
        """
        self._pipe.send(manifest)
        if not self._pipe.poll(_MEASURE_TIMEOUT):
            self._kill()  # the run finds the bad rows
        found = self._receive()
        measured: Measurement | None = None if found is None else found[0]
        return measured

    def _fork_of(self, peer: OwnPeer) -> Any:
        """Return the first reply of a fork; None if there is no fork, or it dies."""
        assert peer.socket is not None
        pipe = accept(peer.socket, lambda: peer.has_ended)
        if pipe is None:
            return None
        self._connection = pipe
        try:
            self._process = ForkedProcess(pipe.recv().pid)
        except (EOFError, OSError):
            return None
        return self._receive()

    def _start(self) -> None:
        context = get_context("spawn")  # it inherits no lock and no connection of ours
        self._connection, theirs = context.Pipe()
        # not a daemon: models may start processes
        self._process = context.Process(target=_run, args=(theirs, self._request))
        self._process.start()
        theirs.close()

    @property
    def _pipe(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.join(_EXIT_TIMEOUT)
            self._process.kill()
            self._process.join()
            self._process.close()
        self._connection = self._process = None

    def _receive(self, timeout: float | None = None) -> Any:
        """Return the reply: _Crashed if a row killed the process, None if it died otherwise.

        `timeout`: seconds that the call for a row may take before we kill the process.
        """
        row: int | None = None
        try:
            while True:
                if timeout is not None and row is not None:
                    self._kill_if_silent(timeout + GRACE)
                if not isinstance(reply := self._pipe.recv(), int | None):
                    break
                row = reply
        except (EOFError, ConnectionResetError):
            return None if row is None else _Crashed(row)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _kill_if_silent(self, seconds: float) -> None:
        if not self._pipe.poll(seconds):
            self._kill()

    def _died(self) -> ModelError:
        assert self._process is not None
        self._process.join(_EXIT_TIMEOUT)
        return ModelError(
            f"the process that loads and tests the model {self._request.model} ended: "
            f"{_exit_reason(self._process.exitcode)}",
            "Nothing was submitted.",
        )


def _run(pipe: Connection, request: Request) -> None:
    def load() -> tuple[ModelRef, Model]:
        reference = models.resolve(request.model, request.method, request.protocol, request.access)
        return reference, models.load(
            reference, models.Trust.from_environment().with_named(reference)
        )

    serve(pipe, load)


def _exit_reason(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"
