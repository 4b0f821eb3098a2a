"""The tasks that are claimed and may not run yet, because their lease lets only some run at once.

A limit holds for the tasks that run. So a lease of short tasks may have more of them than may run:
they run one after the other, and the peer need not ask the database in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Final

from peers.pool.claim import Claim, TaskRun, without
from peers.pool.durations import CLAIM_SECONDS, DurationEstimate

if TYPE_CHECKING:
    from peers.pool.lease import Lease

_SHORTEST: Final = 1e-6
_RUN_SECONDS: Final = 0.1
"""How long a worker runs tasks before it must ask for more. It gets nothing in advance, because
the next tasks may go to another worker. With tasks of 10 ms, one at a time halves the
throughput."""
assert _RUN_SECONDS < CLAIM_SECONDS
_WAIT_MAX: Final = 4 * CLAIM_SECONDS
"""Tasks that have waited so long are given back: those before them take longer than expected."""


class LimitedRuns:
    """Holds runs back until as few tasks of their claim run as may, and until they may start."""

    def __init__(self, durations: DurationEstimate) -> None:
        self._durations = durations
        self._runs: dict[Claim, list[TaskRun]] = {}

    def __iter__(self) -> Iterator[TaskRun]:
        for runs in self._runs.values():
            yield from runs

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, run: TaskRun) -> None:
        """Hold a run back, behind the others of its claim."""
        self._runs.setdefault(run.claim, []).append(run)

    def waiting_for_time(self, now: float) -> int:
        """Return how many tasks wait for their earliest start. Each needs a slot then."""
        return sum(run.count for run in self if run.claim.start_at > now)

    def next_start(self, now: float) -> float:
        """Return when (monotonic) the next tasks may start that wait for their time."""
        times = (claim.start_at for claim in self._runs if claim.start_at > now)
        return min(times, default=float("inf"))

    def admit(self, now: float, count_out: Callable[[Claim], int]) -> Iterator[TaskRun]:
        """Yield the runs that may start now. Each is for one worker, which runs it in order.

        `count_out`: how many runs of a claim are elsewhere, in the backlog or in workers.
        """
        for claim in list(self._runs):
            if claim.start_at > now:
                continue
            runs = self._runs[claim]
            room = len(runs) if claim.most_running is None else claim.most_running
            if claim.most_running is not None:
                room -= count_out(claim)
            while runs and room > 0:
                run = runs.pop(0)
                count = min(run.count, self._at_once(run))
                if count < run.count:
                    run, rest = run.split(count)
                    runs.insert(0, rest)
                yield run
                room -= 1
            if not runs:
                del self._runs[claim]

    def waited_too_long(self, now: float) -> list[Lease]:
        """Return the leases of tasks that wait behind slow tasks of the same claim."""
        return [
            lease
            for claim, runs in self._runs.items()
            if claim.most_running is not None and now - claim.claimed_at > _WAIT_MAX
            for run in runs
            for lease in run.leases()
        ]

    def drop(self, unwanted: Collection[Lease]) -> None:
        """Forget these leases."""
        gone: dict[Claim, set[int]] = {}
        for lease in unwanted:
            gone.setdefault(lease.claim, set()).add(lease.index)
        for claim in [claim for claim in self._runs if claim in gone]:
            rest = [part for run in self._runs[claim] for part in without(run, gone[claim])]
            if rest:
                self._runs[claim] = rest
            else:
                del self._runs[claim]

    def _at_once(self, run: TaskRun) -> int:
        """Return how many tasks to give to one worker that runs them one after the other."""
        if run.claim.most_running is None:
            return run.count
        if run.claim.counts_each_task:
            return 1
        seconds = self._durations.seconds(run.claim.kind(run.first))
        share = -(-run.claim.count // run.claim.most_running)  # for as many workers as may run it
        return max(1, min(share, int(_RUN_SECONDS / max(seconds, _SHORTEST))))
