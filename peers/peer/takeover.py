"""Take the tasks of lost peers over: at once on this host, otherwise when their leases end.

Three chores of the maintenance do it: list the other peers of this host, declare those lost whose
processes have ended, and reclaim the tasks of lost peers.
"""

from __future__ import annotations

import random
import selectors
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final
from uuid import UUID

from psycopg.pq.abc import PGresult

from peers import events
from peers.database import maintenance
from peers.database.pipeline import Statement
from peers.database.rows import UnstartedTasks
from peers.metrics.counts import Counts
from peers.peer.maintenance import Chore
from peers.peer.witness import Witness

JOINED: Final = "joined"
"""The payload of a notification that a peer has joined."""
_LIST_EVERY: Final = 60.0
"""Seconds, in case the notification of a join was lost."""
_RECLAIMS_PER_LEASE: Final = 3  # at least: a peer with a shorter lease may have joined
_RECLAIM_MAX_TASKS: Final = 1000
_RELEASE_MAX_TASKS: Final = 10_000
_SPREAD: Final = 0.2
"""Seconds over which the peers spread their looks at a lease that ends."""


class Takeover:
    """Knows which peers of this host have ended, and when a lease ends."""

    def __init__(self, selector: selectors.BaseSelector, lease: timedelta, counts: Counts) -> None:
        self._witness = Witness(selector)
        self._list = Chore(
            "list_siblings", lambda peer_id, _: maintenance.siblings(peer_id), self._read_siblings,
            _LIST_EVERY,
        )  # fmt: skip
        self._declare = _DeclareLost(self._witness, self._declared)
        self._reclaim = _Reclaim(lease.total_seconds() / _RECLAIMS_PER_LEASE, counts)
        self.chores = (self._list, self._declare, self._reclaim)

    def look_now(self) -> None:
        """Look as soon as possible: this peer has joined, or another one."""
        self._list.set_due()
        self._reclaim.set_due()

    def close(self) -> None:
        """Watch no other peer any more."""
        self._witness.close()

    def _read_siblings(self, result: PGresult, _: int) -> bool:
        self._witness.watch(maintenance.read_siblings(result))
        return True

    def _declared(self, lost: list[UUID]) -> None:
        self._witness.forget(lost)
        self._reclaim.set_due()


class _DeclareLost(Chore):
    """Is due when the process of another peer has ended."""

    def __init__(self, witness: Witness, on_lost: Callable[[list[UUID]], None]) -> None:
        super().__init__("declare_lost", self._write, self._read, 0.0, _RELEASE_MAX_TASKS)
        self._witness = witness
        self._on_lost = on_lost
        self._gone: list[UUID] = []

    def due_at(self) -> float:
        """Look if it is time to look, and return when (monotonic) to declare or to look again."""
        if not self._gone and time.monotonic() >= self._witness.next_look():
            self._gone = self._witness.gone()
        return 0.0 if self._gone else self._witness.next_look()

    def _write(self, peer_id: UUID, most: int) -> Statement:
        unstarted = _at_most(self._witness.unstarted(self._gone), most)
        return maintenance.declare_lost(peer_id, self._gone, unstarted)

    def _read(self, result: PGresult, _: int) -> bool:
        self._gone = []
        lost = maintenance.read_lost(result)
        for peer_id, host, released in lost:
            if released:
                events.unstarted_tasks_released(
                    released=released, lost_peer_id=peer_id, lost_host=host
                )
        self._on_lost([peer_id for peer_id, _, _ in lost])
        return True


def _at_most(unstarted: list[UnstartedTasks], most: int) -> list[UnstartedTasks]:
    """Return up to `most` of these tasks."""
    found = []
    for token, first, number in unstarted:
        if most <= 0:
            break
        found.append(UnstartedTasks(token, first, min(number, most)))
        most -= number
    return found


class _Reclaim(Chore):
    """Is due when the next lease of another peer ends."""

    def __init__(self, every: float, counts: Counts) -> None:
        self._next_in = every
        self._counts = counts
        super().__init__("reclaim", maintenance.reclaim, self._read, every, _RECLAIM_MAX_TASKS)

    def _read(self, result: PGresult, most: int) -> bool:
        tasks, self._next_in = maintenance.read_reclaimed(result)
        self._counts.reclaimed([(task.queue, task.kind, task.outcome) for task in tasks])
        for task in tasks:
            events.task_reclaimed(
                task_id=task.task_id, kind=task.kind, attempt=task.attempt, token=task.token,
                lost_peer_id=task.lost_peer_id, lost_host=task.host,
            )  # fmt: skip
        return len(tasks) < most

    def _interval(self) -> float:
        # not less, in case a lease that has ended cannot be taken yet: its peer's row is locked
        wait = max(self._next_in, _SPREAD)
        return min(wait, self._every) + random.uniform(0, _SPREAD)
