"""Decide which workers a peer should start."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from peers.pool.handle import WorkerHandle
from peers.pool.isolation import WorkerRole

_STARTING_AT_ONCE: Final = os.cpu_count() or 1
_MOST_ISOLATED: Final = 8
"""Workers for isolated groups: each holds the app in memory once more. When all tasks take long,
each step of a bisection leaves one worker busy, so 8 workers are enough for 128 tasks."""


def workers_to_start(
    workers: Sequence[WorkerHandle], ordinary: int,
    isolated: Mapping[str, Counter[WorkerRole]], requested: Sequence[WorkerRole] = (),
) -> list[WorkerRole]:  # fmt: skip
    """Return the roles of the workers to start now. A worker that has started reports by itself.

    `ordinary`: how many ordinary workers there should be. `isolated`: how many groups of each queue
    wait for a worker of their own. `requested`: the roles of workers that were requested already.
    """
    staying = sum(not w.retiring and w.role is WorkerRole.ORDINARY for w in workers)
    staying += requested.count(WorkerRole.ORDINARY)
    missing = [WorkerRole.ORDINARY] * (ordinary - staying)
    if isolated:
        missing += _isolated(workers, isolated, requested)
    if not missing:  # as at nearly every turn
        return missing
    starting = sum(not worker.ready for worker in workers) + len(requested)
    return missing[: max(0, _STARTING_AT_ONCE - starting)]


def _isolated(
    workers: Sequence[WorkerHandle],
    isolated: Mapping[str, Counter[WorkerRole]],
    requested: Sequence[WorkerRole],
) -> Iterator[WorkerRole]:
    unused: Counter[WorkerRole] = Counter(
        role for role in requested if role is not WorkerRole.ORDINARY
    )
    existing = sum(worker.role is not WorkerRole.ORDINARY for worker in workers)
    allowed = _MOST_ISOLATED - existing - unused.total()
    unused.update(worker.role for worker in unused_isolated_workers(workers))
    for role in (WorkerRole.ISOLATED_SYNC, WorkerRole.ISOLATED_ASYNC):
        waiting = sum(counts[role] for counts in isolated.values()) - unused[role]
        more = max(0, min(waiting, allowed))
        allowed -= more
        yield from [role] * more


def unused_isolated_workers(workers: Iterable[WorkerHandle]) -> list[WorkerHandle]:
    """Return the workers for isolated groups that have been assigned none yet."""
    return [
        worker
        for worker in workers
        if worker.role is not WorkerRole.ORDINARY
        and not worker.retiring
        and not worker.tasks_assigned
    ]


def should_run_loop(
    worker: WorkerHandle, workers: Iterable[WorkerHandle], *, has_async: bool
) -> bool:
    """Return whether a new worker should run async handlers; one ordinary worker is enough."""
    if worker.role is not WorkerRole.ORDINARY:
        return worker.role is WorkerRole.ISOLATED_ASYNC
    return has_async and not any(
        other.asynchronous and other.role is WorkerRole.ORDINARY and not other.retiring
        for other in workers
    )
