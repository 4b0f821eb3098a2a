"""The doorbell: LISTEN on a connection of its own, seen by the main loop's selector.

Only a hint. Without it (a pooler that cannot LISTEN, a lost connection) polling finds the work.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable

import psycopg

from peers.db import Backoff, Connection
from peers.errors import PeersError

CANCEL = "cancel"
"""The payload that says: somebody was asked to stop."""


class Doorbell:
    """Calls `ring` for each hint, with its payload."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        selector: selectors.BaseSelector,
        ring: Callable[[str], None],
    ) -> None:
        self._connect = connect
        self._selector = selector
        self._ring = ring
        self._connection: Connection | None = None
        self._fd = -1
        self._backoff = Backoff(base=1.0, cap=30.0)
        self._again_at = 0.0

    def ensure(self) -> None:
        """Listen, unless a try has failed a moment ago."""
        if self._connection is not None or time.monotonic() < self._again_at:
            return
        try:
            connection = self._connect()
            connection.execute("listen peers")
        except (psycopg.Error, PeersError):
            self._again_at = time.monotonic() + self._backoff.next()
            return
        self._backoff.reset()
        self._connection = connection
        self._fd = connection.fileno()  # a broken connection does not know it any more
        self._selector.register(self._fd, selectors.EVENT_READ, self._hear)
        self._ring("")  # what came while nobody listened

    def close(self) -> None:
        """Listen no more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._selector.unregister(self._fd)
            connection.close()

    def _hear(self) -> None:
        assert self._connection is not None
        try:
            for notify in self._connection.notifies(timeout=0):
                self._ring(notify.payload)
        except psycopg.Error:
            self.close()
