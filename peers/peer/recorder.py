"""Decide when to record outcomes: at once when no more are coming, in batches while they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from psycopg.pq.abc import PGresult

from peers.database.reconnecting import ReconnectingConnection
from peers.peer.batch import Batch
from peers.peer.outbox import Outbox
from peers.peer.outcome import Failure
from peers.peer.state import PeerState
from peers.pool.claim import TaskRun
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue
from peers.pool.log_tail import KeptText

_JOB: Final = "recording outcomes"
# Outcomes are collected for this long while every slot is busy: they free no slot.
_COLLECT_SECONDS: Final = 0.01


class Recorder:
    """Collects outcomes and records them. It calls `on_recorded` for each lease that is done."""

    def __init__(
        self,
        state: PeerState,
        connection: ReconnectingConnection,
        queues: Mapping[str, LocalQueue],
        on_recorded: Callable[[bytes, int], None],
    ) -> None:
        self._state = state
        self._connection = connection
        self._queues = queues
        self._outbox = Outbox(on_recorded, state.counts)
        self._oldest_at = 0.0
        self._one_by_one = False
        """The database has refused a transaction: one of its outcomes may be the cause."""

    @property
    def is_pending(self) -> bool:
        """Return whether an outcome waits that the database has not refused for good."""
        return self._outbox.is_pending

    # --------------------------------------------------------------------------------- arrivals

    def completed_run(self, run: TaskRun, results: bytes) -> None:
        """Add the results of tasks of one claim, which are a JSON array."""
        self._note_arrival()
        self._outbox.completed_run(run, results)

    def failed(self, lease: Lease, failure: Failure) -> None:
        """Add a failed attempt."""
        self._note_arrival()
        self._outbox.failed(lease, failure)

    def logged(self, lease: Lease, outcome: str | None, log: KeptText | None) -> None:
        """Add the log of an attempt."""
        self._note_arrival()
        self._outbox.logs.add(lease, outcome, log)

    def released(self, leases: list[Lease]) -> None:
        """Add leases to release: their attempts do not count."""
        self._note_arrival()
        self._outbox.released(leases)

    def _note_arrival(self) -> None:
        if not self._outbox:
            self._oldest_at = time.monotonic()

    # ----------------------------------------------------------------------------- transactions

    def due_at(self) -> float:
        """Return when (monotonic) the next outcome should be recorded."""
        due = self._collected_at() if self._outbox else self._outbox.next_due()
        return max(due, self._connection.retry_at(_JOB))

    def take_due(self, *, with_claim: bool) -> Batch | None:
        """Take the outcomes for the next transaction, if it is time or if it claims as well.

        `conclude`, `refused` or `put_back` must follow.
        """
        now = time.monotonic()
        if self._one_by_one or self._connection.is_put_off(_JOB):
            return None
        if not self._outbox and self._outbox.next_due() > now:
            return None
        if not with_claim and now < self._collected_at():
            return None
        return self._outbox.take()

    def conclude(self, results: Sequence[PGresult]) -> None:
        """Take the replies to the statements of a batch."""
        self._connection.succeeded(_JOB)
        self._outbox.conclude(results)

    def put_back(self) -> None:
        """Keep the outcomes of a batch that was perhaps not recorded."""
        self._outbox.put_back()

    def refused(self) -> None:
        """Keep the outcomes of a batch that the database has refused, and record each alone."""
        self._outbox.put_back()
        self._one_by_one = True

    # ------------------------------------------------------------------------------- one by one

    def record_refused(self) -> None:
        """Record outcomes one by one if the database has refused them together."""
        if self._one_by_one and not self._connection.is_put_off(_JOB):
            self._connection.attempt(_JOB, self.record)
            self._one_by_one = self._connection.is_put_off(_JOB)

    def record(self, *, last: bool = False) -> None:
        """Record outcomes now, and wait; with `last` also those whose next try is due later.

        Raises `DatabaseUnreachable`, and keeps the outcomes.
        """
        peer_id = self._state.peer_id
        if peer_id is not None:
            encoding = self._connection.encoding
            self._connection.transact(
                lambda pipeline: self._outbox.flush(pipeline.run, peer_id, encoding, last=last)
            )

    def _collected_at(self) -> float:
        """Return when to record: while every slot is busy, collect outcomes for a moment."""
        busy = [local_queue for local_queue in self._queues.values() if local_queue.in_workers]
        if busy and all(local_queue.free_slots <= 0 for local_queue in busy):
            return self._oldest_at + _COLLECT_SECONDS
        return 0.0
