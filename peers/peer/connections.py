"""Make the connections of a peer: each has one purpose, and bounds that suit it."""

from __future__ import annotations

import contextlib
from typing import Final

from peers.database.connection import begin_session, connect, share_session
from peers.database.deadlines import BoundedConnection, Bounds
from peers.database.pooler import SYMPTOMS, is_pooled
from peers.settings import Settings

LISTEN: Final = "listen peers"
_CONNECTS_PER_LEASE: Final = 6  # connecting may take a sixth of a lease


class Connections:
    """Makes connections. Every method raises what `peers.database.connection.connect` raises.

    A peer has two: one for its heartbeat, and one for everything else, which also listens. Behind a
    pooler that lends sessions for one transaction, no connection can listen. Then a third one, to
    `listen_url`, does.
    """

    def __init__(self, settings: Settings, watchdog: float = float("inf")) -> None:
        """Make connections whose heartbeat fails before `watchdog` seconds without one are over."""
        self._settings = settings
        lease = settings.lease_timeout.total_seconds()
        self._connect_timeout = min(lease, watchdog) / _CONNECTS_PER_LEASE
        self._main_bounds = Bounds.of_main_loop(lease)
        self._heartbeat_bounds = Bounds.of_heartbeat(min(lease, watchdog))
        self.is_pooled = False
        """Whether a pooler lends the sessions, for one transaction each."""

    @property
    def needs_listener(self) -> bool:
        """Return whether a connection of its own listens for notifications."""
        return self.is_pooled and self._settings.listen_url is not None

    def main(self) -> BoundedConnection:
        """Connect for the main loop: claims, outcomes, maintenance and notifications."""
        connection = self.make("main", self._main_bounds)
        return connection if connection.pooled else _listening(connection)

    def heartbeat(self) -> BoundedConnection:
        """Connect for the heartbeat."""
        return self.make("heartbeat", self._heartbeat_bounds)

    def peek(self) -> BoundedConnection:
        """Connect to reply to operators who ask what a handler does."""
        return self.make("peek", self._heartbeat_bounds)

    def listener(self) -> BoundedConnection:
        """Connect for notifications alone, not through the pooler."""
        url = self._settings.listen_url
        assert url is not None
        return _listening(
            connect(
                url.get_secret_value(), application_name="peers listener",
                connect_timeout=self._connect_timeout, bounds=self._main_bounds,
            )
        )  # fmt: skip

    def make(self, purpose: str, bounds: Bounds | None) -> BoundedConnection:
        """Connect for a purpose, which pg_stat_activity shows in application_name."""
        return self._make(purpose, bounds, pooled=self.is_pooled)

    def first(self) -> tuple[BoundedConnection, BoundedConnection]:
        """Connect for the main loop and for the heartbeat, which every peer needs to join.

        Sessions are left as they are until it is clear that they are our own. Raises `ConfigError`
        for a pooler that refuses transactions.
        """
        bounds = self._main_bounds, self._heartbeat_bounds
        with contextlib.ExitStack() as undo:
            main, heartbeat = both = [
                undo.enter_context(contextlib.closing(self._make(purpose, None, pooled=True)))
                for purpose in ("main", "heartbeat")
            ]
            for connection in both:
                connection.answer_within = self._connect_timeout
            self.is_pooled = is_pooled(main, heartbeat)
            for connection, each in zip(both, bounds, strict=True):
                if self.is_pooled:
                    share_session(connection, each)
                else:
                    begin_session(connection, self._connect_timeout, each)
            if not self.is_pooled:
                main.execute(LISTEN)
            undo.pop_all()
        return main, heartbeat

    def note_error(self, error: BaseException) -> None:
        """Expect a pooler from now on if the error shows that one has exchanged our session."""
        self.is_pooled = self.is_pooled or isinstance(error, SYMPTOMS)

    def _make(self, purpose: str, bounds: Bounds | None, *, pooled: bool) -> BoundedConnection:
        return connect(
            self._settings.url, application_name=f"peers {purpose}",
            connect_timeout=self._connect_timeout, bounds=bounds, pooled=pooled,
        )  # fmt: skip


def _listening(connection: BoundedConnection) -> BoundedConnection:
    try:
        connection.execute(LISTEN)
    except BaseException:
        connection.close()
        raise
    return connection


def close_all(connections: tuple[BoundedConnection, ...]) -> None:
    """Close these connections."""
    for connection in connections:
        connection.close()
