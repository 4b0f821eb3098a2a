"""Send the heartbeat, from a thread and on a connection of its own.

A heartbeat shows two things: that this process reaches the database, and that its main loop works.
When either fails for too long, the lease will end. Then the peer fences itself: it kills its
workers before another peer can reclaim their tasks.
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
from peers.database.backoff import Backoff
from peers.database.connection import is_connection_lost
from peers.database.deadlines import BoundedConnection
from peers.database.rows import HeartbeatReply

_FENCE_AT: Final = 0.85
"""The share of a lease after which the workers are killed. Killing them takes some of the rest."""
_KILL_AT: Final = 0.93
"""The share of a lease after which another process kills the workers, if this one is stopped."""
_FENCE_CHECK_MIN: Final = 0.05
"""Seconds between two checks of the fence, at least."""
_TURN_WITHIN: Final = 1 / 3
"""The share of a lease within which the main loop must make a turn, or heartbeats stop."""
_RECENT: Final = 2 / 3
"""The share of a lease after which a heartbeat that is missing shows that something is wrong."""
_LOG_AGAIN_AFTER: Final = 60.0
_STOP_WITHIN: Final = 1.0


def boottime() -> float:
    """Return seconds on a clock that nobody can set and that counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class HeartbeatCallbacks:
    """Functions that the heartbeat calls, from its own threads."""

    on_reply: Callable[[UUID, HeartbeatReply], None]
    """After each heartbeat to which the database has replied."""
    on_expiry: Callable[[float], None]
    """When the lease is nearly over, with the seconds since its last renewal."""
    on_silence: Callable[[float], None]
    """After each heartbeat without a reply, with the seconds since the last renewal."""
    on_error: Callable[[Exception], None] = lambda _: None
    """After each error of the database."""
    report: Callable[[BoundedConnection, UUID], None] = lambda _connection, _peer_id: None
    """After each heartbeat, to send what the peer has counted on the same connection."""


class Heartbeat:
    """Renews the peer's lease until `stop`."""

    def __init__(
        self,
        connect: Callable[[], BoundedConnection],
        lease: timedelta,
        interval: timedelta,
        callbacks: HeartbeatCallbacks,
    ) -> None:
        self._connect = connect
        self._lease = lease.total_seconds()
        self._interval = interval.total_seconds()
        self._callbacks = callbacks
        self._connection: BoundedConnection | None = None
        self._silent_since: float | None = None
        self._logged_at = 0.0
        self._report_failed_at = -_LOG_AGAIN_AFTER
        self._backoff = Backoff(cap=min(5.0, self._interval / 2))
        self._peer_id: UUID | None = None
        self._renewed_at = boottime()
        self._turned_at = boottime()
        self._fenced = False
        self._fence_lock = threading.Lock()
        self._stalled = False
        self._stopping = False
        self._send_early = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._fence_thread = threading.Thread(target=self._watch_fence, name="fence", daemon=True)

    def use(self, connection: BoundedConnection) -> None:
        """Use this connection until it is lost. Call this before `start`."""
        self._connection = connection

    def start(self, peer_id: UUID, joined_at: float) -> None:
        """Send heartbeats for this peer, which joined at or after `joined_at` (CLOCK_BOOTTIME)."""
        self._renewed_at = joined_at
        self._fenced = False
        self._peer_id = peer_id
        if not self._thread.is_alive():
            self._thread.start()
            self._fence_thread.start()

    def stop(self) -> None:
        """Send no more heartbeats."""
        self._stopping = True
        self._ended.set()
        self._send_early.set()
        connection = self._connection
        if self._thread.is_alive():
            if connection is not None:
                connection.interrupt(0.0)
            self._thread.join(_STOP_WITHIN)
        elif connection is not None:
            connection.close()

    def pause(self) -> None:
        """Send none until `start` gives a new identity."""
        self._peer_id = None

    def note_turn(self) -> None:
        """Note that the main loop makes progress."""
        self._turned_at = boottime()

    def send_now(self) -> None:
        """Send the next heartbeat at once: its reply has new cancellations."""
        self._send_early.set()

    @property
    def fenced(self) -> bool:
        """Return whether the workers were killed because the lease was nearly over."""
        return self._fenced

    @property
    def kill_at(self) -> float:
        """Return when (CLOCK_BOOTTIME) no worker may be left, because the lease ends."""
        return self._renewed_at + self._lease * _KILL_AT

    def unfence(self) -> None:
        """Continue: the lease still holds, and the killed workers have been reaped."""
        self._fenced = False

    def _watch_fence(self) -> None:
        """Fence in time. This has a thread of its own, because others may hang in the database."""
        while not self._ended.wait(max(_FENCE_CHECK_MIN, self._fence_time() - boottime())):
            self.fence_if_due()

    def fence_if_due(self) -> None:
        """Fence if it is time. The main loop calls this, too, after each wait.

        If the process was stopped, the workers may be dead. That is no failure of their tasks.
        """
        with self._fence_lock:
            if self._fenced or self._peer_id is None or boottime() <= self._fence_time():
                return
            self._fenced = True
        self._callbacks.on_expiry(boottime() - self._renewed_at)

    def _fence_time(self) -> float:
        return self._renewed_at + self._lease * _FENCE_AT

    def _run(self) -> None:
        while not self._stopping:
            sends = self._peer_id is not None and self._check_main_loop()
            self._send_early.wait(self._send() if sends else self._interval / 4)
            self._send_early.clear()
        if self._connection is not None:
            self._connection.close()

    @property
    def main_loop_works(self) -> bool:
        """Return whether the main loop has made a turn lately, or the peer is still starting."""
        still = boottime() - self._turned_at
        return not self._thread.is_alive() or still <= self._lease * _TURN_WITHIN

    @property
    def is_recent(self) -> bool:
        """Return whether the lease was renewed lately."""
        return boottime() - self._renewed_at <= self._lease * _RECENT

    def _check_main_loop(self) -> bool:
        still = boottime() - self._turned_at
        if still > self._lease * _TURN_WITHIN:
            if not self._stalled:
                events.main_loop_stalled(seconds=still, limit=self._lease * _TURN_WITHIN)
            self._stalled = True
        else:
            self._stalled = False
        return not self._stalled

    def _send(self) -> float:
        """Send a heartbeat; return how long to wait before the next one."""
        peer_id = self._peer_id
        sent_at = boottime()
        if peer_id is None:
            return self._interval
        try:
            if self._connection is None:
                self._connection = self._connect()
            reply = functions.heartbeat(self._connection, peer_id)
        except Exception as error:  # noqa: BLE001  # logged; the thread must not die
            return self._note_silence(error)
        self._backoff.reset()
        if peer_id == self._peer_id:
            if reply.alive:
                # The database's lease begins no earlier than the heartbeat was sent.
                self._renewed_at = sent_at
            self._callbacks.on_reply(peer_id, reply)
        if self._silent_since is not None:
            events.heartbeat_recovered(seconds=boottime() - self._silent_since)
            self._silent_since = None
        if reply.alive:
            self._report(self._connection, peer_id)
        return self._interval

    def _report(self, connection: BoundedConnection, peer_id: UUID) -> None:
        """Send what the peer has counted. The heartbeat has been sent, whatever becomes of this."""
        try:
            self._callbacks.report(connection, peer_id)
        except Exception as error:  # noqa: BLE001  # logged; the next report has the counts as well
            self._callbacks.on_error(error)
            if is_connection_lost(error):
                connection.close()
                self._connection = None
            now = boottime()
            if not self._stopping and now - self._report_failed_at >= _LOG_AGAIN_AFTER:
                self._report_failed_at = now
                events.metrics_not_reported(reason=str(error).strip() or repr(error))

    def _note_silence(self, error: Exception) -> float:
        """Log that there was no reply; return how long to wait before the next try."""
        self._callbacks.on_error(error)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        now, wait = boottime(), self._backoff.next()
        if self._stopping:
            return wait
        self._callbacks.on_silence(now - self._renewed_at)
        if self._silent_since is None or now - self._logged_at >= _LOG_AGAIN_AFTER:
            self._logged_at = now
            events.heartbeat_failed(reason=str(error).strip() or repr(error), retry_in=wait)
        if self._silent_since is None:
            self._silent_since = now
        return wait
