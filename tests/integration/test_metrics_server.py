"""The HTTP server of a peer: three pages, whatever its readers do."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest

from peers.errors import ConfigError
from peers.metrics.http_server import Endpoints, Health, MetricsServer


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
