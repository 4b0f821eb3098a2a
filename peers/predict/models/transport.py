"""Send requests to an endpoint, and decide what each kind of response means for the rows."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin, urlsplit
from weakref import WeakKeyDictionary

from peers.predict.errors import EndpointError, ModelError, RowError
from peers.predict.models.access import Credentials
from peers.predict.texts import error_text, shortened

if TYPE_CHECKING:
    import httpx

    from peers.predict.spec import Access

_CONNECT_SECONDS: Final = 5.0
_DEFAULT_WAIT: Final = 1.0
_SHORTEST_WAIT: Final = 0.1
"""Used as well when the endpoint names a time that has passed."""
_LONGEST_WAIT: Final = 3600.0
_SHOWN: Final = 500
_MOST_REDIRECTS: Final = 5
_MOVED: Final = (307, 308)
"""Only these keep the method and the body; after 301, 302 and 303 a client sends a GET."""
_SUCCESS: Final = range(200, 300)
_ELSEWHERE: Final = range(300, 400)
_UNAUTHORIZED: Final = 401
BAD_INPUT: Final = (400, 413, 422)
BAD_REQUEST: Final = (*BAD_INPUT, 404, 405, 409, 410, 415)
"""For a protocol in which each row has a URL of its own."""
_NOT_NOW: Final = (408, 425)
_TOO_MANY: Final = 429
_AWAY: Final = (502, 503, 504)
_SERVER_ERROR: Final = 500
_PORTS: Final = {"http": 80, "https": 443}

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()


class Busy(Exception):  # noqa: N818 - the name says what happened
    """The endpoint asks its clients to wait for `seconds`."""

    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(f"{url} is busy: retry after {seconds:g} s")
        self.seconds = seconds


class Unavailable(Exception):  # noqa: N818 - the name says what happened
    """The endpoint cannot be reached, or its proxy says that it is unavailable."""


@dataclass(frozen=True, slots=True)
class Response:
    """A successful response: its status, its headers, and its JSON."""

    status: int
    headers: Mapping[str, str]
    json: Any
    text: str
    """Its text for messages, shortened."""


class Transport:
    """Requests to one endpoint, with its headers and secrets."""

    def __init__(
        self, url: str, access: Access, rows_fault: Collection[int] = BAD_INPUT
    ) -> None:  # fmt: skip
        self._origin = origin(url)
        self._headers = dict(access.headers)
        self._credentials = Credentials(access)
        self._rows_fault = rows_fault

    async def get(self, url: str) -> Response:
        """Send a GET and return the response. Raises the errors of `post`."""
        return await self._request("GET", url, None)

    async def post(self, url: str, body: bytes) -> Response:
        """Send a POST with this JSON and return the response.

        Raises Busy for 429, and for 503 with a Retry-After; Unavailable if the endpoint cannot be
        reached, and for 502, 503 and 504; RowError if it refuses the rows, or that many (400, 413,
        422); EndpointError if it fails for any reason (another 5xx, 408, 425, or an incomplete
        response); ModelError otherwise. No message contains a secret.
        """
        return await self._request("POST", url, body)

    async def _request(self, method: str, url: str, body: bytes | None) -> Response:
        response = await self._send(method, url, body)
        if response.status_code == _UNAUTHORIZED and self._credentials.reread():
            response = await self._send(method, url, body)
        self._refuse(url, response)
        text = self._shown(response)
        try:
            return Response(response.status_code, response.headers, response.json(), text)
        except ValueError as error:
            raise ModelError(f"{url} returned something that is not JSON: {text}") from error

    async def _send(self, method: str, url: str, body: bytes | None) -> httpx.Response:
        """Return the response, following redirects."""
        place = url
        for _ in range(_MOST_REDIRECTS):
            response = await self._send_to(method, place, body)
            location = response.headers.get("location")
            if response.status_code not in _MOVED or location is None:
                return response
            place = urljoin(place, location)
            if origin(place)[0] not in _PORTS:
                raise ModelError(
                    f"{url} redirects to {shortened(place, _SHOWN)}, which is not a URL"
                )
        raise ModelError(f"{url} redirects more than {_MOST_REDIRECTS} times")

    async def _send_to(self, method: str, url: str, body: bytes | None) -> httpx.Response:
        import httpx

        headers = {} if body is None else {"content-type": "application/json"}
        if origin(url) == self._origin:  # no other host gets them, even after a redirect
            headers |= self._headers | self._credentials.headers()
        try:
            return await _client().request(method, url, content=body, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unavailable(f"{url} cannot be reached: {self._error_text(error)}") from error
        except httpx.HTTPError as error:
            raise EndpointError(f"{url} does not respond: {self._error_text(error)}") from error

    def _refuse(self, url: str, response: httpx.Response) -> None:
        status = response.status_code
        if status in _SUCCESS:
            return
        wait = retry_after(response.headers)
        if status == _TOO_MANY or (status in _AWAY and wait is not None):
            seconds = _DEFAULT_WAIT if wait is None else wait
            raise Busy(url, min(max(seconds, _SHORTEST_WAIT), _LONGEST_WAIT))
        said = f"{url} returned {status}: {self._shown(response)}"
        if status in self._rows_fault:
            raise RowError(said)
        if status in _AWAY:
            raise Unavailable(said)
        if status >= _SERVER_ERROR or status in _NOT_NOW:
            raise EndpointError(said)
        if status in _ELSEWHERE:
            place = shortened(response.headers.get("location", "nowhere"), _SHOWN)
            raise ModelError(
                f"{url} returned {status} and redirects to {place}", "Use that URL as --model."
            )
        raise ModelError(said, "Check the URL, and --token-file or --header-file.")

    def _shown(self, response: httpx.Response) -> str:
        return shortened(self._credentials.hidden(response.text), _SHOWN)

    def _error_text(self, error: Exception) -> str:
        return self._credentials.hidden(error_text(error, _SHOWN))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in Retry-After; None without it.

    A date is compared with the response's own Date, since host clocks drift.
    """
    header = headers.get("retry-after", "").strip()
    if header.isdecimal():
        return float(header)
    try:
        until, now = parsedate_to_datetime(header), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):
        return None


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port of the URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _client() -> httpx.AsyncClient:
    """Return the client of this event loop, which keeps its connections."""
    import httpx

    loop = asyncio.get_running_loop()
    if loop not in _clients:
        # the caller limits the time of the whole response
        timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        limits = httpx.Limits(max_connections=None)  # --concurrency is the limit
        _clients[loop] = httpx.AsyncClient(timeout=timeout, limits=limits)
    return _clients[loop]
