"""Serve /metrics, /healthz and /readyz from threads of their own."""

from __future__ import annotations

import contextlib
import errno
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Final, NamedTuple

from peers.errors import ConfigError

Page = Callable[[str], tuple[bytes, str]]
"""It takes the content types that the reader accepts, and returns a page and its content type."""

_Connection = socket.socket | tuple[bytes, socket.socket]
"""As socketserver has it: the second form is of datagrams, which do not occur."""

_TRIED_PORTS: Final = 100
_MOST_REQUESTS: Final = 8
"""At once, so that readers cannot exhaust the peer's memory. For a new one, the oldest whose reader
is slow is cut off: slow readers must not keep the probes of /healthz out."""
_CUT_OFF_SECONDS: Final = 1.0
_REQUEST_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 0.2
_TEXT: Final = "text/plain; charset=utf-8"


class Health(NamedTuple):
    """Whether a check passes, and a sentence that says why."""

    passes: bool
    message: str


class Endpoints(NamedTuple):
    """What the server shows. The functions are called from other threads."""

    metrics: Page
    healthz: Callable[[], Health]
    readyz: Callable[[], Health]


class MetricsServer:
    """An HTTP server that never keeps the main loop or the heartbeat waiting."""

    def __init__(self, host: str, port: int, endpoints: Endpoints, *, or_next: bool) -> None:
        """Listen, so that a port that is in use ends the peer at once. Raises ConfigError.

        `or_next`: take one of the following ports if this one is in use.
        """
        self._server = _listen(host, port, endpoints, _TRIED_PORTS if or_next else 1)
        self._thread = threading.Thread(target=self._server.accept, name="metrics", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Return where it listens, such as 127.0.0.1:9187."""
        return _address(*self._server.socket.getsockname()[:2])

    def close(self) -> None:
        """Stop listening. Requests in progress end with the process."""
        self._server.stop_accepting()
        self._thread.join(_STOP_SECONDS)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(host: str, port: int, endpoints: Endpoints, tries: int) -> _Server:
    reason = ""
    for number in range(tries):
        try:
            return _Server(host, port + number, endpoints)
        except (OSError, OverflowError) as error:
            reason = str(error)
            if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
                break
    raise ConfigError(
        f"cannot listen on {_address(host, port)} for metrics: {reason}",
        'Set metrics_listen to another address. For several peers on one host: "9187+" takes the '
        "next free port.",
    )


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True  # after a restart; a port that another process listens on is refused
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self._is_closing = False
        self._free_requests = threading.BoundedSemaphore(_MOST_REQUESTS)
        self._awaited: dict[_Connection, None] = {}
        """Connections whose reader has to send or to receive something, the oldest first."""
        self._lock = threading.Lock()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def accept(self) -> None:
        """Accept requests until `stop_accepting`. It needs no poll, so that an idle peer sleeps."""
        while not self._is_closing:
            try:
                self.process_request(*self.socket.accept())
            except OSError:  # it was closed, or this process has no file descriptor left
                if not self._is_closing:
                    time.sleep(_AGAIN_SECONDS)
            except RuntimeError:  # no thread could be started
                time.sleep(_AGAIN_SECONDS)

    def stop_accepting(self) -> None:
        """Wake the thread that accepts, and close the socket."""
        self._is_closing = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: _Connection, client_address: object) -> None:
        if not self._free_requests.acquire(blocking=False) and not self._cut_off_oldest():
            self.shutdown_request(request)
            return
        self.await_reader(request)
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._release(request)
            raise

    def process_request_thread(self, request: _Connection, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._release(request)

    def await_reader(self, request: _Connection) -> None:
        """Note that the reader of this connection has to send or to receive something."""
        with self._lock:
            self._awaited[request] = None

    def stop_awaiting(self, request: _Connection) -> None:
        """Note that this connection waits for the peer, not for its reader."""
        with self._lock:
            self._awaited.pop(request, None)

    def _release(self, request: _Connection) -> None:
        self.stop_awaiting(request)
        self._free_requests.release()

    def _cut_off_oldest(self) -> bool:
        """End the connection whose reader has been slow for longest; return whether one is free."""
        with self._lock:
            oldest = next(iter(self._awaited), None)
            if oldest is None:
                return False
            del self._awaited[oldest]
            if isinstance(oldest, socket.socket):
                with contextlib.suppress(OSError):  # it has just ended
                    oldest.shutdown(socket.SHUT_RDWR)
        return self._free_requests.acquire(timeout=_CUT_OFF_SECONDS)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore readers that hang up."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_SECONDS
    server: _Server
    server_version = "peers"
    sys_version = ""

    def do_GET(self) -> None:
        self.server.stop_awaiting(self.connection)
        status, body, content_type = self._page()
        self.server.await_reader(self.connection)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:  # some load balancers probe with it
        self.do_GET()

    def _page(self) -> tuple[HTTPStatus, bytes, str]:
        endpoints = self.server.endpoints
        match self.path.partition("?")[0]:
            case "/metrics":
                return HTTPStatus.OK, *endpoints.metrics(self.headers.get("Accept", ""))
            case "/healthz":
                return _health_page(endpoints.healthz())
            case "/readyz":
                return _health_page(endpoints.readyz())
            case _:
                return HTTPStatus.NOT_FOUND, b"/metrics, /healthz or /readyz\n", _TEXT

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a page that is read every few seconds is no event."""


def _health_page(health: Health) -> tuple[HTTPStatus, bytes, str]:
    status = HTTPStatus.OK if health.passes else HTTPStatus.SERVICE_UNAVAILABLE
    return status, f"{health.message}\n".encode(), _TEXT
