"""The tasks of this peer: claimed, handed out, settled, given back."""

from __future__ import annotations

import random
import selectors
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Final
from uuid import UUID

from peers import events
from peers.database import functions
from peers.database.connection import Connection
from peers.database.reconnecting import ReconnectingConnection
from peers.errors import PeersError
from peers.peer.handler_requests import HandlerRequests, Request
from peers.peer.outbox import MOST_SETTLED, Failure, Outbox
from peers.peer.request_verbs import answer
from peers.pool.durations import DurationEstimate
from peers.pool.environment import Environment
from peers.pool.isolation import IsolatedGroup
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue
from peers.pool.pool import WorkerPool
from peers.pool.retirement import Limits
from peers.settings import Settings
from peers.types import RELEASE_AFTER

# Outcomes are collected for this long while more keep coming.
_SETTLE_WITHIN: Final = 0.01
# Parts of a bisected batch wait for a new worker, which may take long to start. When none starts
# at all they are released, and the next claim begins with the whole batch.
_ABANDON_AFTER: Final = 60.0
assert _ABANDON_AFTER > RELEASE_AFTER
_LOOK_EVERY: Final = 1.0
_RECONCILE_EVERY: Final = 60.0
_POLL_JITTER: Final = 0.25


class Work:
    """Every lease of the peer is in exactly one place: a local_queue, a worker, or the outbox.

    Methods that talk to the database raise `DatabaseUnreachable` and leave things for another try.
    """

    def __init__(
        self,
        settings: Settings,
        app: str,
        selector: selectors.BaseSelector,
        connection: ReconnectingConnection,
        connect_for_requests: Callable[[], Connection],
    ) -> None:
        self.peer_id: UUID | None = None
        self.asked_to_stop = False
        self._settings = settings
        self._selector = selector
        self._connection = connection
        self._held: dict[int, Lease] = {}
        self._oldest_outcome = 0.0
        self._reconcile_at = 0.0
        self._look_at = 0.0
        durations = DurationEstimate()
        self._outbox = Outbox(self._done)
        log = (settings.log_format, settings.log_level)
        environment = Environment.of(settings)
        limits = Limits(settings.worker_max_tasks, settings.worker_max_memory)
        self.pool = WorkerPool(
            app, log, environment, selector, durations, self, limits, preload=settings.preload
        )
        self.requests = HandlerRequests(
            connect_for_requests,
            selector,
            lambda c, asked: answer(c, asked.peer_id, asked.lease.task, asked.verb, asked.body),
        )
        self._queues = {
            name: LocalQueue(name, slots, durations, self.pool.kinds)
            for name, slots in settings.queues.items()
        }

    # ------------------------------------------------------------------------------ turn by turn

    @property
    def in_workers(self) -> int:
        """How many tasks the workers have."""
        return sum(local_queue.in_workers for local_queue in self._queues.values())

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing waits to be recorded."""
        to_rerun = any(local_queue.leases_to_rerun() for local_queue in self._queues.values())
        return self.in_workers == 0 and not self._outbox.waits and not to_rerun

    def next_due(self) -> float:
        """When (monotonic) there is something to do even if nothing happens."""
        if (
            not self._connection.up
        ):  # nothing can be recorded or claimed, however long it has been due
            return min(self.pool.next_deadline(), self._connection.again_at)
        if self._outbox:
            return self._settle_at()
        due = [self.pool.next_deadline(), self._outbox.next_due()]
        now = time.monotonic()
        due += [
            local_queue.next_due(now)
            for local_queue in self._queues.values()
            if local_queue.free_slots > 0
        ]
        if not self.asked_to_stop:
            due += [
                local_queue.next_claim_at
                for local_queue in self._queues.values()
                if local_queue.wanted()
            ]
        return min(due)

    def hand_out(self) -> None:
        """Give the workers what they can take."""
        for local_queue in self._queues.values():
            self.pool.hand_out(local_queue)

    def claim(self) -> None:
        """Claim what the slots will soon need, and hand it out. Raises `PeerLost`."""
        now = time.monotonic()
        for local_queue in self._queues.values():
            wanted = local_queue.wanted()
            if wanted and now >= local_queue.next_claim_at and not self.asked_to_stop:
                self._connection.attempt(
                    f"claims from queue {local_queue.queue}",
                    partial(self._claim_for, local_queue, wanted),
                )

    def _claim_for(self, local_queue: LocalQueue, wanted: int) -> None:
        peer_id = self.peer_id
        if peer_id is None:
            return
        tasks = self._connection.do(
            lambda c: functions.claim(c, peer_id, local_queue.queue, wanted)
        )
        now = time.monotonic()
        if len(tasks) < wanted:
            poll = self._settings.poll_interval.total_seconds()
            jitter = random.uniform(-_POLL_JITTER, _POLL_JITTER)
            local_queue.postpone_claim(now + poll * (1 + jitter))
        leases = [Lease(task, local_queue, now) for task in tasks]
        for lease in leases:
            self._held[lease.task.task_id] = lease
        local_queue.claimed(leases)
        self.pool.hand_out(local_queue)

    def settle(self) -> None:
        """Record outcomes: at once when no more are coming, in batches while they do."""
        now = time.monotonic()
        if not self._outbox and self._outbox.next_due() > now:
            return
        if now < self._settle_at() or (
            now < self._oldest_outcome + _SETTLE_WITHIN
            and len(self._outbox) < MOST_SETTLED
            and self._selector.select(0)
        ):
            return
        self.flush()

    def _settle_at(self) -> float:
        """When (monotonic) to record what there is: a full house has no need of quick answers."""
        at_work = [local_queue for local_queue in self._queues.values() if local_queue.in_workers]
        if at_work and all(local_queue.free_slots <= 0 for local_queue in at_work):
            return self._oldest_outcome + _SETTLE_WITHIN
        return 0.0

    def flush(self, *, last: bool = False) -> None:
        """Record outcomes now; `last`: also those that are put off."""
        peer_id = self.peer_id
        if peer_id is not None:
            self._connection.do(lambda c: self._outbox.flush(c, peer_id, last=last))

    def maintain(self) -> None:
        """Now and then: give back what waits too long, and what a lost answer left behind."""
        now = time.monotonic()
        if now >= self._reconcile_at:
            self.reconcile()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY
        for local_queue in self._queues.values():
            late = [lease for lease in local_queue if now - lease.claimed_at > RELEASE_AFTER]
            waiting = (
                local_queue.isolated_leases()
                if local_queue.in_workers
                else local_queue.leases_to_rerun()
            )
            late += [one for one in waiting if now - one.claimed_at > _ABANDON_AFTER]
            self._give_back(local_queue, late)

    def reconcile(self) -> None:
        """Name the leases that we know of; others, from claims never answered, are given back."""
        self._reconcile_at = time.monotonic() + _RECONCILE_EVERY
        peer_id = self.peer_id
        if peer_id is None:
            return
        tokens = list({lease.task.token for lease in self._held.values()})
        released = self._connection.do(lambda c: functions.reconcile(c, peer_id, tokens))
        if released:
            events.reconciled(released=released)

    # -------------------------------------------------------------------------- asked from outside

    def look(self) -> None:
        """The listener rang: it is worth asking for work."""
        for local_queue in self._queues.values():
            local_queue.claim_now()

    def cancel(self, task_id: int, token: UUID) -> None:
        """Stop a task that somebody cancelled."""
        lease = self._held.get(task_id)
        if lease is None or lease.task.token != token or lease.cancelled:
            return
        lease.cancelled = True
        events.task_cancelled(task_id=task_id, kind=lease.task.kind, attempt=lease.task.attempt)
        if not self.pool.cancel(lease, self._settings.cancel_grace.total_seconds()):
            waiting = [*lease.local_queue, *lease.local_queue.leases_to_rerun()]
            self._give_back(lease.local_queue, [one for one in waiting if one is lease])

    def release_backlog(self) -> None:
        """Give back everything that no worker has had."""
        for local_queue in self._queues.values():
            self._give_back(local_queue, list(local_queue))

    def stop_all(self) -> None:
        """Stop every handler now and give everything back; no attempt counts."""
        self.pool.kill_all()
        self.pool.reap_all()
        self.release_backlog()
        for local_queue in self._queues.values():
            self._give_back(local_queue, local_queue.leases_to_rerun())

    def stop_started(self, by: str) -> None:
        """Stop what still runs, since the peer ends; the log and the tasks' rows say so."""
        started = self.pool.started(time.monotonic())
        for lease, _ in started:
            lease.stopped_because = f"stopped by {by} on host {socket.gethostname()}"
        self.stop_all()
        self.requests.await_quiet()  # a submission keeps its task from being released
        for lease, seconds in started:
            task = lease.task
            if lease.stopped_because is not None:  # else it was just over
                events.task_stopped(
                    task_id=task.task_id, kind=task.kind, attempt=task.attempt, seconds=seconds
                )

    def abandon(self) -> None:
        """The leases are gone: stop every handler, forget everything."""
        self.stop_all()
        self._held.clear()

    def _give_back(self, local_queue: LocalQueue, leases: list[Lease]) -> None:
        if leases:
            local_queue.drop(leases)
            self.released(leases)

    # ------------------------------------------------- what the workers report (OutcomeListener)

    def completed(self, lease: Lease, result: bytes) -> None:
        """A handler returned."""
        self._note_outcome()
        lease.stopped_because = None
        self._outbox.completed(lease, result)

    def failed(self, lease: Lease, failure: Failure) -> None:
        """An attempt failed."""
        self._note_outcome()
        lease.stopped_because = None
        self.requests.forget([lease])
        self._outbox.failed(lease, failure)
        task = lease.task
        if failure.get("snooze"):
            events.task_snoozed(
                task_id=task.task_id, kind=task.kind, reason=str(failure["error_message"])
            )
        elif failure["error_type"] != "cancelled":  # that was told when it was asked for
            events.task_failed(
                task_id=task.task_id, kind=task.kind, attempt=task.attempt,
                error_type=str(failure["error_type"]), error_message=str(failure["error_message"]),
            )  # fmt: skip

    def bisected(self, parts: list[list[Lease]]) -> None:
        """Call each part of a batch that crashed its worker again."""
        for part in parts:
            first = part[0]
            events.batch_bisected(
                kind=first.task.kind, tasks=len(part), first_task_id=first.task.task_id
            )
            self.released([lease for lease in part if lease.cancelled])
            left = [lease for lease in part if not lease.cancelled]
            self.requests.forget(left)
            first.local_queue.add_parts([left] if left else [], time.monotonic())

    def isolated(self, groups: list[IsolatedGroup]) -> None:
        """Run these again, each group in a worker of its own."""
        for group in groups:
            self.requests.forget(group.leases)
            self.released([lease for lease in group.leases if lease.cancelled])
            group.batches = [
                left
                for batch in group.batches
                if (left := [one for one in batch if not one.cancelled])
            ]
            if group.batches:
                first, number = group.leases[0], len(group.leases)
                events.tasks_isolated(tasks=number, first_task_id=first.task.task_id)
                first.local_queue.isolate(group, time.monotonic())

    def requeued(self, leases: list[Lease]) -> None:
        """Assign again what a worker did not start."""
        self.released([lease for lease in leases if lease.cancelled])
        for local_queue in self._queues.values():
            local_queue.requeue(
                one for one in leases if one.local_queue is local_queue and not one.cancelled
            )
        if self.asked_to_stop:
            self.release_backlog()

    def released(self, leases: list[Lease]) -> None:
        """Give back leases that were stopped or never started: the attempt does not count."""
        if leases:
            self._note_outcome()
            self.requests.forget(leases)
            self._outbox.aborted(leases)

    def asked(
        self, lease: Lease, verb: str, body: bytes, reply: Callable[[bytes | PeersError], None]
    ) -> None:
        """A handler asks the scheduler."""
        assert self.peer_id is not None
        self.requests.ask(Request(self.peer_id, lease, verb, body, reply))

    def _note_outcome(self) -> None:
        if not self._outbox:
            self._oldest_outcome = time.monotonic()

    def _done(self, lease: Lease) -> None:
        if self._held.get(lease.task.task_id) is lease:
            del self._held[lease.task.task_id]
