"""The kinds of models, each in its module behind the protocol `Model`."""

from peers.predict.models.base import Model, Predictions
from peers.predict.models.endpoint_backoff import Backoff, predict_with_backoff
from peers.predict.models.load import load
from peers.predict.models.resolve import resolve
from peers.predict.models.transport import Busy, Unavailable
from peers.predict.models.trust import Trust
from peers.predict.signature import Signature

__all__ = [
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
