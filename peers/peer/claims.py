"""Claim tasks for the slots of this peer, and hand them to the workers."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from peers.database import functions
from peers.database.reconnecting import ReconnectingConnection
from peers.peer.state import PeerState
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue

_POLL_JITTER: Final = 0.25


class Claims:
    """Asks the database for tasks: after each notification, and at every poll interval."""

    def __init__(
        self,
        state: PeerState,
        connection: ReconnectingConnection,
        queues: Mapping[str, LocalQueue],
        poll_interval: float,
        on_claimed: Callable[[LocalQueue, list[Lease]], None],
    ) -> None:
        self._state = state
        self._connection = connection
        self._queues = queues
        self._poll_interval = poll_interval
        self._on_claimed = on_claimed

    def due_at(self) -> float:
        """Return when (monotonic) the next claim is due."""
        if self._state.draining:
            return float("inf")
        due = [q.next_claim_at for q in self._queues.values() if q.wanted()]
        return min(due, default=float("inf"))

    def poll_now(self) -> None:
        """Make claims due now: tasks may be ready."""
        for local_queue in self._queues.values():
            local_queue.claim_now()

    def claim_due(self) -> None:
        """Claim what the slots will soon need. Raises `PeerLost`."""
        now = time.monotonic()
        for local_queue in self._queues.values():
            wanted = local_queue.wanted()
            if wanted and now >= local_queue.next_claim_at and not self._state.draining:
                self._connection.attempt(
                    f"claims from queue {local_queue.queue}",
                    partial(self._claim, local_queue, wanted),
                )

    def _claim(self, local_queue: LocalQueue, wanted: int) -> None:
        peer_id = self._state.peer_id
        if peer_id is None:
            return
        tasks = self._connection.do(
            lambda c: functions.claim(c, peer_id, local_queue.queue, wanted)
        )
        now = time.monotonic()
        if len(tasks) < wanted:  # the queue is empty
            jitter = random.uniform(-_POLL_JITTER, _POLL_JITTER)
            local_queue.postpone_claim(now + self._poll_interval * (1 + jitter))
        self._on_claimed(local_queue, [Lease(task, local_queue, now) for task in tasks])
