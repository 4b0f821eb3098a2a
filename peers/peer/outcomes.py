"""React to what the workers report about their tasks."""

from __future__ import annotations

import time
from collections.abc import Callable

from peers import events
from peers.errors import PeersError
from peers.peer.handler_requests import HandlerRequests, Request
from peers.peer.outcome import Failure
from peers.peer.recorder import Recorder
from peers.peer.state import PeerState
from peers.pool.claim import TaskRun
from peers.pool.isolation import IsolatedGroup
from peers.pool.lease import Lease
from peers.pool.log_tail import KeptText


class Outcomes:
    """The OutcomeListener of the worker pool: records, queues again or releases each lease."""

    def __init__(
        self,
        state: PeerState,
        recorder: Recorder,
        requests: HandlerRequests,
    ) -> None:
        self._state = state
        self._recorder = recorder
        self._requests = requests

    def completed_run(self, run: TaskRun, results: bytes) -> None:
        """Record the results of handlers that have returned, which are a JSON array."""
        for lease in run.leases_made():
            lease.stopped_because = None
        self._recorder.completed_run(run, results)

    def ran(self, queue: str, kind: str, seconds: float, tasks: int) -> None:
        """Count how long attempts ran."""
        self._state.counts.ran(queue, kind, seconds, tasks)

    def failed(self, lease: Lease, failure: Failure) -> None:
        """Record and log an attempt that has failed."""
        lease.stopped_because = None
        self._requests.forget([lease])
        self._recorder.failed(lease, failure)
        task = lease.task
        if failure.get("snooze"):
            events.task_snoozed(
                task_id=task.task_id, kind=task.kind, attempt=task.attempt, token=task.token,
                reason=str(failure["error_message"]),
            )  # fmt: skip
        elif failure["error_type"] != "cancelled":  # `Leases.cancel` has logged a cancelled task
            events.task_failed(
                task_id=task.task_id, kind=task.kind, attempt=task.attempt, token=task.token,
                error_type=str(failure["error_type"]), error_message=str(failure["error_message"]),
            )  # fmt: skip

    def logged(self, lease: Lease, outcome: str | None, log: KeptText | None) -> None:
        """Store the log of an attempt, or forget it."""
        self._recorder.logged(lease, outcome, log)

    def bisected(self, parts: list[list[Lease]]) -> None:
        """Call each part of a batch that crashed its worker again."""
        for part in parts:
            first = part[0]
            events.batch_bisected(
                kind=first.task.kind, tasks=len(part), first_task_id=first.task.task_id,
                token=first.task.token,
            )  # fmt: skip
            remaining = self._without_cancelled(part)
            self._requests.forget(remaining)
            if remaining:
                first.local_queue.add_parts([remaining], time.monotonic())

    def isolated(self, groups: list[IsolatedGroup]) -> None:
        """Run each group again in a worker of its own: one task crashed or exhausted a worker."""
        for group in groups:
            self._requests.forget(group.leases)
            self.released([lease for lease in group.leases if lease.cancelled])
            remaining = [[one for one in batch if not one.cancelled] for batch in group.batches]
            group.batches = [batch for batch in remaining if batch]
            if group.batches:
                first, number = group.leases[0], len(group.leases)
                events.tasks_isolated(
                    tasks=number, first_task_id=first.task.task_id, kind=first.task.kind,
                    token=first.task.token,
                )  # fmt: skip
                first.local_queue.isolate(group, time.monotonic())

    def requeued(self, leases: list[Lease]) -> None:
        """Queue leases again that a worker has not started; release them in a drain."""
        remaining = self._without_cancelled(leases)
        if self._state.draining:
            self.released(remaining)
            return
        for local_queue in {id(one.local_queue): one.local_queue for one in remaining}.values():
            local_queue.requeue([one for one in remaining if one.local_queue is local_queue])

    def released(self, leases: list[Lease]) -> None:
        """Release leases that never started or were stopped: the attempt does not count."""
        if leases:
            self._requests.forget(leases)
            self._recorder.released(leases)

    def requested(
        self, lease: Lease, verb: str, body: bytes, reply: Callable[[bytes | PeersError], None]
    ) -> None:
        """Execute what a handler requests from the scheduler."""
        assert self._state.peer_id is not None
        self._requests.submit(Request(self._state.peer_id, lease, verb, body, reply))

    def _without_cancelled(self, leases: list[Lease]) -> list[Lease]:
        self.released([lease for lease in leases if lease.cancelled])
        return [lease for lease in leases if not lease.cancelled]
