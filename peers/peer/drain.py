"""Drain a peer: claim nothing more, let running tasks finish, decide when the peer may end."""

from __future__ import annotations

import time

from peers import events
from peers.database.reconnecting import ReconnectingConnection
from peers.peer.leases import Leases
from peers.peer.state import PeerState
from peers.peer.systemd import SystemdNotifier


class Drain:
    """The end of a peer, which a signal or an outdated contract begins."""

    def __init__(
        self,
        state: PeerState,
        timeout: float,
        connection: ReconnectingConnection,
        leases: Leases,
        notifier: SystemdNotifier,
    ) -> None:
        self._state = state
        self._timeout = timeout
        self._connection = connection
        self._leases = leases
        self._notifier = notifier
        self._signals = 0
        self.deadline = float("inf")
        """When (monotonic) running tasks are stopped."""

    @property
    def was_signalled(self) -> bool:
        """Return whether a signal has asked the peer to stop."""
        return self._signals > 0

    def on_signal(self) -> None:
        """Drain at the first signal; at the second one stop at once."""
        self._signals += 1
        if self._signals > 1:
            self.deadline = 0.0
        else:
            self.begin()

    def begin(self) -> None:
        """Claim nothing more, and release tasks that no worker has had. Do nothing the second time.

        An outdated contract calls this without a signal. A later signal then counts as the first
        one, and does not cut the drain short.
        """
        if self._state.draining:
            return
        self.deadline = time.monotonic() + self._timeout
        self._connection.set_deadline(self.deadline)
        self._notifier.stopping(self._timeout)
        self._state.draining = True
        self._leases.release_backlog()
        self._leases.pool.recall()
        events.peer_draining(running=self._leases.in_workers, timeout=self._timeout)

    def is_finished(self) -> bool:
        """Return whether the peer may end: nothing runs, or there is no more time, or no lease."""
        if not self._state.draining:
            return False
        no_more_time = time.monotonic() >= self.deadline
        return self._state.peer_id is None or no_more_time or self._leases.is_idle
