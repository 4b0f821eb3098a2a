"""Take over the tasks of peers that are lost: at once on this host, else when their leases end."""

from __future__ import annotations

import random
import selectors
import time
from datetime import timedelta
from typing import Final
from uuid import UUID

from peers import events
from peers.database import functions
from peers.database.functions import RECLAIM_MAX_TASKS
from peers.database.reconnecting import ReconnectingConnection
from peers.peer.state import PeerState
from peers.peer.witness import Witness

_LIST_SIBLINGS_EVERY: Final = 60.0
"""Seconds, in case the notification of a join was lost."""
_RECLAIMS_PER_LEASE: Final = 3  # at least: a peer with a shorter lease may have joined
_SPREAD: Final = 0.2
"""Seconds over which the peers spread their looks at a lease that ends."""


class Takeover:
    """Knows when to look for lost peers, and takes their leases.

    `run` raises `DatabaseUnreachable`; what it did not do is due again.
    """

    def __init__(
        self,
        state: PeerState,
        connection: ReconnectingConnection,
        selector: selectors.BaseSelector,
        lease: timedelta,
    ) -> None:
        self._state = state
        self._connection = connection
        self._witness = Witness(selector)
        self._reclaim_every = lease.total_seconds() / _RECLAIMS_PER_LEASE
        self._list_at = 0.0
        self._reclaim_at = 0.0

    def due_at(self) -> float:
        """Return when (monotonic) to `run` at the latest."""
        if self._state.peer_id is None:
            return float("inf")
        return min(self._list_at, self._reclaim_at, self._witness.next_look())

    def look_now(self) -> None:
        """Look in the next turn: this peer or another one has joined."""
        self._list_at = self._reclaim_at = 0.0

    def run(self) -> None:
        """Do what is due."""
        peer_id = self._state.peer_id
        if peer_id is None:
            return
        if time.monotonic() >= self._list_at:
            siblings = self._connection.do(lambda c: functions.siblings(c, peer_id))
            self._witness.watch(siblings)
            self._list_at = time.monotonic() + _LIST_SIBLINGS_EVERY
        gone = self._witness.gone()
        if gone:
            lost = self._connection.do(lambda c: functions.declare_lost(c, peer_id, gone))
            self._reclaim_at = 0.0
            self._witness.forget(lost)
        if time.monotonic() >= self._reclaim_at:
            self._reclaim(peer_id)

    def close(self) -> None:
        """Watch no other peer any more."""
        self._witness.close()

    def _reclaim(self, peer_id: UUID) -> None:
        reclaimed = self._connection.do(lambda c: functions.reclaim(c, peer_id))
        for task_id, attempt, lost_peer_id, host in reclaimed:
            events.task_reclaimed(
                task_id=task_id, attempt=attempt, lost_peer_id=lost_peer_id, lost_host=host
            )
        if len(reclaimed) >= RECLAIM_MAX_TASKS:
            return  # the next turn continues
        wait = self._connection.do(lambda c: functions.next_reclaim(c, peer_id))
        wait = self._reclaim_every if wait is None else min(wait, self._reclaim_every)
        self._reclaim_at = time.monotonic() + wait + random.uniform(0, _SPREAD)
