"""The models of a worker: each is loaded once, and stays in memory."""

from __future__ import annotations

import contextlib
import json
import os
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from peers import Reject
from peers.predict import kinds, models
from peers.predict.errors import ModelError
from peers.predict.models.time_limit import limited, traced
from peers.predict.models.timer_signals import TimerSignals
from peers.predict.spec import Manifest, ModelRef
from peers.predict.tasks.model_server import connect_to_command, serve, serve_in_fork

if TYPE_CHECKING:
    from peers import CurrentTask
    from peers.predict.models import Model, Predictions


def model_of(manifest: Manifest) -> Model:
    """Return the run's model; the first call loads it."""
    return _load(manifest.model, _trust())


class LocalModel:
    """A model that computes in this process, with a time limit.

    An error of the model itself is final: it becomes Reject.
    """

    def __init__(self, manifest: Manifest, task: CurrentTask) -> None:
        self._task = task
        self._timeout = manifest.timeout
        self._signals = _signals_of(manifest.model)
        with self._signals.restored():
            self._model = model_of(manifest)

    def predict(self, table: pa.Table) -> Predictions:
        """Predict these rows. Raises Reject, for instance for a wrong number of results."""
        try:
            with (
                self._signals.restored(),
                limited(self._task, self._timeout),
                traced(self._timeout),
            ):
                return self._model.predict(table)
        except ModelError as error:
            raise Reject(str(error)) from error


def warm_up() -> None:
    """Import and load what each worker needs before there is a task.

    Where workers are forked this happens once, and they share the model's memory. It happens while
    the command still reads its input.
    """
    command = connect_to_command()  # first: loading the model may kill this process
    pa.array(np.zeros(1))  # pyarrow looks for pandas once, which takes half a second to import
    with contextlib.suppress(Exception, SystemExit):  # the command's smoke test reports the error
        _load_named()
    if command is not None:
        serve_in_fork(command, partial(serve, load=_load_named))


def _trust() -> models.Trust:
    """Return what this worker trusts: its settings, and the model named on the command line."""
    trust, named = models.Trust.from_environment(), _named_model()
    return trust if named is None else trust.with_named(named)


@cache
def _named_model() -> ModelRef | None:
    """Return the model of the command that started this peer; None if there is no command."""
    if kinds.NAMED_MODEL not in os.environ:
        return None
    try:
        return _resolve_named()
    except ModelError:
        return None  # the command reports the error


@cache
def _resolve_named() -> ModelRef:
    """Return the model that the command named. Raises KeyError without a command."""
    return models.resolve(*json.loads(os.environ[kinds.NAMED_MODEL]))


def _load_named() -> tuple[ModelRef, Model]:
    """Load the model that the command named; an error is raised by each call."""
    named = _resolve_named()
    return named, _load(named, _trust())


@lru_cache(maxsize=4)
def _load(reference: ModelRef, trust: models.Trust) -> Model:
    """Load a model. It stays the one of its digest even if its file changes."""
    return models.load(reference, trust)


@cache
def _signals_of(_reference: ModelRef) -> TimerSignals:
    return TimerSignals()
