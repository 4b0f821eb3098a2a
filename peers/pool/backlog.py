"""The tasks of a queue that are claimed and wait for a worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from peers.pool.claim import Claim, TaskRun, part, without
from peers.pool.durations import ARGS_MAX_BYTES, DurationEstimate
from peers.pool.lease import Lease

_ROUNDING: Final = 1e-9


class Backlog:
    """Runs with the same BatchKey, smallest priority first, and in the order of their claims."""

    def __init__(self) -> None:
        self._runs: list[TaskRun] = []
        self._tasks = 0

    def __len__(self) -> int:
        return self._tasks

    def __iter__(self) -> Iterator[TaskRun]:
        return iter(self._runs)

    @property
    def head(self) -> TaskRun:
        """Return the most urgent run."""
        return self._runs[0]

    @property
    def oldest_at(self) -> float:
        """Return when (monotonic) the task that waits longest was claimed."""
        return min(run.claim.claimed_at for run in self._runs)

    def add(self, run: TaskRun) -> None:
        """Add a run, behind those of the same priority."""
        self._tasks += run.count
        self._runs.append(run)
        if len(self._runs) > 1:  # nearly sorted already, so this is quick
            self._runs.sort(key=_order)

    def fitting(self, budget: float, most: int, durations: DurationEstimate) -> int:
        """Return how many tasks take about `budget` seconds together; no more than `most`.

        Their args fit in one assignment. At least one always does.
        """
        count, bytes_left = 0, ARGS_MAX_BYTES
        for run in self._runs:
            if run.claim.is_limited:
                return count or _limited(run)
            more, seconds = _within(run, budget, most - count, durations)
            size = run.part(0, more).args_size()
            if size > bytes_left:
                return count + _within_bytes(run, bytes_left, more, at_least=0 if count else 1)
            count, budget, bytes_left = count + more, budget - seconds, bytes_left - size
            if more < run.count:
                break
        return count

    def take(self, count: int) -> list[TaskRun]:
        """Take `count` tasks from the front."""
        taken: list[TaskRun] = []
        self._tasks -= count
        while count:
            run = self._runs[0]
            if run.count <= count:
                del self._runs[0]
            else:
                run, self._runs[0] = run.split(count)
            taken.append(run)
            count -= run.count
        return taken

    def drop(self, unwanted: Iterable[Lease]) -> None:
        """Forget these leases."""
        gone: dict[Claim, set[int]] = {}
        for lease in unwanted:
            gone.setdefault(lease.claim, set()).add(lease.index)
        self._runs = [rest for run in self._runs for rest in without(run, gone.get(run.claim))]
        self._tasks = sum(run.count for run in self._runs)


def _order(run: TaskRun) -> tuple[int, bool]:
    # limited tasks first: a limit may keep others waiting for them
    return run.priority, not run.claim.is_limited


def _limited(run: TaskRun) -> int:
    """Return how many tasks of a run to assign together, if they are under a limit.

    They were claimed for slots that are free, so each worker gets one. A run that may not run
    beside the rest of its claim is for one worker, and is not divided.
    """
    return 1 if run.claim.most_running is None else run.count


def _within(
    run: TaskRun, budget: float, most: int, durations: DurationEstimate
) -> tuple[int, float]:
    """Return how many tasks from the front of a run take about `budget` seconds, and how long."""
    most = min(most, run.count)
    kinds = part(run.claim.kinds, run.first, most)
    if len(kinds) == 1:
        seconds = durations.seconds(kinds[0])
        if seconds * most > budget:
            most = max(0, int(budget / seconds + _ROUNDING))
        return most, seconds * most
    total = 0.0
    for count, kind in enumerate(kinds):
        seconds = durations.seconds(kind)
        if total + seconds > budget:
            return count, total
        total += seconds
    return most, total


def _within_bytes(run: TaskRun, bytes_left: int, most: int, *, at_least: int) -> int:
    """Return how many tasks from the front of a run have so few bytes of args."""
    for count in range(most):
        bytes_left -= run.part(count, 1).args_size()
        if bytes_left < 0:
            return max(count, at_least)
    return most
