"""One worker, as the pool sees it: what it was assigned, and whether it can take more."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from peers.pool.claim import TaskRun, part
from peers.pool.crash import KillReason, WorkerExit, crashed_executions
from peers.pool.deadlines import RECALL_AFTER, Deadlines
from peers.pool.durations import ASSIGNMENT_SECONDS, DurationEstimate
from peers.pool.executions import AssignedLease, Execution, Executions
from peers.pool.isolation import WorkerRole
from peers.pool.lease import Lease
from peers.pool.liveness import own_log
from peers.pool.local_queue import LocalQueue
from peers.pool.process import WorkerProcess, describe_exit
from peers.pool.share import Share
from peers.pool.worker_output import WorkerOutput
from peers.protocol.messages import Assign, Begin, Cancel, Recall, Stop
from peers.protocol.running_marker import Running

_STOP_WITHIN: Final = 5.0
"""How long a worker that was asked to stop may take to exit."""


class _ExecutionIds:
    """Numbers that no execution of this peer has had."""

    def __init__(self) -> None:
        self._next = 1

    def reserve(self, count: int) -> int:
        """Return the first of `count` consecutive numbers."""
        first = self._next
        self._next += count
        return first


_execution_ids: Final = _ExecutionIds()


class WorkerHandle:
    """A worker process, and the tasks that it has."""

    output: WorkerOutput | None = None
    """What its handlers print, if some of its kinds keep their logs."""

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
        self._log = own_log()
        self.executions = Executions()
        """The tasks that it has."""
        self.local_queue: LocalQueue | None = None
        """The queue that a sync worker works for."""
        self.expected_seconds = 0.0
        """How long the tasks that it has are expected to take."""
        self._shares: dict[LocalQueue, Share] = {}
        self._first_call = 0
        """The first handler call that it was assigned."""
        self._calls_assigned = 0
        self._stop_by = float("inf")
        self._recalling = False
        self._stalled = False
        """What waited behind slow handlers was recalled, and no handler has ended since."""
        self._killed_for: KillReason | None = None
        self._deadlines = Deadlines(process.marker, self.executions)

    # ---------------------------------------------------------------------------------- assigning

    def capture(self, policies: Mapping[str, str]) -> None:
        """Take the output of its handlers; `policies`: of the kinds that keep their logs."""
        self.output = WorkerOutput(self.process.output, self.executions, policies)

    def begin(self, asynchronous: bool) -> None:
        """Reply to its hello: it may run handlers now."""
        self.asynchronous = self._deadlines.asynchronous = asynchronous
        self.ready = True
        self.process.send(Begin(asynchronous))

    def budget(self, local_queue: LocalQueue, seconds: float = float("inf")) -> float:
        """Return how many seconds of this queue's tasks it should be assigned now; 0: none.

        `seconds`: how long a handler call is expected to take.
        """
        if not self.ready or self._killed_for is not None or self._recalling:
            return 0.0
        if self.retiring or self.role is not WorkerRole.ORDINARY:
            return 0.0
        if self.asynchronous:  # also beyond its allowance, until another can take its place
            return float("inf") if self.room(local_queue, seconds) else 0.0
        if self.allowance <= 0 or self._stalled:
            return 0.0
        if self.local_queue is None:
            return ASSIGNMENT_SECONDS if local_queue.free_slots > 0 else 0.0
        if self.local_queue is local_queue and self.expected_seconds < ASSIGNMENT_SECONDS:
            return 2 * ASSIGNMENT_SECONDS - self.expected_seconds
        if self.local_queue is local_queue and self.wants_one:
            return ASSIGNMENT_SECONDS
        return 0.0

    def room(self, local_queue: LocalQueue, seconds: float) -> int:
        """Return how many more calls of async handlers it should be assigned."""
        # while nothing ends there, only free slots count
        return self._share(local_queue).room(float("inf") if self._stalled else seconds)

    @property
    def allowance(self) -> int:
        """Return how many more tasks it should be assigned."""
        return sys.maxsize if self.most_tasks is None else self.most_tasks - self.tasks_assigned

    @property
    def wants_one(self) -> bool:
        """Return whether to assign the next task early, so that it need not wait between two."""
        return self.executions.calls == 1 and self.expected_seconds < 2 * ASSIGNMENT_SECONDS

    def assign(
        self, runs: Sequence[TaskRun], durations: DurationEstimate, *, as_batch: bool = False
    ) -> None:
        """Send it these tasks of one queue; `as_batch`: for one call of a batch handler."""
        tasks = sum(run.count for run in runs)
        calls = 1 if as_batch else tasks
        local_queue = runs[0].claim.local_queue
        share = self._share(local_queue)
        slots = share.available if self.asynchronous else 1
        first = execution_id = _execution_ids.reserve(tasks)
        message = Assign([], as_batch, local_queue.queue, slots, share.mark)
        for run in runs:
            self._log.assigned(run, share.mark, execution_id)  # before it is sent
            message.runs.append(run.claim.to_message(run.first, run.count, execution_id))
            execution_id += run.count
        self.process.send(message)  # before anything else, because an idle worker waits for it
        share.started(tasks, calls, slots, time.monotonic())
        self.local_queue = local_queue
        self._first_call = self._first_call or first
        self._calls_assigned += calls
        self.tasks_assigned += tasks
        execution_id = first
        for run in runs:
            claim, index, count = run
            seconds = durations.total(part(claim.kinds, index, count), count)
            execution = Execution(execution_id, run, seconds / count, first if as_batch else None)
            self.executions.add(execution)
            self.expected_seconds += seconds
            # bisecting a batch until each task is called alone takes twice as many calls
            self._deadlines.add(execution, calls=2 * tasks if as_batch else 1)
            if claim.is_limited:
                claim.in_workers[self.process.pid] += count
            execution_id += count

    def _share(self, local_queue: LocalQueue) -> Share:
        share = self._shares.get(local_queue)
        if share is None:
            share = self._shares[local_queue] = Share(local_queue, self._log.take_mark())
        return share

    def ended(self, execution_id: int, count: int = 1) -> Execution | None:
        """Return executions that have ended; None if one of them had ended already."""
        self._stalled = False
        return self._take_back(execution_id, count)

    def recalled(self, executions: Sequence[tuple[int, int]]) -> list[Lease]:
        """Return the leases of tasks that it has given back, because it had not started them."""
        self._recalling = False
        parts = [part for each in executions for part in self.executions.split(*each)]
        taken = (self._take_back(execution_id, count) for execution_id, count in parts)
        return [lease for execution in taken if execution for lease in execution.run.leases()]

    def _take_back(self, execution_id: int, count: int) -> Execution | None:
        execution = self.executions.take(execution_id, count)
        if execution is None:
            return None
        self._deadlines.remove(execution)
        self.expected_seconds -= execution.expected_seconds * count
        if not self.executions:
            self.expected_seconds = 0.0  # without the error of rounding
        batch_id = execution.batch_id
        calls = count if batch_id is None else not self.executions.has_batch(batch_id)
        claim = execution.run.claim
        if claim.is_limited:
            claim.left_worker(self.process.pid, count)
        self._shares[claim.local_queue].finished(count, calls, time.monotonic())
        if not self.executions:
            self.local_queue = None
        return execution

    def was_fresh_for(self, execution: Execution) -> bool:
        """Return whether nothing ran before or beside it that could exhaust the worker."""
        is_first = execution.call(execution.execution_id) == self._first_call
        return is_first and (not self.asynchronous or self._calls_assigned == 1)

    # ----------------------------------------------------------------------------------- stopping

    def retire(self, *, recall: bool = False) -> None:
        """Assign it nothing more; `recall`: also take back what it has not started."""
        self.retiring = True
        if recall:
            self.recall()

    def recall(self) -> None:
        """Ask for the tasks that it has not started."""
        if self.executions and not self._recalling:
            self._recalling = True
            self.process.send(Recall())

    def cancel(self, lease: Lease, grace: float) -> bool:
        """Stop this lease's handler, by force after `grace` seconds; False: it is not here."""
        execution_id = self.executions.find_task(TaskRun(lease.claim, lease.index, 1))
        if execution_id is None:
            return False
        self.process.send(Cancel(execution_id))
        self.recall()  # the handler may not have started
        self._deadlines.add_cancelled(execution_id, grace)
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
        if self.asynchronous:  # it starts them in their order
            leases = [lease for each in self.executions for lease in each.run.leases()]
            waiting = sum(share.next_calls for share in self._shares.values())
            started = leases[: len(leases) - waiting] if waiting else leases
            return [(lease, now - lease.claimed_at) for lease in started]
        running = self.process.marker.running()
        found = [(self.executions.find(number), number) for number in running.execution_ids]
        return [
            (execution.lease(number), now - running.since)
            for execution, number in found
            if execution is not None
        ]

    def watch(self, now: float) -> None:
        """Kill it when a handler exceeds its time; recall tasks that wait behind a slow handler."""
        if self.retiring and not self.executions and self.ready:
            self._stop(now)
        if not self.executions or self._killed_for is not None:
            return
        running = self.process.marker.running()
        reason = self._deadlines.exceeded(running, now)
        if reason is None:
            if self._is_slow(running, now):
                self.recall()
                self._stalled = True
            reason = self._deadlines.missed(running, now)
        if reason is not None:
            # what it sends in the meantime counts: its messages are read before its exit is judged
            self._killed_for = reason
            self.process.kill()

    def _is_slow(self, running: Running, now: float) -> bool:
        """Return whether tasks wait behind handlers that take long."""
        if not self.asynchronous:
            return self.executions.calls > 1 and self._deadlines.is_slow(running, now)
        return any(
            share.next_calls and now - share.changed_at > RECALL_AFTER
            for share in self._shares.values()
        )

    def next_deadline(self) -> float:
        """Return when (monotonic) to `watch` again at the latest."""
        if self._killed_for is not None:
            return float("inf")
        if self.retiring and not self.executions and self.ready:
            return self._stop_by if self.stopping else 0.0
        if not self.executions:
            return float("inf")
        may_recall = not self._recalling and not self._stalled
        due = self._deadlines.next(recall=may_recall and self.executions.calls > 1)
        if may_recall and self.asynchronous:
            waiting = (share for share in self._shares.values() if share.next_calls)
            due = min([due, *(share.changed_at + RECALL_AFTER for share in waiting)])
        return due

    def reap(self, *, stopped: bool) -> WorkerExit:
        """Free the resources of a dead worker, and decide what its exit means for its leases.

        `stopped`: the peer stopped it, through no fault of its tasks.
        """
        running, last = self.process.marker.running(), self.process.marker.last_started()
        if last is None:  # the marker was destroyed; a sync worker runs its tasks in their order
            last = self._next_call()
            for execution in self.executions:  # outcomes of later ones may be lost
                _, first, count = execution.run
                execution.run.claim.rerun.update(range(first, first + count))
        call = running.execution_ids if self.asynchronous else last
        crashed: Collection[int] | None = ()
        if not stopped:
            crashed = crashed_executions(
                self.executions, call, self._killed_for, asynchronous=self.asynchronous
            )
        signal_name, exit_code = describe_exit(self.process.reap())
        worker_exit = WorkerExit(signal_name, exit_code, self._killed_for, self.sent_garbage)
        unstarted_from = float("inf") if self.asynchronous or stopped else last.stop
        tasks = self._take_back_all()
        worker_exit.sort(tasks, crashed, unstarted_from)
        if self.output is not None:
            failed = {lease for lease, _ in worker_exit.failed}
            for task in tasks:
                log = self.output.failed(task.execution_id) if task.lease in failed else None
                if log is not None:
                    worker_exit.logs.append((task.lease, log))
        for share in self._shares.values():
            self._log.free_mark(share.mark)
        return worker_exit

    def _take_back_all(self) -> list[AssignedLease]:
        tasks: list[AssignedLease] = []
        for execution in list(self.executions):
            self._take_back(execution.execution_id, execution.run.count)
            tasks += execution.assigned_leases()
        return tasks

    def _next_call(self) -> range:
        """Return the execution ids of the first call that is not over; empty if all are."""
        for execution in self.executions:
            first = execution.execution_id
            tasks = len(self.executions.ids_of_call(execution.call(first)))
            return range(first, first + tasks)
        return range(0)
