"""The connections of a peer: a handful, each with one duty and with bounds that suit it."""

from __future__ import annotations

import contextlib
from typing import Final

from peers.database.connection import connect
from peers.database.deadlines import BoundedConnection, Bounds
from peers.database.pooler import refuse_pooler
from peers.settings import Settings

_PATIENCE_OF_LEASE: Final = 6  # connecting may take a sixth of a lease


class Connections:
    """Makes them. Raises what `peers.database.connection.connect` raises."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lease = settings.lease_timeout.total_seconds()

    def main(self) -> BoundedConnection:
        """For the main loop: claims and outcomes."""
        return self.make("main", Bounds.of_main_loop(self._lease))

    def heartbeat(self) -> BoundedConnection:
        """For the heartbeat."""
        return self.make("heartbeat", Bounds.of_heartbeat(self._lease))

    def listener(self) -> BoundedConnection:
        """For LISTEN."""
        return self.make("listener", Bounds.of_main_loop(self._lease))

    def make(self, duty: str, bounds: Bounds | None) -> BoundedConnection:
        """For this duty, which pg_stat_activity shows as the application's name."""
        return connect(
            self._settings.url, application_name=f"peers {duty}",
            patience=self._lease / _PATIENCE_OF_LEASE, bounds=bounds,
        )  # fmt: skip

    def first(self) -> tuple[BoundedConnection, BoundedConnection]:
        """Return the two without which no peer should join: for the main loop, for the heartbeat.

        Raises `ConfigError` when a pooler in between does not keep them apart.
        """
        with contextlib.ExitStack() as undo:
            main = undo.enter_context(contextlib.closing(self.main()))
            beats = undo.enter_context(contextlib.closing(self.heartbeat()))
            refuse_pooler(main, beats)
            undo.pop_all()
        return main, beats


def close_all(connections: tuple[BoundedConnection, ...]) -> None:
    """Close each of them."""
    for connection in connections:
        connection.close()
