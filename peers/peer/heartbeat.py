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

from peers import events
from peers.database import functions
from peers.database.connection import Backoff
from peers.database.deadlines import BoundedConnection
from peers.database.rows import HeartbeatReply

# Workers are killed when this much of the lease is over: the rest is for the killing.
_FENCE_AT: Final = 0.85
_GUARD_EVERY: Final = 0.05
# The main loop must have turned within this part of a lease, or there is no beat.
_TURN_WITHIN: Final = 1 / 3
_TELL_AGAIN: Final = 60.0
_STOP_WITHIN: Final = 1.0


def boottime() -> float:
    """Seconds on a clock that no one sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Watch:
    """What the heartbeat calls, from its own thread."""

    on_beat: Callable[[UUID, HeartbeatReply], None]
    on_expiry: Callable[[float], None]
    """With the seconds since the last renewal."""
    on_silence: Callable[[float], None]
    """There was no answer, with the seconds since the last renewal; the next try follows."""


class Heartbeat:
    """Renews the peer's lease until it is stopped."""

    def __init__(
        self,
        connect: Callable[[], BoundedConnection],
        lease: timedelta,
        interval: timedelta,
        watch: Watch,
    ) -> None:
        self._connect = connect
        self._lease = lease.total_seconds()
        self._interval = interval.total_seconds()
        self._watch = watch
        self._connection: BoundedConnection | None = None
        self._silent_since: float | None = None
        self._told_at = 0.0
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

    def adopt(self, connection: BoundedConnection) -> None:
        """Use this connection, until it is lost. Before `start`."""
        self._connection = connection

    def start(self, peer_id: UUID, joined_at: float) -> None:
        """Send heartbeats for this peer, which joined at or after `joined_at` (CLOCK_BOOTTIME)."""
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
        connection = self._connection
        if self._thread.is_alive():
            if connection is not None:
                connection.cut(0.0)
            self._thread.join(_STOP_WITHIN)
        elif connection is not None:
            connection.close()

    def pause(self) -> None:
        """The identity is gone: there is nothing to renew until `start` gives another."""
        self._peer_id = None

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
            beats = self._peer_id is not None and self._main_loop_turns()
            self._called.wait(self._beat() if beats else self._interval / 4)
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
        if peer_id is None:
            return self._interval
        try:
            if self._connection is None:
                self._connection = self._connect()
            beat = functions.heartbeat(self._connection, peer_id)
        except Exception as error:  # noqa: BLE001  # told; a thread that died would tell nobody
            return self._fall_silent(error)
        self._backoff.reset()
        if peer_id == self._peer_id:
            if beat.alive:
                # counted from before it was sent: the database's lease began no earlier
                self._renewed_at = sent_at
            self._watch.on_beat(peer_id, beat)
        if self._silent_since is not None:
            events.heartbeat_back(seconds=boottime() - self._silent_since)
            self._silent_since = None
        return self._interval

    def _fall_silent(self, error: Exception) -> float:
        """There was no answer; answers how long to wait before the next try."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        now, wait = boottime(), self._backoff.next()
        if self._stopping:
            return wait
        self._watch.on_silence(now - self._renewed_at)
        if self._silent_since is None or now - self._told_at >= _TELL_AGAIN:
            self._told_at = now
            events.heartbeat_lost(reason=str(error).strip() or repr(error), retry_in=wait)
        if self._silent_since is None:
            self._silent_since = now
        return wait
