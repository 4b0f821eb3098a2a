"""Hold the leases of this peer, from the claim until the outcome is recorded."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

from peers import events
from peers.database import statements
from peers.database.deadlines import BoundedConnection
from peers.database.jobs import Job
from peers.database.pipeline import StatementRefused
from peers.database.reconnecting import ReconnectingConnection
from peers.database.rows import PeekRequest
from peers.peer.claims import Claims
from peers.peer.handler_requests import HandlerRequests
from peers.peer.listener import LOG
from peers.peer.outcomes import Outcomes
from peers.peer.recorder import Recorder
from peers.peer.request_verbs import execute
from peers.peer.state import PeerState
from peers.peer.turns import Turns
from peers.pool.claim import Claim
from peers.pool.durations import DurationEstimate
from peers.pool.environment import Environment
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue
from peers.pool.peek import PeekTarget
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
_RECONCILE: Final = "reconciling leases"


class Leases:
    """Each task of a lease is in exactly one place: a local queue, a worker, or the outbox.

    A lease is a claim: the tasks that it brought. Methods that use the database raise
    `DatabaseUnreachable`; what they did not do can be retried.
    """

    def __init__(
        self,
        state: PeerState,
        settings: Settings,
        app: str,
        selector: selectors.BaseSelector,
        connection: ReconnectingConnection,
        connect_for_requests: Callable[[], BoundedConnection],
        is_listening: Callable[[], bool],
    ) -> None:
        self._state = state
        self._connection = connection
        self._cancel_grace = settings.cancel_grace.total_seconds()
        self._held: dict[bytes, Claim] = {}
        """The claims that have tasks without a recorded outcome, by their tokens."""
        self._reconcile_at = 0.0
        self._check_at = 0.0
        self._queues: dict[str, LocalQueue] = {}
        self._recorder = Recorder(state, connection, self._queues, self._recorded)
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
            state, connection, self._queues, settings.poll_interval.total_seconds(),
            is_listening, self._claimed,
        )  # fmt: skip
        self._turns = Turns(
            state, connection, self._recorder, self._claims,
            durable_claims=settings.durable_claims,
        )  # fmt: skip

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
        now = time.monotonic()
        due = [q.next_due(now) for q in self._queues.values() if q.free_slots > 0]
        due.append(self.pool.next_deadline())
        if self._connection.is_idle:  # otherwise nothing can be recorded or claimed
            due.append(min(self._turns.due_at(), self._reconcile_due_at()))
        return min(due)

    def hand_out(self) -> None:
        """Assign the workers as many tasks as they can take."""
        now = time.monotonic()
        for local_queue in self._queues.values():
            self._release(local_queue, local_queue.admit(now))
            self.pool.hand_out(local_queue)

    def start_due(self, *, claims: bool) -> None:
        """Begin the transaction that is due. Raises `PeerLost`. `claims`: also claim tasks."""
        if self._connection.is_idle and time.monotonic() >= self._reconcile_due_at():
            self._reconcile()
        self._turns.start_due(claims=claims)

    def record_all(self) -> None:
        """Record every outcome now, with those that are put off: there may be no later chance."""
        self._recorder.record(last=True)

    def poll_now(self) -> None:
        """Claim in the next turn: tasks may be ready."""
        self._claims.poll_now()

    def made_ready(self) -> None:
        """Claim what a transaction of this peer has made ready, unless that one has done so."""
        self._claims.made_ready()

    def reconnected(self) -> None:
        """Reconcile and claim soon: the last replies of the database may have been lost."""
        self._reconcile_at = 0.0
        self._claims.forget_positions()
        self._claims.poll_now()

    def check(self) -> None:
        """Release tasks that have waited for too long, if it is time to look."""
        now = time.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + _CHECK_EVERY
        for local_queue in self._queues.values():
            late = local_queue.claimed_before(now - RELEASE_AFTER)
            # Parts wait for a busy worker. Isolated tasks need a worker of their own.
            parts = (
                local_queue.isolated_leases()
                if local_queue.in_workers
                else local_queue.leases_to_rerun()
            )
            late += [lease for lease in parts if now - lease.claimed_at > _RELEASE_PARTS_AFTER]
            if late:
                local_queue.needs_slot()
            self._release(local_queue, late)

    def _reconcile_due_at(self) -> float:
        return max(self._reconcile_at, self._connection.retry_at(_RECONCILE))

    def _reconcile(self) -> None:
        """Report which leases we hold. The database releases others, from lost claim replies.

        No claim is in progress, because the connection has one job at a time.
        """
        peer_id = self._state.peer_id
        if peer_id is None:
            return
        self._reconcile_at = time.monotonic() + _RECONCILE_EVERY
        self._connection.start(
            Job(
                [statements.reconcile(peer_id, list(self._held))],
                lambda results: self._reconciled(statements.read_count(results[0])),
                self._reconcile_refused,
                self._reconcile_lost,
            )
        )

    def _reconciled(self, released: int) -> None:
        self._connection.succeeded(_RECONCILE)
        if released:
            events.leases_reconciled(released=released)

    def _reconcile_refused(self, refused: StatementRefused) -> None:
        self._reconcile_at = 0.0
        self._connection.put_off(_RECONCILE, refused.error)

    def _reconcile_lost(self) -> None:
        self._reconcile_at = 0.0

    # ---------------------------------------------------------------------------- stopping

    def cancel(self, task_id: int, token: UUID) -> None:
        """Stop a task that was cancelled in the database."""
        claim = self._held.get(token.bytes)
        index = claim.find(task_id) if claim is not None else None
        if claim is None or index is None:
            return
        lease = claim.lease(index)
        if lease.cancelled:
            return
        lease.cancelled = True
        events.task_cancelled(
            task_id=task_id, kind=lease.task.kind, attempt=lease.task.attempt, token=token
        )
        if not self.pool.cancel(lease, self._cancel_grace) and lease.local_queue.holds(lease):
            self._release(lease.local_queue, [lease])

    def follow_log(self, payload: str) -> None:
        """Store the log of a running task, whose id the notification has, for those who read it."""
        with contextlib.suppress(ValueError):
            self.pool.follow_log(int(payload.removeprefix(LOG)))

    def peek(self, request: PeekRequest) -> PeekTarget:
        """Ask the worker that has a task for its stacks, and return where the task is."""
        claim = self._held.get(request.token.bytes)
        index = claim.find(request.task_id) if claim is not None else None
        if claim is None or index is None:
            return PeekTarget("ended", "its attempt has ended on this peer")
        lease = claim.lease(index)
        target = self.pool.peek(lease, request.id, time.monotonic())
        if target is None and lease.local_queue.holds(lease):
            target = PeekTarget("waiting", "claimed, and waits for a free worker of its peer")
        elif target is None:
            sentence = "its handler has ended; the outcome waits to be recorded"
            target = PeekTarget("ended", sentence)
        target.kind, target.attempt = lease.task.kind, lease.task.attempt
        return target

    def release_backlog(self) -> None:
        """Release every task that no worker has had."""
        for local_queue in self._queues.values():
            self._release(local_queue, local_queue.waiting())

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
                    task_id=task.task_id, kind=task.kind, attempt=task.attempt, token=task.token,
                    seconds=seconds,
                )  # fmt: skip

    def abandon(self) -> None:
        """Stop every handler and forget every lease: they have expired."""
        self.stop_all()
        self._held.clear()

    def _claimed(self, claim: Claim) -> None:
        """Take a claim. The next turn hands it out, unless the peer has begun to drain."""
        self._held[claim.token] = claim
        claim.local_queue.claimed(claim)
        if self._state.draining:
            self.release_backlog()

    def _release(self, local_queue: LocalQueue, leases: list[Lease]) -> None:
        if leases:
            local_queue.drop(leases)
            self.requests.forget(leases)
            self._recorder.released(leases)

    def _recorded(self, token: bytes, tasks: int) -> None:
        """Forget the leases of tasks whose outcomes are recorded."""
        claim = self._held.get(token)
        if claim is None:
            return
        claim.open -= tasks
        if claim.open <= 0:
            del self._held[token]
