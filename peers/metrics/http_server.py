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

_TRIED_PORTS: Final = 100
_MOST_REQUESTS: Final = 8
"""At once. More of them are refused, so that readers cannot exhaust the peer's memory."""
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
        host, port = map(str, self._server.socket.getsockname()[:2])
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Stop listening. Requests in progress end with the process."""
        self._server.stop_accepting()
        self._thread.join(_STOP_SECONDS)


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
        f"cannot listen on {host}:{port} for metrics: {reason}",
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
        self.free_requests = threading.BoundedSemaphore(_MOST_REQUESTS)
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

    def process_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        if not self.free_requests.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self.free_requests.release()
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free_requests.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore readers that hang up."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_SECONDS
    server: _Server

    def do_GET(self) -> None:
        endpoints = self.server.endpoints
        match self.path.partition("?")[0]:
            case "/metrics":
                page, content_type = endpoints.metrics(self.headers.get("Accept", ""))
                self._send(HTTPStatus.OK, page, content_type)
            case "/healthz":
                self._send_health(endpoints.healthz())
            case "/readyz":
                self._send_health(endpoints.readyz())
            case _:
                self._send(HTTPStatus.NOT_FOUND, b"/metrics, /healthz or /readyz\n", _TEXT)

    def _send_health(self, health: Health) -> None:
        status = HTTPStatus.OK if health.passes else HTTPStatus.SERVICE_UNAVAILABLE
        self._send(status, f"{health.message}\n".encode(), _TEXT)

    def _send(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a page that is read every few seconds is no event."""
