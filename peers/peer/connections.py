"""Make the connections of a peer: each has one purpose, and bounds that suit it."""

from __future__ import annotations

import contextlib
from typing import Final

from peers.database.connection import connect
from peers.database.deadlines import BoundedConnection, Bounds
from peers.database.pooler import refuse_pooler
from peers.settings import Settings

_CONNECTS_PER_LEASE: Final = 6  # connecting may take a sixth of a lease


class Connections:
    """Makes connections. Every method raises what `peers.database.connection.connect` raises."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lease = settings.lease_timeout.total_seconds()

    def main(self) -> BoundedConnection:
        """Connect for the main loop: claims and outcomes."""
        return self.make("main", Bounds.of_main_loop(self._lease))

    def heartbeat(self) -> BoundedConnection:
        """Connect for the heartbeat."""
        return self.make("heartbeat", Bounds.of_heartbeat(self._lease))

    def listener(self) -> BoundedConnection:
        """Connect for LISTEN."""
        return self.make("listener", Bounds.of_main_loop(self._lease))

    def make(self, purpose: str, bounds: Bounds | None) -> BoundedConnection:
        """Connect for a purpose, which pg_stat_activity shows in application_name."""
        return connect(
            self._settings.url, application_name=f"peers {purpose}",
            connect_timeout=self._lease / _CONNECTS_PER_LEASE, bounds=bounds,
        )  # fmt: skip

    def first(self) -> tuple[BoundedConnection, BoundedConnection]:
        """Connect for the main loop and for the heartbeat, which every peer needs to join.

        Raises `ConfigError` when a pooler in between exchanges their sessions.
        """
        with contextlib.ExitStack() as undo:
            main = undo.enter_context(contextlib.closing(self.main()))
            heartbeat = undo.enter_context(contextlib.closing(self.heartbeat()))
            refuse_pooler(main, heartbeat)
            undo.pop_all()
        return main, heartbeat


def close_all(connections: tuple[BoundedConnection, ...]) -> None:
    """Close these connections."""
    for connection in connections:
        connection.close()
