"""Models behind an HTTP endpoint.

The protocol is that of TensorFlow Serving and KServe (version 1): a POST of {"instances": [{column:
value, …}, …]} is answered by {"predictions": [...]}, one for each instance, in order. An instance
that has none may be answered by {"error": "why"} in its place.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from peers.predict.errors import EndpointError, ModelError, RowError
from peers.predict.inputs import plain_rows
from peers.predict.models.base import Predictions, counted, needed
from peers.predict.models.signature import Signature

if TYPE_CHECKING:
    import httpx
    import pyarrow as pa

_CONNECT_SECONDS: Final = 5.0
_DEFAULT_WAIT: Final = 1.0
_SHORTEST_WAIT: Final = 0.1
"""Also when it says "at once", or names a time that has passed."""
_LONGEST_WAIT: Final = 3600.0
_SHOWN: Final = 500
_OK: Final = 200
_BAD_INPUT: Final = (400, 413, 422)
_TOO_MANY: Final = 429
_AWAY: Final = (502, 503, 504)
_SERVER_ERROR: Final = 500

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()


class Busy(Exception):  # noqa: N818 - a name says what is the matter
    """The endpoint asks everybody to come back after `seconds`."""

    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(f"{url} asks to come back in {seconds:g} s")
        self.seconds = seconds


class Away(Exception):  # noqa: N818 - a name says what is the matter
    """The endpoint cannot be reached, or what stands before it says that it is not there."""


class HttpModel:
    """An endpoint. Raises ModelError without httpx."""

    asynchronous = True
    signature = Signature()

    def __init__(self, url: str) -> None:
        with needed("httpx", f"The model at {url}"):
            import httpx as _  # noqa: F401
        self._url = url

    def predict(self, table: pa.Table) -> Predictions:
        """The same outside of event loops."""
        return asyncio.run(self.predict_async(table))

    async def predict_async(self, table: pa.Table) -> Predictions:
        """What the endpoint answers for the rows.

        Raises Busy for 429, and for 503 that says when to return; Away when it cannot be reached
        (502, 503, 504 too); RowError when it refuses the rows, or so many (400, 413, 422);
        EndpointError when it fails (another 5xx, or an answer that breaks off), be it for a row or
        not; else ModelError.
        """
        import httpx

        try:
            body = json.dumps({"instances": plain_rows(table)}, allow_nan=False, default=str)
        except ValueError:
            raise RowError("NaN and infinity have no form in JSON") from None
        try:
            response = await _client().post(
                self._url, content=body, headers={"content-type": "application/json"}
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Away(f"{self._url} cannot be reached: {_told(error)}") from error
        except httpx.HTTPError as error:
            raise EndpointError(f"{self._url} does not answer: {_told(error)}") from error
        self._refuse(response)
        return self._predictions(response, table.num_rows)

    def _refuse(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == _OK:
            return
        wait = retry_after(response.headers)
        if status == _TOO_MANY or (status in _AWAY and wait is not None):
            seconds = _DEFAULT_WAIT if wait is None else wait
            raise Busy(self._url, min(max(seconds, _SHORTEST_WAIT), _LONGEST_WAIT))
        said = f"{self._url} answered {status}: {response.text[:_SHOWN]}"
        if status in _BAD_INPUT:
            raise RowError(said)
        if status in _AWAY:
            raise Away(said)
        if status >= _SERVER_ERROR:
            raise EndpointError(said)
        raise ModelError(said, "See to the URL and to who may use it.")

    def _predictions(self, response: httpx.Response, rows: int) -> Predictions:
        try:
            predictions = response.json()["predictions"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{self._url} answered something else than predictions: {response.text[:_SHOWN]}",
                'The answer must be {"predictions": [...]}, one for each of "instances".',
            ) from error
        if not isinstance(predictions, list):
            raise ModelError(f"the predictions of {self._url} are no list")
        return counted([_or_error(one) for one in predictions], rows, self._url)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that Retry-After asks for; None without it.

    A date counts from the answer's own Date: host clocks drift.
    """
    asked = headers.get("retry-after", "").strip()
    if asked.isdecimal():
        return float(asked)
    try:
        until, now = parsedate_to_datetime(asked), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):
        return None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _or_error(prediction: Any) -> Any:
    if isinstance(prediction, dict) and set(prediction) == {"error"}:
        return RowError(str(prediction["error"]))
    return prediction


def _client() -> httpx.AsyncClient:
    """One for each event loop, so that connections are kept."""
    import httpx

    loop = asyncio.get_running_loop()
    if loop not in _clients:
        # how long an answer may take is for those to say who know the run
        timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        limits = httpx.Limits(max_connections=None)  # --concurrency is the limit
        _clients[loop] = httpx.AsyncClient(timeout=timeout, limits=limits)
    return _clients[loop]
