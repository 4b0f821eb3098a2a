"""Decide when a worker is replaced. It finishes what it has begun; another takes its place.

A worker that ran out of descriptors, memory or threads fails whatever comes to it next. So it is
given nothing more, and what failed there for want of them runs again elsewhere: only who exhausts
a fresh worker has itself to blame.
"""

from __future__ import annotations

import contextlib
import resource
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peers.pool.handle import WorkerHandle
from peers.protocol.messages import Completed, Failed

_MOST_KINDS_IN_A_ROW: Final = 3
_SUSPECT_EVERY: Final = 30.0
"""Seconds between two retirements for failures in a row: these may have a cause outside."""
_LOOK_EVERY: Final = 1.0
_MOST_RETIRING_LOOPS: Final = 4
"""Workers with async handlers that still finish what they have; each of them may take long."""
_DELIBERATE: Final = frozenset(
    {"Retry", "Snooze", "Reject", "ArgsInvalid", "ResultInvalid", "cancelled"}
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many tasks a worker may run, and how many bytes it may hold (resident); None: any."""

    max_tasks: int | None = None
    max_memory: int | None = None


class Retirement:
    """Decides which workers retire, from what they say and what is seen of them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kinds: dict[WorkerHandle, Counter[str]] = {}
        self._suspect_at = 0.0
        self._look_at = 0.0

    def begin(self, worker: WorkerHandle) -> None:
        """Take in a worker that is ready."""
        worker.most_tasks = self._limits.max_tasks

    def bury(self, worker: WorkerHandle) -> None:
        """Forget a worker that is gone."""
        self._kinds.pop(worker, None)

    def reason(
        self, worker: WorkerHandle, kind: str, outcome: Completed | Failed, now: float
    ) -> str | None:
        """Return why the worker should run nothing more after this outcome; None: it may go on."""
        if isinstance(outcome, Completed):
            self._kinds.pop(worker, None)
            return None
        if outcome.exhausted:
            return f"{outcome.error_type}: {outcome.error_message}"
        if outcome.error_type in _DELIBERATE:
            return None
        kinds = self._kinds.setdefault(worker, Counter())
        kinds[kind] += 1
        if len(kinds) < _MOST_KINDS_IN_A_ROW or now < self._suspect_at:
            return None
        self._suspect_at = now + _SUSPECT_EVERY
        return f"{len(kinds)} kinds failed there in a row: {', '.join(kinds)}"

    def look(self, workers: Sequence[WorkerHandle], now: float) -> list[tuple[WorkerHandle, str]]:
        """Return who has run enough tasks or holds too much memory, and why it should retire."""
        found = []
        if self._limits.max_tasks is not None:
            found = [
                (worker, f"it was given {worker.tasks_given} tasks")
                for worker in workers
                if worker.allowance <= 0
            ]
        if self._limits.max_memory is None or now < self._look_at:
            return found
        self._look_at = now + _LOOK_EVERY
        for worker in workers:
            held = resident(worker.process.pid) if worker.tasks_given else 0
            if held > self._limits.max_memory:
                found.append((worker, f"it holds {held >> 20} MiB of memory"))
        return found


def may_retire(worker: WorkerHandle, workers: Sequence[WorkerHandle]) -> bool:
    """Return whether another may replace it now: loops that still finish must not pile up."""
    loops = sum(other.asynchronous and other.retiring for other in workers)
    return not worker.asynchronous or loops < _MOST_RETIRING_LOOPS


def resident(pid: int) -> int:
    """Return the bytes of memory that a process holds; 0 when it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    return 0
