"""The models that can be run, one module for each kind; who uses them sees `Model` only."""

from peers.predict.models.base import Model, Predictions
from peers.predict.models.endpoint_backoff import Absences, predict_patiently
from peers.predict.models.load import load
from peers.predict.models.resolve import resolve
from peers.predict.models.signature import Signature
from peers.predict.models.transport import Away, Busy
from peers.predict.models.trust import Trust

__all__ = [
    "Absences",
    "Away",
    "Busy",
    "Model",
    "Predictions",
    "Signature",
    "Trust",
    "load",
    "predict_patiently",
    "resolve",
]
