"""Report to the peer what workers send about their tasks, and what their exits mean."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec

from peers import events
from peers.errors import PeerLost, PeersError
from peers.logs.log_output import log_printed
from peers.pool.claim import TaskRun
from peers.pool.crash import WorkerExit, batches_by_queue
from peers.pool.durations import DurationEstimate
from peers.pool.executions import AssignedLease
from peers.pool.handle import WorkerHandle
from peers.pool.isolation import IsolatedGroup, WorkerRole
from peers.pool.lease import Lease
from peers.pool.outcome_listener import OutcomeListener
from peers.pool.retirement import Retirement
from peers.protocol.messages import Completed, Failed, HandlerRequest, Reply

_NOT_OF_THE_FAILURE = ("execution_id", "seconds", "exhausted")


class OutcomeReporter:
    """Turns outcomes of executions into outcomes of leases."""

    def __init__(
        self, listener: OutcomeListener, durations: DurationEstimate, retirement: Retirement,
        workers: Sequence[WorkerHandle],
    ) -> None:  # fmt: skip
        self._listener = listener
        self._durations = durations
        self._retirement = retirement
        self._workers = workers

    def outcomes(self, worker: WorkerHandle, outcomes: list[Completed | Failed]) -> None:
        """Report these outcomes; run again what failed because others had exhausted the worker."""
        self.read_output(worker, rest=True)
        exhausted = []
        for outcome in outcomes:
            if isinstance(outcome, Completed):
                self._completed(worker, outcome)
            elif (task := self._failed(worker, outcome)) is not None:
                exhausted.append(task)
        for batches in batches_by_queue(exhausted).values():
            group = IsolatedGroup(batches, worker.asynchronous)
            was_isolated = worker.role is not WorkerRole.ORDINARY
            bisect = was_isolated and len(batches) > 1
            self._listener.isolated(group.halves() if bisect else [group])

    def read_output(self, worker: WorkerHandle, *, rest: bool = False) -> None:
        """Read what the handlers have printed; `rest`: everything before what they have sent."""
        if worker.output is None:
            return
        now = time.monotonic()
        for lease, line in worker.output.read_rest(now) if rest else worker.output.read(now):
            log_line(lease, line)

    def store_due_logs(self, worker: WorkerHandle, now: float) -> None:
        """Report logs of running attempts that should be stored now."""
        if worker.output is not None:
            for lease, text in worker.output.due(now):
                self._listener.logged(lease, None, text)

    def _completed(self, worker: WorkerHandle, outcome: Completed) -> None:
        """Report tasks whose handlers have returned. They are of one kind."""
        count = outcome.count
        execution = worker.ended(outcome.execution_id, count)
        if execution is None:
            return
        run = execution.run
        seconds = outcome.seconds / count
        kind = run.claim.kind(run.first)
        self._durations.note(kind, seconds, count)
        self._listener.ran(run.claim.local_queue.queue, kind, seconds, count)
        self._retirement.succeeded(worker)
        _log_completed(run, seconds)
        if worker.output is not None:
            for lease, log in worker.output.completed(execution):
                self._listener.logged(lease, "completed", log)
        self._listener.completed_run(run, outcome.results)

    def _failed(self, worker: WorkerHandle, outcome: Failed) -> AssignedLease | None:
        """Report a failure; or return a task that failed because others exhausted its worker."""
        execution = worker.ended(outcome.execution_id)
        if execution is None:
            return None
        [task] = execution.assigned_leases()
        kind = task.lease.task.kind
        self._durations.note(kind, outcome.seconds)
        self._listener.ran(task.lease.local_queue.queue, kind, outcome.seconds, 1)
        reason = self._retirement.reason(worker, kind, outcome, time.monotonic())
        if reason is not None:
            self._retirement.retire(worker, reason, self._workers, recall=True)
        if outcome.exhausted and not worker.was_fresh_for(execution):
            return task
        failure = msgspec.structs.asdict(outcome)
        for name in _NOT_OF_THE_FAILURE:
            del failure[name]
        if worker.output is not None and not outcome.snooze:
            log = worker.output.failed(task.execution_id)
            if log is not None:
                self._listener.logged(task.lease, "failed", log)
        self._listener.failed(task.lease, failure)
        return None

    def recalled(self, worker: WorkerHandle, executions: list[tuple[int, int]]) -> None:
        """Report the tasks that a worker has given back, which it had not started."""
        self._listener.requeued(worker.recalled(executions))

    def requested(
        self, worker: WorkerHandle, request: HandlerRequest,
        send: Callable[[WorkerHandle, Reply], None],
    ) -> None:  # fmt: skip
        """Pass a handler's request on, and send the reply if the worker still exists by then."""

        def reply(body: bytes | PeersError) -> None:
            if not request.request_id or worker not in self._workers:
                return
            if isinstance(body, bytes):
                send(worker, Reply(request.request_id, body))
            else:
                error = (type(body).__name__, body.message, body.hint)
                send(worker, Reply(request.request_id, b"null", error))

        execution = worker.executions.find(request.execution_id)
        if execution is None:  # a thread that its handler left behind, which must not wait for ever
            reply(PeerLost("the task of this request is no longer running"))
        else:
            lease = execution.lease(request.execution_id)
            self._listener.requested(lease, request.verb, request.body, reply)

    def exited(self, worker_exit: WorkerExit) -> None:
        """Report what a worker's exit means for its leases."""
        for lease, log in worker_exit.logs:
            self._listener.logged(lease, "failed", log)
        for lease, failure in worker_exit.failed:
            self._listener.failed(lease, failure)
        self._listener.bisected(worker_exit.bisected)
        self._listener.isolated(worker_exit.isolated)
        self._listener.requeued(worker_exit.requeued)
        self._listener.released(worker_exit.released)


def log_line(lease: Lease, line: bytes) -> None:
    """Log a line that a program of a handler has printed, with the fields of the task."""
    task = lease.task
    fields = {
        "task_id": task.task_id, "kind": task.kind, "attempt": task.attempt, "token": task.token,
    }  # fmt: skip
    log_printed("stdout", line, fields)


def _log_completed(run: TaskRun, seconds: float) -> None:
    """Log each task, if that is wanted; count them in any case."""
    if not events.are_logged(logging.DEBUG):
        events.counts[events.task_completed.__name__] += run.count
        return
    claim = run.claim
    token = UUID(bytes=claim.token)
    for index in range(run.first, run.first + run.count):
        events.task_completed(
            task_id=claim.task_id(index), kind=claim.kind(index), attempt=claim.attempt(index),
            token=token, seconds=seconds,
        )  # fmt: skip


def log_exit(worker: WorkerHandle, worker_exit: WorkerExit) -> None:
    """Log an exit, unless the peer told the worker to stop."""
    pid = worker.process.pid
    tasks = [lease.task for lease, _ in worker_exit.failed]
    task_ids = [task.task_id for task in tasks]
    kinds, tokens = [task.kind for task in tasks], [task.token for task in tasks]
    if worker_exit.kill is not None:
        reason = worker_exit.kill.message
        events.worker_killed(
            worker_pid=pid, reason=reason, task_ids=task_ids, kinds=kinds, tokens=tokens
        )
    elif not worker.stopping:
        events.worker_died(
            worker_pid=pid, reason=worker_exit.description, exit_signal=worker_exit.exit_signal,
            exit_code=worker_exit.exit_code, task_ids=task_ids, kinds=kinds, tokens=tokens,
        )  # fmt: skip
