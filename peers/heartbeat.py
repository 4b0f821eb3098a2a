"""The heartbeat: a thread of its own, with a connection of its own.

It proves two things at once: that this process reaches the database, and that its main loop turns.
When either stays away too long the lease will end, and the peer fences itself: its workers are
killed before another peer can take their tasks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg

from peers import events, kernel
from peers.db import Backoff, Connection, is_connection_lost
from peers.errors import PeersError
from peers.model import Heartbeat as Beat

# Workers are killed when this much of the lease is over: the rest is for the killing.
_FENCE_AT: Final = 0.85
_GUARD_EVERY: Final = 0.05
# The main loop must have turned within this part of a lease, or there is no beat.
_TURN_WITHIN: Final = 1 / 3


def boottime() -> float:
    """Seconds on a clock that no one sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Watch:
    """What the heartbeat calls, from its own thread."""

    on_beat: Callable[[UUID, Beat], None]
    on_expiry: Callable[[float], None]
    """With the seconds since the last renewal."""
    on_silence: Callable[[], None]
    """There was no answer; the next try follows."""


class Heartbeat:
    """Renews the peer's lease until it is stopped."""

    def __init__(
        self, connect: Callable[[], Connection], lease: timedelta, interval: timedelta, watch: Watch
    ) -> None:
        self._connect = connect
        self._lease = lease.total_seconds()
        self._interval = interval.total_seconds()
        self._watch = watch
        self._connection: Connection | None = None
        self._backoff = Backoff(cap=min(5.0, self._interval / 2))
        self._peer_id: UUID | None = None
        self._renewed_at = boottime()
        self._turned_at = boottime()
        self._fenced = False
        self._stalled = False
        self._stopping = False
        self._called = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._guard = threading.Thread(target=self._stand_guard, name="fence", daemon=True)

    def start(self, peer_id: UUID, joined_at: float) -> None:
        """Beat for this identity, which was joined at (or after) `joined_at` (boottime)."""
        self._renewed_at = joined_at
        self._fenced = False
        self._peer_id = peer_id
        if not self._thread.is_alive():
            self._thread.start()
            self._guard.start()

    def stop(self) -> None:
        """No beat after this."""
        self._stopping = True
        self._ended.set()
        self._called.set()
        if self._thread.is_alive():
            self._thread.join(self._interval)

    def turned(self) -> None:
        """The main loop has turned."""
        self._turned_at = boottime()

    def beat_now(self) -> None:
        """There is news: do not wait for the next beat."""
        self._called.set()

    @property
    def fenced(self) -> bool:
        """Whether the lease ran out (or nearly), so that the workers had to be killed."""
        return self._fenced

    def unfence(self) -> None:
        """The lease turned out to hold, and the workers are buried."""
        self._fenced = False

    def _stand_guard(self) -> None:
        """In a thread of its own, since the others may hang in the database: fence in time."""
        while not self._ended.wait(max(_GUARD_EVERY, self._fence_time() - boottime())):
            self._check()

    def _check(self) -> None:
        if not self._fenced and self._peer_id is not None and boottime() > self._fence_time():
            self._fenced = True
            self._watch.on_expiry(boottime() - self._renewed_at)

    def _fence_time(self) -> float:
        return self._renewed_at + self._lease * _FENCE_AT

    def _run(self) -> None:
        while not self._stopping:
            wait = self._beat() if self._main_loop_turns() else self._interval / 4
            self._called.wait(wait)
            self._called.clear()
        if self._connection is not None:
            self._connection.close()

    def _main_loop_turns(self) -> bool:
        still = boottime() - self._turned_at
        if still > self._lease * _TURN_WITHIN:
            if not self._stalled:
                events.main_loop_stalled(seconds=still, limit=self._lease * _TURN_WITHIN)
            self._stalled = True
        else:
            self._stalled = False
        return not self._stalled

    def _beat(self) -> float:
        """Renew; answers how long to wait before the next one."""
        peer_id = self._peer_id
        sent_at = boottime()
        try:
            if self._connection is None:
                self._connection = self._connect()
            assert peer_id is not None
            beat = kernel.heartbeat(self._connection, peer_id)
        except (psycopg.Error, PeersError) as error:
            self._drop(error)
            self._watch.on_silence()
            return self._backoff.next()
        self._backoff.reset()
        if peer_id == self._peer_id:
            if beat.alive:
                # counted from before it was sent: the database's lease began no earlier
                self._renewed_at = sent_at
            self._watch.on_beat(peer_id, beat)
        return self._interval

    def _drop(self, error: Exception) -> None:
        if not is_connection_lost(error):
            events.chore_failed(chore="heartbeat", error=str(error))
        if self._connection is not None:
            self._connection.close()
            self._connection = None
