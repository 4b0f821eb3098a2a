"""Decide when to record outcomes: at once when no more are coming, in batches while they do."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Mapping
from typing import Final

from peers.database.reconnecting import ReconnectingConnection
from peers.peer.outbox import BATCH_MAX, Failure, Outbox
from peers.peer.state import PeerState
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue

# Outcomes are collected for this long while more keep coming.
_COLLECT_SECONDS: Final = 0.01


class Recorder:
    """Collects outcomes and records them. It calls `on_recorded` for each lease that is done.

    Methods that use the database raise `DatabaseUnreachable` and keep the outcomes.
    """

    def __init__(
        self,
        state: PeerState,
        connection: ReconnectingConnection,
        selector: selectors.BaseSelector,
        queues: Mapping[str, LocalQueue],
        on_recorded: Callable[[Lease], None],
    ) -> None:
        self._state = state
        self._connection = connection
        self._selector = selector
        self._queues = queues
        self._outbox = Outbox(on_recorded)
        self._oldest_at = 0.0

    @property
    def is_pending(self) -> bool:
        """Return whether an outcome waits that the database has not refused for good."""
        return self._outbox.is_pending

    @property
    def is_collecting(self) -> bool:
        """Return whether outcomes wait that have not been put off."""
        return bool(self._outbox)

    def completed(self, lease: Lease, result: bytes) -> None:
        """Add a result, which is JSON."""
        self._note_arrival()
        self._outbox.completed(lease, result)

    def failed(self, lease: Lease, failure: Failure) -> None:
        """Add a failed attempt."""
        self._note_arrival()
        self._outbox.failed(lease, failure)

    def released(self, leases: list[Lease]) -> None:
        """Add leases to release: their attempts do not count."""
        self._note_arrival()
        self._outbox.released(leases)

    def due_at(self) -> float:
        """Return when (monotonic) the next outcome should be recorded."""
        return self._collected_at() if self._outbox else self._outbox.next_due()

    def record_due(self) -> None:
        """Record outcomes if it is time."""
        now = time.monotonic()
        if not self._outbox and self._outbox.next_due() > now:
            return
        if now < self._collected_at() or self._more_are_coming(now):
            return
        self.record()

    def record(self, *, last: bool = False) -> None:
        """Record outcomes now; with `last` also those whose next try is due later."""
        peer_id = self._state.peer_id
        if peer_id is not None:
            self._connection.do(lambda c: self._outbox.flush(c, peer_id, last=last))

    def _collected_at(self) -> float:
        """Return when to record: while every slot is busy, collect outcomes for a moment."""
        busy = [local_queue for local_queue in self._queues.values() if local_queue.in_workers]
        if busy and all(local_queue.free_slots <= 0 for local_queue in busy):
            return self._oldest_at + _COLLECT_SECONDS
        return 0.0

    def _more_are_coming(self, now: float) -> bool:
        return bool(
            now < self._oldest_at + _COLLECT_SECONDS
            and len(self._outbox) < BATCH_MAX
            and self._selector.select(0)
        )

    def _note_arrival(self) -> None:
        if not self._outbox:
            self._oldest_at = time.monotonic()
