"""Decide when to replace a worker. It finishes what it has begun, and another takes its place.

A worker that ran out of descriptors, memory or threads fails every task that it gets next. So it is
assigned nothing more, and the tasks that failed there because of it run again in another worker.
Only a task that exhausts a fresh worker has failed.
"""

from __future__ import annotations

import contextlib
import resource
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peers import events
from peers.pool.handle import WorkerHandle
from peers.protocol.messages import Failed

_MOST_KINDS_IN_A_ROW: Final = 3
_RETIRE_EVERY: Final = 30.0
"""Seconds between two retirements for failures in a row, which may have a cause elsewhere."""
_MEASURE_EVERY: Final = 1.0
_MOST_RETIRING_LOOPS: Final = 4
"""Async workers that still finish what they have: each of them may take long."""
_DELIBERATE: Final = frozenset(
    {"Retry", "Snooze", "Reject", "ArgsInvalid", "ResultInvalid", "cancelled"}
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many tasks a worker may run, and how many resident bytes it may hold; None: any."""

    max_tasks: int | None = None
    max_memory: int | None = None


class Retirement:
    """Decides which workers retire, by their outcomes, their tasks and their memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kinds: dict[WorkerHandle, Counter[str]] = {}
        self._retire_at = 0.0
        self._measure_at = 0.0

    def begin(self, worker: WorkerHandle) -> None:
        """Set the limit of a worker that is ready."""
        worker.most_tasks = self._limits.max_tasks

    def forget(self, worker: WorkerHandle) -> None:
        """Forget a worker that has exited."""
        self._kinds.pop(worker, None)

    def succeeded(self, worker: WorkerHandle) -> None:
        """Note that a handler has returned there."""
        self._kinds.pop(worker, None)

    def reason(self, worker: WorkerHandle, kind: str, outcome: Failed, now: float) -> str | None:
        """Return why the worker should retire after this failure; None: it need not."""
        if outcome.exhausted:
            return f"{outcome.error_type}: {outcome.error_message}"
        if outcome.error_type in _DELIBERATE:
            return None
        kinds = self._kinds.setdefault(worker, Counter())
        kinds[kind] += 1
        if len(kinds) < _MOST_KINDS_IN_A_ROW or now < self._retire_at:
            return None
        self._retire_at = now + _RETIRE_EVERY
        return f"{len(kinds)} kinds failed there in a row: {', '.join(kinds)}"

    def due(self, workers: Sequence[WorkerHandle], now: float) -> list[tuple[WorkerHandle, str]]:
        """Return the workers with enough tasks or too much memory, and why they should retire."""
        found = []
        if self._limits.max_tasks is not None:
            found = [
                (worker, f"it was assigned {worker.tasks_assigned} tasks")
                for worker in workers
                if worker.allowance <= 0
            ]
        if self._limits.max_memory is None or now < self._measure_at:
            return found
        self._measure_at = now + _MEASURE_EVERY
        for worker in workers:
            held = resident(worker.process.pid) if worker.tasks_assigned else 0
            if held > self._limits.max_memory:
                found.append((worker, f"it holds {held >> 20} MiB of memory"))
        return found

    def retire(
        self, worker: WorkerHandle, reason: str, workers: Sequence[WorkerHandle], *,
        recall: bool = False,
    ) -> None:  # fmt: skip
        """Let a worker finish what it has begun, and have another take its place."""
        if not worker.retiring and may_retire(worker, workers):
            pid, tasks = worker.process.pid, worker.tasks_assigned
            events.worker_retired(worker_pid=pid, reason=reason, tasks=tasks)
            worker.retire(recall=recall)


def may_retire(worker: WorkerHandle, workers: Sequence[WorkerHandle]) -> bool:
    """Return whether another may replace it now: retiring async workers must not pile up."""
    loops = sum(other.asynchronous and other.retiring for other in workers)
    return not worker.asynchronous or loops < _MOST_RETIRING_LOOPS


def resident(pid: int) -> int:
    """Return how many bytes of memory a process holds; 0 if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    return 0
