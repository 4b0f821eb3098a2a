"""What the prediction runner raises on purpose."""

# ruff: noqa: N818 - a name says what is the matter

from __future__ import annotations

from peers import PeersError, Reject


class PredictError(PeersError):
    """The base of all."""


class NoSuchRun(PredictError):
    """There is no run of this name or id."""

    exit_code = 4


class RunState(PredictError):
    """A run is in a state in which this cannot be done."""


class ModelError(PredictError):
    """A model whose format is unknown, or that cannot be loaded, is not trusted, or has changed."""


class InputError(PredictError):
    """An input that is missing or unreadable, or lacks what the model wants."""


class InputChanged(InputError):
    """The input is not what it was when the run was planned."""


class OutputError(PredictError):
    """An output that exists with other contents, or cannot be written."""


class StorageFailed(OutputError):
    """The folder of a run or its output cannot be written: full, read-only, over quota, denied."""


class OutputConflict(OutputError):
    """An output that no further attempt can write: other contents, or parts that do not fit."""


class RunStopped(Reject):
    """The run was stopped because too many of its rows are dead; no fault of this task."""


class RowError(PredictError):
    """One row that cannot be predicted: it cannot be read, or lacks a value."""


class EndpointError(PredictError):
    """An endpoint that fails; only other rows show whether a row is to blame."""
