"""The doorbell: a hint that is not worth a storm of connections."""

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
    """Ends each connection as soon as it listens, or takes none."""

    def __init__(self) -> None:
        self.connected: list[float] = []
        self.refuses: Exception | None = None

    def connect(self) -> BoundedConnection:
        """Once more."""
        self.connected.append(time.monotonic())
        if self.refuses is not None:
            raise self.refuses
        return cast("BoundedConnection", _CutOff())


class _CutOff:
    def __init__(self) -> None:
        self._read, write = os.pipe()
        os.close(write)  # readable at once: the end

    def execute(self, _statement: str) -> None:
        pass

    def fileno(self) -> int:
        return self._read

    def notifies(self, timeout: float) -> Iterator[Any]:
        raise psycopg.OperationalError(f"the server closed the connection ({timeout})")

    def close(self) -> None:
        os.close(self._read)


@pytest.mark.parametrize("refuses", [None, DatabaseUnreachable("no"), OSError(24, "no files")])
def test_a_listener_that_is_cut_off_again_and_again_waits_longer_and_longer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refuses: Exception | None
) -> None:
    """To have connected, even to have listened for a moment, does not begin with the shortest wait
    again; that nothing is heard is told, but not each time.
    """
    patient = functools.partial(Backoff, luck=lambda: 1.0)
    monkeypatch.setattr(module, "Backoff", lambda base, cap: patient(base=base * SHORT, cap=cap))
    server = Server()
    server.refuses = refuses
    with selectors.DefaultSelector() as selector:
        bell = Listener(server.connect, selector, lambda _: None, lambda: None)
        give_up = time.monotonic() + PATIENCE
        while len(server.connected) < 5:
            assert time.monotonic() < give_up
            bell.ensure()
            for key, _ in selector.select(0.001) if selector.get_map() else ():
                key.data()
        bell.close()
    first, last = server.connected[0], server.connected[-1]
    assert last - first >= SHORT * (1 + 2 + 4 + 8) * 0.9
    told = [record for record in caplog.records if name_of(record) == "listener_failed"]
    assert len(told) >= 1
    if refuses is not None:
        assert len(told) == 1
