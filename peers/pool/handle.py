"""One worker, as the pool sees it: what it was assigned, and whether it can take more."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Collection
from typing import Final

from peers.pool.crash import KillReason, WorkerExit, crashed_executions
from peers.pool.deadlines import Deadlines
from peers.pool.durations import ASSIGNMENT_SECONDS, DurationEstimate
from peers.pool.isolation import WorkerRole
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue
from peers.pool.process import WorkerProcess, describe_exit
from peers.protocol.messages import Assign, Begin, Cancel, Recall, Stop

_STOP_WITHIN: Final = 5.0
"""How long a worker that was asked to stop may take to exit."""

_execution_ids = itertools.count(1)


class WorkerHandle:
    """A worker process, and the leases that it has."""

    def __init__(
        self, process: WorkerProcess, slot: int, role: WorkerRole = WorkerRole.ORDINARY
    ) -> None:
        self.process = process
        self.slot = slot
        self.role = role
        self.ready = False
        """It has imported the app."""
        self.asynchronous = False
        self.retiring = False
        """It finishes what it has begun, and is assigned nothing more."""
        self.stopping = False
        """It has finished, and was asked to exit."""
        self.sent_garbage = False
        self.most_tasks: int | None = None
        self.tasks_assigned = 0
        self.leases: dict[int, Lease] = {}
        """The tasks that it has, by their execution ids."""
        self.local_queue: LocalQueue | None = None
        """The queue that a sync worker works for."""
        self.expected_seconds = 0.0
        """How long the tasks that it has are expected to take."""
        self._calls: Counter[int] = Counter()
        """How many tasks it has of each handler call, by batch id."""
        self._calls_assigned = 0
        self._stop_by = float("inf")
        self._recalling = False
        self._killed_for: KillReason | None = None
        self._deadlines = Deadlines(process.marker, self.leases)

    # ---------------------------------------------------------------------------------- assigning

    def begin(self, asynchronous: bool) -> None:
        """Reply to its hello: it may run handlers now."""
        self.asynchronous = self._deadlines.asynchronous = asynchronous
        self.ready = True
        self.process.send(Begin(asynchronous))

    def budget(self, local_queue: LocalQueue) -> float:
        """Return how many seconds of this queue's tasks it should be assigned now; 0: none."""
        if not self.ready or self._killed_for is not None or self._recalling:
            return 0.0
        if self.retiring or self.role is not WorkerRole.ORDINARY:
            return 0.0
        if self.asynchronous:  # also beyond its allowance, until another can take its place
            return float("inf") if local_queue.free_slots > 0 else 0.0
        if self.allowance <= 0:
            return 0.0
        if self.local_queue is None:
            return ASSIGNMENT_SECONDS if local_queue.free_slots > 0 else 0.0
        if self.local_queue is local_queue and self.expected_seconds < ASSIGNMENT_SECONDS:
            return 2 * ASSIGNMENT_SECONDS - self.expected_seconds
        if self.local_queue is local_queue and self.wants_one:
            return ASSIGNMENT_SECONDS
        return 0.0

    @property
    def allowance(self) -> int:
        """Return how many more tasks it should be assigned."""
        return sys.maxsize if self.most_tasks is None else self.most_tasks - self.tasks_assigned

    @property
    def wants_one(self) -> bool:
        """Return whether to assign the next task early, so that it need not wait between two."""
        return len(self._calls) == 1 and self.expected_seconds < 2 * ASSIGNMENT_SECONDS

    def assign(
        self, leases: list[Lease], durations: DurationEstimate, *, as_batch: bool = False
    ) -> None:
        """Send it these leases of one queue; `as_batch`: for one call of a batch handler."""
        local_queue, calls = leases[0].local_queue, 1 if as_batch else len(leases)
        if self.asynchronous:
            local_queue.started(len(leases), slots=calls)
        else:
            local_queue.started(len(leases), slots=self.local_queue is None)
            self.local_queue = local_queue
        is_first = self._calls_assigned == 0
        self._calls_assigned += calls
        self.tasks_assigned += len(leases)
        first_id = 0
        for lease in leases:
            lease.execution_id = next(_execution_ids)
            first_id = first_id or lease.execution_id
            lease.batch_id = first_id if as_batch else lease.execution_id
            lease.is_first = is_first and lease.batch_id == first_id
            lease.expected_seconds = durations.seconds(lease.task.kind)
            self.leases[lease.execution_id] = lease
            self._calls[lease.batch_id] += 1
            self.expected_seconds += lease.expected_seconds
            # bisecting a batch until each task is called alone takes twice as many calls
            self._deadlines.add(lease, calls=2 * len(leases) if as_batch else 1)
        self.process.send(Assign([lease.to_message() for lease in leases], as_batch))

    def take_back(self, execution_id: int) -> Lease | None:
        """Return the lease of an execution that is over here; None if it was over already."""
        lease = self.leases.pop(execution_id, None)
        if lease is None:
            return None
        self._deadlines.remove(execution_id)
        self.expected_seconds -= lease.expected_seconds
        if not self.leases:
            self.expected_seconds = 0.0  # without the error of rounding
        self._calls[lease.batch_id] -= 1
        call_is_over = not self._calls[lease.batch_id]
        if call_is_over:
            del self._calls[lease.batch_id]
        if self.asynchronous:
            lease.local_queue.finished(1, slots=call_is_over)
        else:
            lease.local_queue.finished(1, slots=not self.leases)
            if not self.leases:
                self.local_queue = None
        return lease

    def was_fresh_for(self, lease: Lease) -> bool:
        """Return whether nothing ran before or beside this lease that could exhaust the worker."""
        return lease.is_first and (not self.asynchronous or self._calls_assigned == 1)

    # ----------------------------------------------------------------------------------- stopping

    def retire(self, *, recall: bool = False) -> None:
        """Assign it nothing more; `recall`: also take back what it has not started."""
        self.retiring = True
        if recall:
            self.recall()

    def recall(self) -> None:
        """Ask for the tasks that it has not started."""
        if self.leases and not self._recalling and not self.asynchronous:
            self._recalling = True
            self.process.send(Recall())

    def recalled(self) -> None:
        """Note that it has given back what it had not started."""
        self._recalling = False

    def cancel(self, lease: Lease, grace: float) -> bool:
        """Stop this lease's handler, by force after `grace` seconds; False: it is not here."""
        if self.leases.get(lease.execution_id) is not lease:
            return False
        self.process.send(Cancel(lease.execution_id))
        self.recall()  # the handler may not have started
        self._deadlines.add_cancelled(lease.execution_id, grace)
        return True

    def _stop(self, now: float) -> None:
        """Ask it to exit, and kill it if it takes too long."""
        if not self.stopping:
            self.stopping = True
            self._stop_by = now + _STOP_WITHIN
            self.process.send(Stop())
        elif now > self._stop_by:
            self.process.kill()

    # ----------------------------------------------------------------------------------- watching

    def started(self, now: float) -> list[tuple[Lease, float]]:
        """Return the leases whose handlers run, and for how many seconds."""
        if self.asynchronous:  # it starts every task as soon as it gets it
            return [(lease, now - lease.claimed_at) for lease in self.leases.values()]
        running = self.process.marker.running()
        return [
            (self.leases[number], now - running.since)
            for number in running.execution_ids
            if number in self.leases
        ]

    def watch(self, now: float) -> None:
        """Kill it when a handler exceeds its time; recall tasks that wait behind a slow handler."""
        if self.retiring and not self.leases and self.ready:
            self._stop(now)
        if not self.leases or self._killed_for is not None:
            return
        running = self.process.marker.running()
        reason = self._deadlines.exceeded(running, now)
        if reason is None:
            if len(self._calls) > 1 and self._deadlines.is_slow(running, now):
                self.recall()
            reason = self._deadlines.missed(running, now)
        if reason is not None:
            # what it sends in the meantime counts: its messages are read before its exit is judged
            self._killed_for = reason
            self.process.kill()

    def next_deadline(self) -> float:
        """Return when (monotonic) to `watch` again at the latest."""
        if self._killed_for is not None:
            return float("inf")
        if self.retiring and not self.leases and self.ready:
            return self._stop_by if self.stopping else 0.0
        if not self.leases:
            return float("inf")
        return self._deadlines.next(recall=len(self._calls) > 1 and not self._recalling)

    def reap(self, *, stopped: bool) -> WorkerExit:
        """Free the resources of a dead worker, and decide what its exit means for its leases.

        `stopped`: the peer stopped it, through no fault of its tasks.
        """
        running, last = self.process.marker.running(), self.process.marker.last_started()
        if last is None:  # the marker was destroyed; a sync worker runs its tasks in their order
            last = self._first_call()
        call = running.execution_ids if self.asynchronous else last
        crashed: Collection[int] | None = ()
        if not stopped:
            crashed = crashed_executions(
                self.leases, call, self._killed_for, asynchronous=self.asynchronous
            )
        signal_name, exit_code = describe_exit(self.process.reap())
        worker_exit = WorkerExit(signal_name, exit_code, self._killed_for, self.sent_garbage)
        leases = [lease for number in list(self.leases) if (lease := self.take_back(number))]
        unstarted_from = float("inf") if self.asynchronous or stopped else last.stop
        worker_exit.sort(leases, crashed, unstarted_from)
        return worker_exit

    def _first_call(self) -> range:
        """Return the execution ids of the first call that is not over; empty if all are."""
        first = min(self.leases, default=0)
        if not self.leases:
            return range(0)
        return range(first, first + self._calls[self.leases[first].batch_id])
