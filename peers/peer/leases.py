"""Hold the leases of this peer, from the claim until the outcome is recorded."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

from peers import events
from peers.database import functions
from peers.database.connection import Connection
from peers.database.reconnecting import ReconnectingConnection
from peers.peer.claims import Claims
from peers.peer.handler_requests import HandlerRequests
from peers.peer.outcomes import Outcomes
from peers.peer.recorder import Recorder
from peers.peer.request_verbs import execute
from peers.peer.state import PeerState
from peers.pool.durations import DurationEstimate
from peers.pool.environment import Environment
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue
from peers.pool.pool import WorkerPool
from peers.pool.retirement import Limits
from peers.settings import Settings
from peers.types import RELEASE_AFTER

# Parts of a bisected batch wait for a new worker, which may be slow to start. If none starts at all
# they are released, and the peer that claims them begins with the whole batch.
_RELEASE_PARTS_AFTER: Final = 60.0
assert _RELEASE_PARTS_AFTER > RELEASE_AFTER
_CHECK_EVERY: Final = 1.0
_RECONCILE_EVERY: Final = 60.0


class Leases:
    """Every lease of the peer is in exactly one place: a local queue, a worker, or the outbox.

    Methods that use the database raise `DatabaseUnreachable`; what they did not do can be retried.
    """

    def __init__(
        self,
        state: PeerState,
        settings: Settings,
        app: str,
        selector: selectors.BaseSelector,
        connection: ReconnectingConnection,
        connect_for_requests: Callable[[], Connection],
    ) -> None:
        self._state = state
        self._connection = connection
        self._cancel_grace = settings.cancel_grace.total_seconds()
        self._held: dict[int, Lease] = {}
        self._reconcile_at = 0.0
        self._check_at = 0.0
        self._queues: dict[str, LocalQueue] = {}
        self._recorder = Recorder(state, connection, selector, self._queues, self._forget)
        self.requests = HandlerRequests(
            connect_for_requests,
            selector,
            lambda c, r: execute(c, r.peer_id, r.lease.task, r.verb, r.body),
        )
        durations = DurationEstimate()
        self.pool = WorkerPool(
            app, (settings.log_format, settings.log_level), Environment.of(settings), selector,
            durations, Outcomes(state, self._recorder, self.requests),
            Limits(settings.worker_max_tasks, settings.worker_max_memory),
            preload=settings.preload,
        )  # fmt: skip
        for name, slots in settings.queues.items():
            self._queues[name] = LocalQueue(name, slots, durations, self.pool.kinds)
        self._claims = Claims(
            state, connection, self._queues, settings.poll_interval.total_seconds(), self._claimed
        )

    # --------------------------------------------------------------------------- each turn

    @property
    def in_workers(self) -> int:
        """Return how many tasks the workers have."""
        return sum(local_queue.in_workers for local_queue in self._queues.values())

    @property
    def is_idle(self) -> bool:
        """Return whether nothing runs and nothing waits to be recorded."""
        to_rerun = any(local_queue.leases_to_rerun() for local_queue in self._queues.values())
        return self.in_workers == 0 and not self._recorder.is_pending and not to_rerun

    def next_due(self) -> float:
        """Return when (monotonic) there is something to do even if nothing happens."""
        if not self._connection.is_up:  # nothing can be recorded or claimed
            return min(self.pool.next_deadline(), self._connection.reconnect_at)
        due = self._recorder.due_at()
        if self._recorder.is_collecting:  # that is soon, so do not compute the rest
            return due
        now = time.monotonic()
        batches = [q.next_due(now) for q in self._queues.values() if q.free_slots > 0]
        return min(due, self.pool.next_deadline(), self._claims.due_at(), *batches)

    def hand_out(self) -> None:
        """Assign the workers as many tasks as they can take."""
        for local_queue in self._queues.values():
            self.pool.hand_out(local_queue)

    def claim(self) -> None:
        """Claim what the slots will soon need, and hand it out. Raises `PeerLost`."""
        self._claims.claim_due()

    def record(self) -> None:
        """Record outcomes if it is time."""
        self._recorder.record_due()

    def record_all(self) -> None:
        """Record every outcome now, with those that are put off: there may be no later chance."""
        self._recorder.record(last=True)

    def poll_now(self) -> None:
        """Claim in the next turn: tasks may be ready."""
        self._claims.poll_now()

    def check(self) -> None:
        """Release tasks that have waited for too long, and reconcile, each when it is due."""
        now = time.monotonic()
        if now >= self._reconcile_at:
            self.reconcile()
        if now < self._check_at:
            return
        self._check_at = now + _CHECK_EVERY
        for local_queue in self._queues.values():
            late = [lease for lease in local_queue if now - lease.claimed_at > RELEASE_AFTER]
            # Parts wait for a busy worker. Isolated tasks need a worker of their own.
            parts = (
                local_queue.isolated_leases()
                if local_queue.in_workers
                else local_queue.leases_to_rerun()
            )
            late += [lease for lease in parts if now - lease.claimed_at > _RELEASE_PARTS_AFTER]
            self._release(local_queue, late)

    def reconcile(self) -> None:
        """Report which leases we hold. The database releases others, from lost claim replies."""
        self._reconcile_at = time.monotonic() + _RECONCILE_EVERY
        peer_id = self._state.peer_id
        if peer_id is None:
            return
        tokens = list({lease.task.token for lease in self._held.values()})
        released = self._connection.do(lambda c: functions.reconcile(c, peer_id, tokens))
        if released:
            events.leases_reconciled(released=released)

    # ---------------------------------------------------------------------------- stopping

    def cancel(self, task_id: int, token: UUID) -> None:
        """Stop a task that was cancelled in the database."""
        lease = self._held.get(task_id)
        if lease is None or lease.task.token != token or lease.cancelled:
            return
        lease.cancelled = True
        events.task_cancelled(task_id=task_id, kind=lease.task.kind, attempt=lease.task.attempt)
        if not self.pool.cancel(lease, self._cancel_grace):
            waiting = [*lease.local_queue, *lease.local_queue.leases_to_rerun()]
            self._release(lease.local_queue, [one for one in waiting if one is lease])

    def release_backlog(self) -> None:
        """Release every task that no worker has had."""
        for local_queue in self._queues.values():
            self._release(local_queue, list(local_queue))

    def stop_all(self) -> None:
        """Stop every handler now and release every task: no attempt counts."""
        self.pool.kill_all()
        self.pool.reap_all()
        self.release_backlog()
        for local_queue in self._queues.values():
            self._release(local_queue, local_queue.leases_to_rerun())

    def stop_started(self, by: str) -> None:
        """Stop every handler because the peer ends; say so in the log and in the tasks' rows."""
        started = self.pool.started(time.monotonic())
        for lease, _ in started:
            lease.stopped_because = f"stopped by {by} on host {socket.gethostname()}"
        self.stop_all()
        self.requests.await_quiet()  # a submission under way keeps its task from being released
        for lease, seconds in started:
            task = lease.task
            if lease.stopped_because is not None:  # None: its outcome had just arrived
                events.task_stopped(
                    task_id=task.task_id, kind=task.kind, attempt=task.attempt, seconds=seconds
                )

    def abandon(self) -> None:
        """Stop every handler and forget every lease: they have expired."""
        self.stop_all()
        self._held.clear()

    def _claimed(self, local_queue: LocalQueue, leases: list[Lease]) -> None:
        for lease in leases:
            self._held[lease.task.task_id] = lease
        local_queue.claimed(leases)
        self.pool.hand_out(local_queue)

    def _release(self, local_queue: LocalQueue, leases: list[Lease]) -> None:
        if leases:
            local_queue.drop(leases)
            self.requests.forget(leases)
            self._recorder.released(leases)

    def _forget(self, lease: Lease) -> None:
        if self._held.get(lease.task.task_id) is lease:
            del self._held[lease.task.task_id]
