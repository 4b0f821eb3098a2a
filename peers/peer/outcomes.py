"""React to what the workers report about their tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from peers import events
from peers.errors import PeersError
from peers.peer.handler_requests import HandlerRequests, Request
from peers.peer.outbox import Failure
from peers.peer.recorder import Recorder
from peers.peer.state import PeerState
from peers.pool.isolation import Suspects
from peers.pool.local_queue import Lease, LocalQueue


class Outcomes:
    """The OutcomeListener of the worker pool: it passes each lease on to where it belongs next."""

    def __init__(
        self,
        state: PeerState,
        queues: Mapping[str, LocalQueue],
        recorder: Recorder,
        requests: HandlerRequests,
    ) -> None:
        self._state = state
        self._queues = queues
        self._recorder = recorder
        self._requests = requests

    def completed(self, lease: Lease, result: bytes) -> None:
        """Record the result of a handler that has returned."""
        lease.stopped_because = None
        self._recorder.completed(lease, result)

    def failed(self, lease: Lease, failure: Failure) -> None:
        """Record and log an attempt that has failed."""
        lease.stopped_because = None
        self._requests.forget([lease])
        self._recorder.failed(lease, failure)
        task = lease.task
        if failure.get("snooze"):
            events.task_snoozed(
                task_id=task.task_id, kind=task.kind, reason=str(failure["error_message"])
            )
        elif failure["error_type"] != "cancelled":  # `Leases.cancel` has logged a cancelled task
            events.task_failed(
                task_id=task.task_id, kind=task.kind, attempt=task.attempt,
                error_type=str(failure["error_type"]), error_message=str(failure["error_message"]),
            )  # fmt: skip

    def divided(self, parts: list[list[Lease]]) -> None:
        """Run the parts of a batch that ended its worker one by one."""
        for part in parts:
            first = part[0]
            events.batch_bisected(
                kind=first.task.kind, tasks=len(part), first_task_id=first.task.task_id
            )
            remaining = self._without_cancelled(part)
            self._requests.forget(remaining)
            if remaining:
                self._queues[first.queue].divide([remaining], time.monotonic())

    def suspected(self, parts: list[Suspects]) -> None:
        """Run each part in isolation: one of its tasks has ended or exhausted its worker."""
        for part in parts:
            self._requests.forget(part.leases)
            self.aborted([lease for lease in part.leases if lease.cancelled])
            part.calls = [
                left for call in part.calls if (left := [one for one in call if not one.cancelled])
            ]
            if part.calls:
                first, number = part.leases[0], len(part.leases)
                events.tasks_isolated(tasks=number, first_task_id=first.task.task_id)
                self._queues[first.queue].suspect(part, time.monotonic())

    def unstarted(self, leases: list[Lease]) -> None:
        """Queue leases again that a worker has not started."""
        remaining = self._without_cancelled(leases)
        if self._state.draining:
            self.aborted(remaining)
            return
        for name, local_queue in self._queues.items():
            local_queue.put_back([lease for lease in remaining if lease.queue == name])

    def aborted(self, leases: list[Lease]) -> None:
        """Release leases that never started or were stopped: the attempt does not count."""
        if leases:
            self._requests.forget(leases)
            self._recorder.released(leases)

    def asked(
        self, lease: Lease, verb: str, body: bytes, reply: Callable[[bytes | PeersError], None]
    ) -> None:
        """Execute what a handler requests from the scheduler."""
        assert self._state.peer_id is not None
        self._requests.submit(Request(self._state.peer_id, lease, verb, body, reply))

    def _without_cancelled(self, leases: list[Lease]) -> list[Lease]:
        self.aborted([lease for lease in leases if lease.cancelled])
        return [lease for lease in leases if not lease.cancelled]
