"""The model of a request, loaded and tried in a process of its own.

A model can take gigabytes, which the command would keep for as long as it watches the run; the rows
it is tried with may be of those that kill it; and what it prints is not what the command answers.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Final, NoReturn, TypeAlias

from peers import PeersError
from peers.predict import models
from peers.predict.errors import ModelError
from peers.predict.models import Model
from peers.predict.models.model_process_fork import ForkedProcess, accepted
from peers.predict.models.signature import Signature
from peers.predict.models.smoke_test import Killed, Tried, measure_model, try_model
from peers.predict.models.time_limit import GRACE
from peers.predict.run.own_peer import OwnPeer
from peers.predict.run.request import Request
from peers.predict.sizes import Measured
from peers.predict.spec import Chunk, Manifest, ModelRef

_FAREWELL: Final = 5.0
"""Seconds that a process gets to end by itself: threads of a model might keep it for ever."""
_MEASURED_WITHIN: Final = 5.0
_STDOUT: Final = 1
_STDERR: Final = 2


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that could be loaded. `asynchronous`: it is waited for."""

    reference: ModelRef
    asynchronous: bool
    signature: Signature


_Trial: TypeAlias = "tuple[Manifest, Sequence[Chunk], Sequence[int]]"


class Candidate:
    """The process. Its methods raise what goes wrong in it, and ModelError when it dies.

    It is a fork of the process that loads the model for our own `peer`, if we have one. When that
    fork dies another process loads the model anew, to say what is wrong or to go on.
    """

    def __init__(self, request: Request, peer: OwnPeer | None = None) -> None:
        self._request = request
        self._is_loaded = False
        self._connection: Connection | None = None
        self._process: SpawnProcess | ForkedProcess | None = None
        is_remote = "://" in request.model  # there is next to nothing to load
        self._peer = None if peer is None or peer.trials is None or is_remote else peer
        if self._peer is None:
            self._start()

    def __enter__(self) -> Candidate:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_loaded:  # nobody needs the model: the run is known, or cannot be made
            self._kill()
        self._end()

    def loaded(self) -> Loaded:
        """What the model is, once it is loaded."""
        if self._peer is not None:
            found = self._fork_of(self._peer)
            self._peer = None
            if found is None:
                self._end()
                self._start()
                found = self._answer()
        else:
            found = self._answer()
        if not isinstance(found, Loaded):
            raise self._died()
        self._is_loaded = True
        return found

    def try_out(self, manifest: Manifest, chunks: Sequence[Chunk]) -> Tried:
        """What the model takes and returns, after it has predicted a row of these chunks.

        Raises PredictError if it can predict none of those it was tried with.
        """
        killers: list[int] = []
        while True:
            self._pipe.send((manifest, chunks, killers))
            # a remote one may be slow: it has the patience of the trial itself
            is_remote = manifest.model.kind == "http"
            found = self._answer(None if is_remote else manifest.timeout)
            if found is None:
                if isinstance(self._process, SpawnProcess):
                    raise self._died()
                self._end()
                self._start()
                self.loaded()
                continue
            if not isinstance(found, Killed):
                tried: Tried = found
                return tried
            killers.append(found.row)
            self._end()
            self._start()
            self.loaded()

    def measured(self, manifest: Manifest) -> Measured | None:
        """Return how fast the model is; None if that cannot be told, or takes too long.

        Raises ModelError when it breaks its contract with several rows.
        """
        self._pipe.send(manifest)
        if not self._pipe.poll(_MEASURED_WITHIN):
            self._kill()  # bad rows are found in the run
        found = self._answer()
        measured: Measured | None = None if found is None else found[0]
        return measured

    def _fork_of(self, peer: OwnPeer) -> Any:
        """Return what a fork says of the model; None if there is none, or it dies."""
        assert peer.trials is not None
        pipe = accepted(peer.trials, lambda: peer.is_over)
        if pipe is None:
            return None
        self._connection = pipe
        try:
            self._process = ForkedProcess(pipe.recv().pid)
        except (EOFError, OSError):
            return None
        return self._answer()

    def _start(self) -> None:
        context = get_context("spawn")  # no lock and no connection of ours is in it
        self._connection, theirs = context.Pipe()
        # no daemon: models may start processes
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
            self._process.join(_FAREWELL)
            self._process.kill()
            self._process.join()
            self._process.close()
        self._connection = self._process = None

    def _answer(self, timeout: float | None = None) -> Any:
        """What it says at last; Killed with its row if a trial killed it, None if it just died.

        `timeout`: seconds that the trial of a row may take; then we kill it.
        """
        on_trial: int | None = None
        try:
            while True:
                if timeout is not None and on_trial is not None:
                    self._kill_unless_heard(timeout + GRACE)
                if not isinstance(said := self._pipe.recv(), int | None):
                    break
                on_trial = said
        except (EOFError, ConnectionResetError):
            return None if on_trial is None else Killed(on_trial)
        if isinstance(said, Exception):
            raise said
        return said

    def _kill_unless_heard(self, seconds: float) -> None:
        if not self._pipe.poll(seconds):
            self._kill()

    def _died(self) -> ModelError:
        assert self._process is not None
        self._process.join(_FAREWELL)
        return ModelError(
            f"the process that loads and tries the model {self._request.model} ended: "
            f"{_how(self._process.exitcode)}",
            "Nothing was submitted.",
        )


def _run(pipe: Connection, request: Request) -> None:
    def load() -> tuple[ModelRef, Model]:
        reference = models.resolve(request.model, request.method, request.protocol, request.access)
        return reference, models.load(
            reference, models.Trust.from_environment().with_named(reference)
        )

    serve(pipe, load)


def serve(pipe: Connection, load: Callable[[], tuple[ModelRef, Model]]) -> NoReturn:
    """Load a model, try it as the command at the other end of the pipe asks, and end."""
    os.dup2(_STDERR, _STDOUT)
    try:
        reference, model = load()
        pipe.send(Loaded(reference, model.asynchronous, model.signature))
        while True:
            asked = pipe.recv()
            if isinstance(asked, Manifest):
                pipe.send((measure_model(model, asked),))  # None alone would be a row's end
                continue
            manifest, chunks, killers = asked
            pipe.send(try_model(model, manifest, chunks, killers, trying=pipe.send))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        pass  # nobody asks any more; the parent has the interrupt, too, and says so
    except (PeersError, OSError) as error:
        pipe.send(error)
    # whoever waits for the end of this process need not wait for exit handlers and threads
    sys.stderr.flush()
    os._exit(0)


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"
