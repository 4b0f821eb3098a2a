"""The listener: it does not flood the server with connections."""

from __future__ import annotations

import functools
import os
import selectors
import time
from collections.abc import Iterator
from typing import Any, cast

import psycopg
import pytest

from peers.database.backoff import Backoff
from peers.database.deadlines import BoundedConnection
from peers.errors import DatabaseUnreachable
from peers.events import name_of
from peers.peer import listener as module
from peers.peer.listener import Listener

PATIENCE = 30.0
SHORT = 0.02


class Server:
    """A server that ends each connection as soon as it listens, or refuses it."""

    def __init__(self) -> None:
        self.connected: list[float] = []
        self.refuses: Exception | None = None

    def connect(self) -> BoundedConnection:
        """Count a connection, or refuse it."""
        self.connected.append(time.monotonic())
        if self.refuses is not None:
            raise self.refuses
        return cast("BoundedConnection", _CutOff())


class _CutOff:
    def __init__(self) -> None:
        self._read, write = os.pipe()
        os.close(write)  # readable at once: the end

    def fileno(self) -> int:
        return self._read

    def notifies(self, timeout: float) -> Iterator[Any]:
        raise psycopg.OperationalError(f"the server closed the connection ({timeout})")

    def close(self) -> None:
        os.close(self._read)


@pytest.mark.parametrize("refuses", [None, DatabaseUnreachable("no"), OSError(24, "no files")])
def test_a_listener_that_is_disconnected_repeatedly_waits_longer_each_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refuses: Exception | None
) -> None:
    """A connection that works for a moment only does not reset the backoff. The failure is logged,
    but not each time.
    """
    patient = functools.partial(Backoff, luck=lambda: 1.0)
    monkeypatch.setattr(module, "Backoff", lambda base, cap: patient(base=base * SHORT, cap=cap))
    server = Server()
    server.refuses = refuses
    with selectors.DefaultSelector() as selector:
        listener = Listener(server.connect, selector, lambda _: None, lambda: None)
        give_up = time.monotonic() + PATIENCE
        while len(server.connected) < 5:
            assert time.monotonic() < give_up
            listener.ensure()
            for key, _ in selector.select(0.001) if selector.get_map() else ():
                key.data()
        listener.close()
    first, last = server.connected[0], server.connected[-1]
    assert last - first >= SHORT * (1 + 2 + 4 + 8) * 0.9
    told = [record for record in caplog.records if name_of(record) == "listener_failed"]
    assert len(told) >= 1
    if refuses is not None:
        assert len(told) == 1
