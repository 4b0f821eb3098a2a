"""Count what a peer does, by queue and kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from peers.database.binary import id_at, read_ids
from peers.database.rows import ClaimReply, Verdict
from peers.metrics.histogram import Histogram

MOST_KINDS: Final = 500
"""Pairs of queue and kind that are counted by themselves. The database has the same bound."""
OTHER: Final = "(other)"
"""The kind under which all further kinds of a queue are counted."""


_SAMPLES: Final = 8
"""Of the tasks of a claim. To look at each one would cost 0.3 µs, a tenth of what a peer does for a
task, and neighbours became ready at nearly the same time."""
_MICROSECONDS: Final = 1_000_000


class KindCounts:
    """What a peer has counted of one kind in one queue since it started."""

    __slots__ = (
        "completed", "dead", "failed", "reclaimed", "refused", "retried", "run", "stale", "wait",
    )  # fmt: skip

    def __init__(self) -> None:
        self.completed = 0
        self.failed = 0
        self.retried = 0
        self.dead = 0
        self.reclaimed = 0
        self.refused = 0
        self.stale = 0
        self.run = Histogram()
        self.wait = Histogram()


COUNTERS: Final = tuple(name for name in KindCounts.__slots__ if name not in ("run", "wait"))
"""The attributes of `KindCounts` that are numbers."""


class Counts:
    """Everything that a peer has counted since it started.

    Only the main loop counts, except that the thread of the fence counts fences. Other threads
    read. The main loop counts whole batches, so that a task costs little.
    """

    def __init__(self) -> None:
        self.fenced = 0
        """How often the peer has killed its workers because its lease was about to end."""
        self._kinds: dict[tuple[str, str], KindCounts] = {}

    def of(self, queue: str, kind: str) -> KindCounts:
        """Return the counts of a kind in a queue."""
        counts = self._kinds.get((queue, kind))
        if counts is None and len(self._kinds) >= MOST_KINDS:
            kind = OTHER
            counts = self._kinds.get((queue, kind))
        if counts is None:
            counts = self._kinds[queue, kind] = KindCounts()
        return counts

    def by_kind(self) -> list[tuple[tuple[str, str], KindCounts]]:
        """Return the counts of each queue and kind. Any thread may call this."""
        return list(self._kinds.items())

    def claimed(self, queue: str, reply: ClaimReply) -> None:
        """Count how long the tasks of a claim have waited."""
        count = reply.count
        if not count or not reply.ready_at:
            return
        if len(reply.kinds) == 1:
            wait = self.of(queue, reply.kinds[0]).wait
            _observe(wait, partial(id_at, reply.ready_at), count, reply.claimed_at)
            return
        by_kind: dict[str, list[int]] = {}
        for kind, moment in zip(reply.kinds, read_ids(reply.ready_at), strict=True):
            by_kind.setdefault(kind, []).append(moment)
        for kind, moments in by_kind.items():
            wait = self.of(queue, kind).wait
            _observe(wait, moments.__getitem__, len(moments), reply.claimed_at)

    def ran(self, queue: str, kind: str, seconds: float, tasks: int) -> None:
        """Count that each of some attempts ran for so long."""
        self.of(queue, kind).run.observe(seconds, tasks)

    def completed(self, queue: str, kind: str, tasks: int) -> None:
        """Count tasks whose completion was recorded."""
        self.of(queue, kind).completed += tasks

    def recorded_failure(self, queue: str, kind: str, verdict: Verdict | None) -> None:
        """Count a failure that was recorded. The verdict tells what became of the task."""
        counts = self.of(queue, kind)
        if verdict in ("cancelled", "snoozed"):
            return
        counts.failed += 1
        counts.retried += verdict == "retried"
        counts.dead += verdict == "dead"

    def reclaimed(self, tasks: Sequence[tuple[str, str, str]]) -> None:
        """Count attempts of lost peers, each with its queue, kind and what became of the task."""
        for queue, kind, outcome in tasks:
            counts = self.of(queue, kind)
            counts.reclaimed += 1
            counts.failed += 1
            counts.retried += outcome == "retried"
            counts.dead += outcome == "dead"


def _observe(wait: Histogram, moment: Callable[[int], int], count: int, now: int) -> None:
    """Count how long ago some moments are, in microseconds. A sample counts for its neighbours."""
    samples = min(count, _SAMPLES)
    first = 0
    for sample in range(1, samples + 1):
        end = sample * count // samples
        wait.observe(max(0, now - moment((first + end) // 2)) / _MICROSECONDS, end - first)
        first = end
