"""The heartbeat proves two things at once: the database is reached, and the main loop turns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import UUID

import pytest

from peers.database import functions
from peers.database.connection import connect
from peers.database.rows import HeartbeatReply
from peers.peer.heartbeat import Heartbeat, HeartbeatCallbacks, boottime
from peers.types import KindPolicy
from tests.support.server import Connection

LEASE = timedelta(seconds=1.5)
PATIENCE = 60.0


class Heard:
    """What a heartbeat told, and the events to wait for."""

    def __init__(self) -> None:
        self.beats = 0
        self.many = threading.Event()
        self.expired = threading.Event()

    def on_reply(self, _peer: UUID, beat: HeartbeatReply) -> None:
        """An answer came."""
        assert beat.alive
        self.beats += 1
        if self.beats >= 12:  # more than two leases' worth
            self.many.set()

    def on_expiry(self, _silent: float) -> None:
        """It is time to fence."""
        self.expired.set()


@pytest.fixture
def heard() -> Heard:
    """Nothing yet."""
    return Heard()


@pytest.fixture
def heartbeat(database_url: str, heard: Heard) -> Iterator[Callable[[], Heartbeat]]:
    """Starts the heartbeat of a peer that has just joined."""
    made: list[Heartbeat] = []

    def start() -> Heartbeat:
        joined_at = boottime()
        with connect(database_url, application_name="test") as connection:
            kinds = [KindPolicy("a")]
            peer_id = functions.join(connection, "here", 1, {"default": 1}, kinds, LEASE)
        beating = Heartbeat(
            lambda: connect(database_url, application_name="test heartbeat"),
            LEASE, LEASE / 6,
            HeartbeatCallbacks(heard.on_reply, heard.on_expiry, lambda _silent: None),
        )  # fmt: skip
        made.append(beating)
        beating.note_turn()
        beating.start(peer_id, joined_at)
        return beating

    yield start
    for each in made:
        each.stop()


def test_a_main_loop_that_stands_still_ends_the_beats_and_fences(
    heartbeat: Callable[[], Heartbeat], heard: Heard, db: Connection
) -> None:
    """Nobody says that the loop turns: the lease is not renewed any more, and the workers are
    killed before it ends by the database's clock.
    """
    beating = heartbeat()
    assert heard.expired.wait(PATIENCE)
    assert beating.fenced
    assert not heard.many.is_set()
    [row] = db.execute("select heartbeat_at - joined_at < lease_timeout as early from peers.peer")
    assert row["early"]


def test_a_beat_without_a_turning_loop_would_go_on_for_ever(
    heartbeat: Callable[[], Heartbeat], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken variant: when the loop is not asked for, a hung peer keeps its leases."""
    monkeypatch.setattr(Heartbeat, "_check_main_loop", lambda _self: True)
    heartbeat()
    assert heard.many.wait(PATIENCE)
    assert not heard.expired.is_set()
