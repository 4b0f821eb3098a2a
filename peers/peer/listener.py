"""The listener: LISTEN on a connection of its own, seen by the main loop's selector.

Only a hint. Without it (a pooler that cannot LISTEN, a lost connection) polling finds the work.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from typing import Final

import psycopg

from peers import events
from peers.database.background import Background
from peers.database.connection import Backoff
from peers.database.deadlines import BoundedConnection
from peers.errors import PeersError

CANCEL = "cancel"
"""The payload that says: somebody was asked to stop."""
_RETRY_CAP: Final = 30.0


class Listener:
    """Calls `ring` for each hint, with its payload; `wake`, from another thread, when it may do so.

    It connects in the background: the main loop need not wait for a hint.
    """

    def __init__(
        self,
        connect: Callable[[], BoundedConnection],
        selector: selectors.BaseSelector,
        ring: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._selector = selector
        self._ring = ring
        self._wake = wake
        self._connection: BoundedConnection | None = None
        self._attempt: Background[BoundedConnection] | None = None
        self._fd = -1
        self._backoff = Backoff(base=1.0, cap=_RETRY_CAP)
        self._again_at = 0.0
        self._opened_at = 0.0
        self._told = False

    def ensure(self) -> None:
        """Listen, unless a try has failed a moment ago."""
        if self._connection is not None:
            return
        try:
            if self._attempt is None and time.monotonic() >= self._again_at:
                self._attempt = Background(
                    self._listen, lambda connection: connection.close(), self._wake
                )
            if self._attempt is not None and self._attempt.over:
                attempt, self._attempt = self._attempt, None
                self._open(attempt.take())
        except (psycopg.Error, PeersError, OSError, RuntimeError) as error:
            self._fail(str(error).strip())

    def close(self) -> None:
        """Listen no more."""
        if self._attempt is not None:
            self._attempt.give_up()
            self._attempt = None
        self._hang_up()

    def _listen(self) -> BoundedConnection:
        """In the background."""
        connection = self._connect()
        try:
            connection.execute("listen peers")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self, connection: BoundedConnection) -> None:
        self._fd = connection.fileno()  # a broken connection does not know it any more
        try:
            self._selector.register(self._fd, selectors.EVENT_READ, self._hear)
        except OSError:
            connection.close()
            raise
        self._connection = connection
        self._opened_at = time.monotonic()
        self._told = False
        self._ring("")  # what came while nobody listened

    def _fail(self, reason: str) -> None:
        wait = self._backoff.next()
        self._again_at = time.monotonic() + wait
        if not self._told:
            self._told = True
            events.listener_lost(reason=reason, retry_in=wait)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._selector.unregister(self._fd)
            connection.close()

    def _hear(self) -> None:
        assert self._connection is not None
        try:
            for notify in self._connection.notifies(timeout=0):
                self._ring(notify.payload)
        except psycopg.Error as error:
            self._hang_up()
            if time.monotonic() - self._opened_at > _RETRY_CAP:
                self._backoff.reset()  # it had worked
                self._again_at = 0.0
            else:
                self._fail(str(error).strip())
