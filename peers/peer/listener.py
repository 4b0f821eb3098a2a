"""Receive notifications on a connection of their own, where the main loop's goes through a pooler.

Notifications are only hints. Without them polling finds the tasks.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from typing import Final

import psycopg

from peers import events
from peers.database.background import BackgroundConnector
from peers.database.backoff import Backoff
from peers.database.deadlines import BoundedConnection
from peers.errors import PeersError

CANCEL: Final = "cancel"
"""The payload of a notification that a running task was cancelled."""
PEEK: Final = "peek "
"""How the payload of a notification begins that an operator asks a peer; the peer's id follows."""
LIMITS: Final = "limits"
"""The payload of a notification that limits have changed."""
LOG: Final = "log "
"""How the payload of a notification begins that a task's log is followed. Its id follows."""
_RETRY_MAX: Final = 30.0


class Listener:
    """Calls `on_notify` for each notification, with its payload.

    `connect` returns a connection that listens. It is called in the background, because the main
    loop need not wait for hints. It calls `wake` from another thread when a try has ended.
    """

    def __init__(
        self,
        connect: Callable[[], BoundedConnection],
        selector: selectors.BaseSelector,
        on_notify: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self._selector = selector
        self._on_notify = on_notify
        self._connector = BackgroundConnector(connect, wake, Backoff(base=1.0, cap=_RETRY_MAX))
        self._connection: BoundedConnection | None = None
        self._fd = -1
        self._opened_at = 0.0
        self._logged = False

    @property
    def is_up(self) -> bool:
        """Return whether there is a connection, as far as we know."""
        return self._connection is not None

    def ensure(self) -> None:
        """Connect if there is no connection and a try is due."""
        if self._connection is not None:
            return
        try:
            connection = self._connector.poll()
            if connection is not None:
                self._open(connection)
        except (psycopg.Error, PeersError, OSError, RuntimeError) as error:
            self._note_failure(error)

    def close(self) -> None:
        """Stop listening."""
        self._connector.cancel()
        self._disconnect()

    def _open(self, connection: BoundedConnection) -> None:
        self._fd = connection.fileno()  # kept: a broken connection no longer knows it
        try:
            self._selector.register(self._fd, selectors.EVENT_READ, self._receive)
        except OSError:
            connection.close()
            raise
        self._connection = connection
        self._opened_at = time.monotonic()
        self._logged = False
        self._on_notify("")  # tasks may have come while nobody listened

    def _note_failure(self, error: Exception) -> None:
        wait = self._connector.failed()
        if not self._logged:
            self._logged = True
            events.listener_failed(reason=str(error).strip(), retry_in=wait)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._selector.unregister(self._fd)
            connection.close()

    def _receive(self) -> None:
        assert self._connection is not None
        try:
            for notify in self._connection.notifies(timeout=0):
                self._on_notify(notify.payload)
        except psycopg.Error as error:
            self._disconnect()
            if time.monotonic() - self._opened_at > _RETRY_MAX:  # it had worked for a while
                self._connector.succeeded()
                self._connector.retry_now()
            else:
                self._note_failure(error)
