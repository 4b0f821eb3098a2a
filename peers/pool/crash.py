"""Decide what happens to a worker's leases when it exits: which failed, and which run again."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from peers.bisect import halves
from peers.pool.executions import AssignedLease, Executions
from peers.pool.isolation import IsolatedGroup
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue
from peers.pool.log_tail import KeptText

CANCELLED: Final = "cancelled"
CRASH: Final = "crash"
_WROTE_INTO_SOCKET: Final = (
    "the worker process was killed while it ran this task: something wrote into its connection to "
    "the peer, which handlers must not use"
)


class KillReason(NamedTuple):
    """Why the peer killed a worker: because of this task, whose attempt failed like this."""

    execution_id: int
    error_type: str
    message: str


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """How a worker ended, and what follows for the leases that it had.

    `kill`: why the peer killed it; None: it did not, or because the worker `sent_garbage`.
    `bisected`: parts of a batch, each to be called again, under the same leases. `isolated`: to
    run again in workers of their own. `requeued`: had not started, so they can be assigned again.
    `released`: may have started, and were stopped through no fault of their own. `logs`: of those
    that failed.
    """

    exit_signal: str | None
    exit_code: int | None
    kill: KillReason | None = None
    sent_garbage: bool = False
    failed: list[tuple[Lease, dict[str, object]]] = field(default_factory=list)
    bisected: list[list[Lease]] = field(default_factory=list)
    isolated: list[IsolatedGroup] = field(default_factory=list)
    requeued: list[Lease] = field(default_factory=list)
    released: list[Lease] = field(default_factory=list)
    logs: list[tuple[Lease, KeptText]] = field(default_factory=list)

    @property
    def description(self) -> str:
        """Return how the worker ended, in words."""
        if self.exit_signal is not None:
            return f"was killed by {self.exit_signal}"
        return f"exited with code {self.exit_code}"

    def sort(
        self, tasks: list[AssignedLease], crashed: Collection[int] | None, unstarted_from: float
    ) -> None:
        """Decide what becomes of each task that the worker had.

        `crashed`: the execution ids of the handler call that ended the worker; None: it may be any
        call. Executions from `unstarted_from` on had not started.
        """
        if crashed is None and len(tasks) > 1:
            for batches in batches_by_queue(tasks).values():
                self.isolated.extend(IsolatedGroup(batches, asynchronous=True).halves())
            return
        if crashed is None:
            crashed = [task.execution_id for task in tasks]
        crashed_batches = _by_call(task for task in tasks if task.execution_id in crashed)
        siblings: dict[int, list[Lease]] = {}
        for execution_id, call, lease in tasks:
            if execution_id in crashed:
                continue
            if call in crashed_batches:  # stays under its lease, like the bisected ones
                siblings.setdefault(call, []).append(lease)
            elif execution_id >= unstarted_from:
                self.requeued.append(lease)
            else:
                self.released.append(lease)
        for batch in crashed_batches.values():
            if len(batch) > 1:  # any of them may have done it
                self.bisected.extend(halves(batch))
            else:
                self.failed.append((batch[0], self._failure()))
        self.bisected.extend(siblings.values())

    def _failure(self) -> dict[str, object]:
        """Return the failure of the task that ended the worker."""
        if self.kill is not None:
            _, error_type, message = self.kill
        elif self.sent_garbage:
            error_type, message = CRASH, _WROTE_INTO_SOCKET
        else:
            error_type = CRASH
            message = f"the worker process {self.description} while it ran this task"
        return {
            "error_type": error_type, "error_message": message,
            "exit_signal": self.exit_signal, "exit_code": self.exit_code,
        }  # fmt: skip


def batches_by_queue(tasks: Iterable[AssignedLease]) -> dict[LocalQueue, list[list[Lease]]]:
    """Return the leases of each handler call, by their local queue."""
    queues: dict[LocalQueue, list[list[Lease]]] = {}
    for batch in _by_call(tasks).values():
        queues.setdefault(batch[0].local_queue, []).append(batch)
    return queues


def crashed_executions(
    executions: Executions, call: range, kill: KillReason | None, *, asynchronous: bool
) -> Collection[int] | None:
    """Return the execution ids of the call that ended a worker; None: it may be any of its calls.

    `call`: the call that ran (async) or that started last (sync) when the worker ended. A sync
    worker may have ended after that call was over: then its outcome was lost with the worker.
    """
    if kill is not None:
        if kill.error_type == CANCELLED:
            return (kill.execution_id,)
        if kill.execution_id in call:
            return call
        execution = executions.find(kill.execution_id)
        first = kill.execution_id if execution is None else execution.call(kill.execution_id)
        return executions.ids_of_call(first)
    if asynchronous and not any(executions.find(number) for number in call):
        return (
            None  # it died while no handler had the loop: in a handler's thread, or out of memory
        )
    return call


def _by_call(tasks: Iterable[AssignedLease]) -> dict[int, list[Lease]]:
    batches: dict[int, list[Lease]] = {}
    for task in tasks:
        batches.setdefault(task.call, []).append(task.lease)
    return batches
