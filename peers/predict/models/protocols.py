"""The interface of endpoint protocols, and the choice of a protocol by URL."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias
from urllib.parse import urlsplit

from peers.predict.errors import ModelError, RowError
from peers.predict.models.base import Predictions
from peers.predict.predictions import counted
from peers.predict.signature import Signature

if TYPE_CHECKING:
    import pyarrow as pa

    from peers.predict.models.transport import Response
    from peers.predict.spec import EndpointProtocol

_V2: Final = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?(/infer)?/?$")
_V1: Final = re.compile(r":predict$")
_MLFLOW: Final = re.compile(r"/invocations/?$")

Get: TypeAlias = "Callable[[str], Awaitable[Response]]"


class Request(NamedTuple):
    """A POST: its URL and its JSON."""

    url: str
    body: bytes


class WireProtocol(Protocol):
    """How rows are sent to an endpoint, and how its responses are read."""

    def signature(self) -> Signature:
        """Return what the model takes, as far as it is known."""

    async def ask_for_inputs(self, get: Get) -> None:
        """Ask the endpoint what it takes, if the protocol allows that and it is not known."""

    def forget_inputs(self) -> None:
        """Ask again before the next request."""

    def request(self, table: pa.Table) -> Request:
        """Return the request for these rows. Raises RowError for values that cannot be sent."""

    def predictions(self, response: Response, table: pa.Table) -> Predictions:
        """Return a prediction for each row, an exception for a failed one. Raises ModelError."""


class SimpleProtocol:
    """A protocol that sends all columns to one URL, and has no metadata to ask for."""

    def __init__(self, url: str) -> None:
        self.url = url

    def signature(self) -> Signature:
        """Return a signature that takes any columns."""
        return Signature()

    async def ask_for_inputs(self, get: Get) -> None:
        """Do nothing: there is no way to ask."""
        del get

    def forget_inputs(self) -> None:
        """Do nothing: there is nothing to forget."""


def protocol_of(url: str) -> EndpointProtocol:
    """Return the protocol that the form of the URL indicates; v1 if it indicates none."""
    path = urlsplit(url).path
    if _MLFLOW.search(path):
        return "mlflow"
    return "v2" if _V2.search(path) and not _V1.search(path) else "v1"


def listed_predictions(response: Response, rows: int, url: str, *, sent: str) -> Predictions:
    """Return the list `predictions` of a response; {"error": …} in it is a failed row."""
    body = response.json
    if not isinstance(body, dict) or "predictions" not in body:
        raise ModelError(
            f"{url} returned no predictions: {response.text}",
            f'The response must be {{"predictions": [...]}}, one for each row of "{sent}".',
        )
    predictions = body["predictions"]
    if not isinstance(predictions, list):
        raise ModelError(f"the predictions of {url} are not a list: {response.text}")
    return counted([_or_error(one) for one in predictions], rows, url)


def _or_error(prediction: Any) -> Any:
    if isinstance(prediction, dict) and set(prediction) == {"error"}:
        return RowError(str(prediction["error"]))
    return prediction
