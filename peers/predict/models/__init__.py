"""The models that can be run, one module for each kind; who uses them sees `Model` only."""

from peers.predict.models.base import Model, Predictions
from peers.predict.models.endpoint_backoff import Backoff, predict_with_backoff
from peers.predict.models.load import load
from peers.predict.models.resolve import resolve
from peers.predict.models.transport import Busy, Unavailable
from peers.predict.models.trust import TRUST_VARIABLE, Trust
from peers.predict.signature import Signature

__all__ = [
    "TRUST_VARIABLE",
    "Backoff",
    "Busy",
    "Model",
    "Predictions",
    "Signature",
    "Trust",
    "Unavailable",
    "load",
    "predict_with_backoff",
    "resolve",
]
