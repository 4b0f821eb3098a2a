"""What the pool knows about a running task without asking its worker."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Literal

from peers.pool.claim import TaskRun
from peers.pool.handle import WorkerHandle
from peers.pool.lease import Lease
from peers.pool.stack_dump import StackDump
from peers.protocol.messages import Peek

Phase = Literal["running", "waiting", "ended"]


@dataclass(slots=True)
class PeekTarget:
    """Where a task is. A thread reads more about its worker, and then closes it."""

    phase: Phase
    sentence: str
    """Where it is, for people."""
    kind: str | None = None
    """The kind and the attempt. None: the attempt has ended."""
    attempt: int | None = None
    seconds: float | None = None
    """How long the handler has been running."""
    worker_pid: int | None = None
    pidfd: int = -1
    dump: StackDump | None = None

    def close(self) -> None:
        """Close our copies of the worker's descriptors."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.dump is not None:
            self.dump.close()
            self.dump = None


def ask_worker(worker: WorkerHandle, lease: Lease, peek_id: int, now: float) -> PeekTarget | None:
    """Ask a worker for the stacks of a task, and return what the pool knows; None: not here."""
    execution_id = worker.executions.find_task(TaskRun(lease.claim, lease.index, 1))
    if execution_id is None:
        return None
    target = _target(worker, lease, execution_id, now)
    target.worker_pid = worker.process.pid
    with contextlib.suppress(OSError):  # no descriptor is free: /proc still says something
        target.pidfd = os.dup(worker.process.pidfd)
        target.dump = (
            None if worker.process.stack_dump is None else worker.process.stack_dump.duplicate()
        )
    worker.process.send(Peek(peek_id, execution_id))
    return target


def _target(worker: WorkerHandle, lease: Lease, execution_id: int, now: float) -> PeekTarget:
    running = worker.process.marker.running()
    has_thread = execution_id in running.execution_ids
    others = len(worker.executions) - 1
    if worker.asynchronous:
        seconds = now - lease.claimed_at
        sentence = f"claimed {seconds:.1f} s ago, in an event loop"
        if others:
            sentence += f" with {others} other {'task' if others == 1 else 'tasks'}"
        if running.execution_id and not has_thread:
            found = worker.executions.find(running.execution_id)
            if found is not None:
                other = found.lease(running.execution_id).task
                held = now - running.since
                sentence += f"; task {other.task_id} ({other.kind}) has the loop since {held:.3f} s"
        elif has_thread:
            sentence += f"; it has the loop since {now - running.since:.3f} s"
        return PeekTarget("running", sentence, seconds=seconds)
    if has_thread:
        seconds = now - running.since
        sentence = f"running for {seconds:.1f} s"
        if running.span > 1:
            sentence += f", in a batch of {running.span} tasks"
        return PeekTarget("running", sentence, seconds=seconds)
    found = worker.executions.find(running.execution_id) if running.execution_id else None
    if found is None:
        return PeekTarget("waiting", "its handler starts or ends at this moment")
    other = found.lease(running.execution_id).task
    sentence = (
        f"has not started: it waits in its worker behind task {other.task_id} ({other.kind}), "
        f"which has been running for {now - running.since:.1f} s. The stack is that task's"
    )
    return PeekTarget("waiting", sentence)
