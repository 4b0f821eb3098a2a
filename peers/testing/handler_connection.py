"""Perform what a handler asks for, on the connection of the inline peer."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from peers.client.transaction import LazyConnection
from peers.errors import PeersError
from peers.peer import request_verbs
from peers.testing.kill_limit import KillLimit

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


class HandlerConnection(KillLimit):
    """What replies to one handler in a drain."""

    def __init__(self, connection: SharedConnection, peer_id: UUID, claimed: Claimed) -> None:
        super().__init__()
        self._connection = connection
        self._peer_id = peer_id
        self._claimed = claimed

    def call(self, _execution_id: int, verb: str, payload: object) -> Any:
        """Perform a request, and return its reply."""
        return self._connection.execute(self._peer_id, self._claimed, verb, payload)

    def tell(self, execution_id: int, verb: str, payload: object) -> None:
        """Perform a request that has no reply. It does not raise."""
        with suppress(PeersError):
            self.call(execution_id, verb, payload)
