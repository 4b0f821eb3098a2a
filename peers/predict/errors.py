"""The errors of predictions."""

# ruff: noqa: N818 - the names say what happened

from __future__ import annotations

from peers import PeersError, Reject


class PredictError(PeersError):
    """The base class of all errors of predictions."""


class NoSuchRun(PredictError):
    """There is no run with this name or id."""

    exit_code = 4


class RunState(PredictError):
    """The state of a run does not allow this."""


class ModelError(PredictError):
    """A model has an unknown format, cannot be loaded, is not trusted, or has changed."""


class ModelNotTrusted(ModelError):
    """The peer does not trust the model. Another peer may trust it."""


class InputError(PredictError):
    """An input is missing or unreadable, or lacks what the model needs."""


class InputChanged(InputError):
    """The input has changed since the run was planned."""


class OutputError(PredictError):
    """An output exists with other contents, or cannot be written."""


class StorageFailed(OutputError):
    """The folder of a run or its output cannot be written: full, read-only, over quota, denied."""


class OutputConflict(OutputError):
    """No further attempt can write the output: it has other contents, or parts do not fit."""


class RunStopped(Reject):
    """The run was stopped because too many of its rows are dead. This task is not to blame."""


class RowError(PredictError):
    """A row cannot be predicted: it cannot be read, or lacks a value."""


class EndpointError(PredictError):
    """An endpoint failed. Only other rows can show whether a row is to blame."""
