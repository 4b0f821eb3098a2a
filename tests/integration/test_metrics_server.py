"""The HTTP server of a peer: three pages, whatever its readers do."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from peers.errors import ConfigError
from peers.metrics import http_server
from peers.metrics.http_server import Endpoints, Health, MetricsServer
from tests.support.cli import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable


def get(server: MetricsServer, path: str) -> tuple[int, str]:
    """The status and the body of a page."""
    try:
        with urllib.request.urlopen(f"http://{server.address}{path}", timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def endpoints(*, ready: bool = True) -> Endpoints:
    """Endpoints of a healthy peer."""
    return Endpoints(
        lambda _: (b"peers_x 1\n", "text/plain"),
        lambda: Health(passes=True, message="ok"),
        lambda: Health(passes=ready, message="ready" if ready else "draining"),
    )


def test_the_server_has_three_pages() -> None:
    """A check that fails has status 503 and says why."""
    server = MetricsServer("127.0.0.1", 0, endpoints(ready=False), or_next=False)
    try:
        assert get(server, "/metrics?x=1") == (200, "peers_x 1\n")
        assert get(server, "/healthz") == (200, "ok\n")
        assert get(server, "/readyz") == (503, "draining\n")
        assert get(server, "/")[0] == 404
    finally:
        server.close()


def test_a_reader_that_says_nothing_stops_no_other() -> None:
    """Not even several of them."""
    server = MetricsServer("127.0.0.1", 0, endpoints(), or_next=False)
    host, port = server.address.split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(5)]
    try:
        assert get(server, "/healthz") == (200, "ok\n")
    finally:
        for each in silent:
            each.close()
        server.close()


def _begin_a_request(reader: socket.socket) -> None:
    reader.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")


def _send_garbage(reader: socket.socket) -> None:
    reader.sendall(b"\x16\x03\x01\x00\xff" * 1000)


def _never_read(reader: socket.socket) -> None:
    reader.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("begin", [lambda _: None, _begin_a_request, _send_garbage, _never_read])
def test_slow_readers_keep_no_probe_out(begin: Callable[[socket.socket], None]) -> None:
    """A refused probe would have a working peer restarted. So the slowest reader is cut off."""
    large = endpoints()._replace(metrics=lambda _: (b"x" * (64 << 20), "text/plain"))
    server = MetricsServer("127.0.0.1", 0, large, or_next=False)
    host, port = server.address.split(":")
    slow = []
    try:
        for _ in range(3 * http_server._MOST_REQUESTS):
            slow.append(socket.create_connection((host, int(port))))
            begin(slow[-1])
        for _ in range(3):
            assert get(server, "/healthz") == (200, "ok\n")
    finally:
        for each in slow:
            each.close()
        server.close()


def test_pages_that_the_peer_makes_are_never_more_than_the_bound() -> None:
    """A reader is only cut off while the peer waits for it: pages in the making stay bounded."""
    gate = threading.Event()
    making: list[str] = []

    def slow_page(accept: str) -> tuple[bytes, str]:
        making.append(accept)
        gate.wait(PATIENCE)
        return b"peers_x 1\n", "text/plain"

    server = MetricsServer("127.0.0.1", 0, endpoints()._replace(metrics=slow_page), or_next=False)
    host, port = server.address.split(":")
    readers = []
    try:
        for _ in range(http_server._MOST_REQUESTS):
            readers.append(socket.create_connection((host, int(port))))
            readers[-1].sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        until(lambda: len(making) == http_server._MOST_REQUESTS, "the pages to be made")
        with socket.create_connection((host, int(port))) as refused:
            assert refused.recv(1) == b""
        gate.set()
        assert all(reader.recv(12) == b"HTTP/1.0 200" for reader in readers)
    finally:
        gate.set()
        for each in readers:
            each.close()
        server.close()


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/"])
def test_head_returns_the_status_without_the_page(path: str) -> None:
    """Some load balancers probe with HEAD."""
    server = MetricsServer("127.0.0.1", 0, endpoints(ready=False), or_next=False)
    host, port = server.address.split(":")
    try:
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        connection.request("HEAD", path)
        reply = connection.getresponse()
        assert (reply.status, reply.read()) == (get(server, path)[0], b"")
        assert int(reply.headers["Content-Length"]) > 0
    finally:
        server.close()


def test_a_port_in_use_is_a_configuration_error() -> None:
    """With a plus, the peer takes the next one."""
    first = MetricsServer("127.0.0.1", 0, endpoints(), or_next=False)
    port = int(first.address.split(":")[1])
    try:
        with pytest.raises(ConfigError, match="Address already in use") as error:
            MetricsServer("127.0.0.1", port, endpoints(), or_next=False)
        assert error.value.exit_code == 78
        second = MetricsServer("127.0.0.1", port, endpoints(), or_next=True)
        assert int(second.address.split(":")[1]) > port
        second.close()
    finally:
        first.close()
