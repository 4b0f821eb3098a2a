"""Show a peer to monitoring: its metrics, and whether it is healthy and ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from peers import events
from peers.database.connection import Connection
from peers.database.deadlines import Bounds
from peers.metrics.exposition import Exposition, require_library
from peers.metrics.gauges import Gauges
from peers.metrics.http_server import Endpoints, Health, MetricsServer
from peers.peer.connections import Connections
from peers.peer.heartbeat import Heartbeat
from peers.peer.state import PeerState
from peers.settings.values import ListenAddress

_BOUNDS: Final = Bounds(lock=0.2, statement=2.0, answer=3.0)
"""Seconds. Prometheus waits 10 s for the page."""


class Monitoring:
    """The HTTP server of a peer, if one is configured."""

    def __init__(
        self, address: ListenAddress | None, state: PeerState, heartbeat: Heartbeat,
        connections: Connections,
    ) -> None:  # fmt: skip
        self._address = address
        self._state = state
        self._heartbeat = heartbeat
        self._connect: Callable[[], Connection] = lambda: connections.make("metrics", _BOUNDS)
        self._server: MetricsServer | None = None

    def start(self) -> None:
        """Listen. Raises ConfigError if the port is in use or the library is missing."""
        if self._address is None:
            return
        require_library()
        exposition = Exposition(self._state.counts, Gauges(self._connect))
        host, port, or_next = self._address
        self._server = MetricsServer(
            host, port, Endpoints(exposition.page, self._healthz, self._readyz), or_next=or_next
        )
        events.metrics_served(address=self._server.address)

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    def _healthz(self) -> Health:
        """Tell whether the process works. An outage of the database is no reason to restart it."""
        if self._heartbeat.main_loop_works:
            return Health(passes=True, message="ok")
        return Health(passes=False, message="the main loop makes no progress")

    def _readyz(self) -> Health:
        """Tell whether the peer takes tasks."""
        if self._state.draining:
            return Health(passes=False, message="draining")
        if self._state.peer_id is None:
            return Health(passes=False, message="not joined")
        if self._heartbeat.fenced or not self._heartbeat.is_recent:
            return Health(passes=False, message="the last heartbeat is too old")
        return Health(passes=True, message="ready")
