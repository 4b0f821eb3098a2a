"""Perform what a handler asks for, on the connection of the inline peer."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from peers.client.transaction import LazyConnection
from peers.errors import PeersError
from peers.peer import request_verbs

if TYPE_CHECKING:
    from uuid import UUID

    import psycopg

    from peers.database.rows import Claimed


class SharedConnection:
    """The connection of the inline peer, for one request of a handler at a time.

    Requests of one handler may come from several threads, and each is a transaction.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = LazyConnection(lambda: connection, lambda _: None)
        self._lock = threading.Lock()

    def execute(self, peer_id: UUID, claimed: Claimed, verb: str, payload: object) -> Any:
        """Perform a request as a peer does, and return its reply."""
        body = json.dumps(payload).encode()
        with self._lock:
            reply = request_verbs.execute(self._connection, peer_id, claimed, verb, body)
        return json.loads(reply)

    def close(self) -> None:
        """Close its copy of the descriptor. The connection itself stays open."""
        self._connection.close()


class HandlerConnection:
    """What replies to one handler in a drain."""

    def __init__(self, connection: SharedConnection, peer_id: UUID, claimed: Claimed) -> None:
        self._connection = connection
        self._peer_id = peer_id
        self._claimed = claimed
        self._kill_at: float | None = None
        self._overran = False

    @property
    def overran(self) -> bool:
        """Return whether the handler ran longer than its last `kill_after` allowed."""
        self.limit(0, None)
        return self._overran

    def limit(self, _execution_id: int, seconds: float | None) -> None:
        """Note until when the handler must call `kill_after` again."""
        now = time.monotonic()
        self._overran = self._overran or (self._kill_at is not None and now > self._kill_at)
        self._kill_at = None if seconds is None else now + seconds

    def call(self, _execution_id: int, verb: str, payload: object) -> Any:
        """Perform a request, and return its reply."""
        return self._connection.execute(self._peer_id, self._claimed, verb, payload)

    def tell(self, execution_id: int, verb: str, payload: object) -> None:
        """Perform a request that has no reply. It does not raise."""
        with suppress(PeersError):
            self.call(execution_id, verb, payload)
