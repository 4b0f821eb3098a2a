"""Decide which worker is assigned which tasks: as many as it can finish soon."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from peers.pool.batch_key import BatchKey
from peers.pool.claim import runs_of
from peers.pool.durations import ASSIGNMENT_MAX_TASKS, DurationEstimate
from peers.pool.handle import WorkerHandle
from peers.pool.local_queue import LocalQueue
from peers.pool.scaling import unused_isolated_workers


def hand_out(
    local_queue: LocalQueue, workers: Sequence[WorkerHandle], durations: DurationEstimate
) -> Iterator[WorkerHandle]:
    """Assign tasks to workers, smallest priority first; yield each worker that was assigned some.

    A part of a bisected batch goes before everything that is no more urgent, to a worker that has
    no other task. While it waits for a worker, nothing less urgent is assigned to the workers that
    could run it.
    """
    yield from _assign_isolated(local_queue, workers, durations)
    now = time.monotonic()
    waiting_batches: list[int] = []
    """The priorities of the batches that wait to be full."""
    blocked: set[BatchKey] = set()
    blocked_parts: set[bool] = set()
    while True:
        key, part = local_queue.next_key(blocked), local_queue.next_part(blocked_parts)
        # less urgent tasks must not take the slot of a batch that waits to be full
        next_priority = _next_priority(local_queue, key, part)
        local_queue.reserve(sum(priority < next_priority for priority in waiting_batches))
        if part is not None and (key is None or part[1] <= local_queue.priority(key)):
            worker = _assign_part(local_queue, part[0], workers, durations)
            if worker is None:
                blocked_parts.add(part[0])
                blocked.update(local_queue.keys(part[0]))
        elif key is None:
            break
        elif local_queue.due_at(key) > now:
            waiting_batches.append(local_queue.priority(key))
            blocked.add(key)
            continue
        else:
            worker = _assign_backlog(local_queue, key, workers, durations)
            if worker is None:
                local_queue.mark_overdue(key)
                blocked.add(key)
        if worker is not None:
            yield worker
    local_queue.reserve(0)


def _next_priority(
    local_queue: LocalQueue, key: BatchKey | None, part: tuple[bool, int] | None
) -> int:
    """Return the priority of what comes next; 0 if there is nothing left."""
    priorities = [local_queue.priority(key)] if key is not None else []
    if part is not None:
        priorities.append(part[1])
    return min(priorities, default=0)


def _assign_isolated(
    local_queue: LocalQueue, workers: Sequence[WorkerHandle], durations: DurationEstimate
) -> Iterator[WorkerHandle]:
    """Assign each isolated group to a worker that has had no task and will get no other.

    The groups have kept their slots, so none has to wait for a free slot.
    """
    for group in local_queue.isolated:
        fresh = (w for w in unused_isolated_workers(workers) if w.ready and w.role is group.role)
        worker = next(fresh, None)
        if worker is None:
            continue
        for batch in local_queue.take_isolated(group):
            worker.assign(runs_of(batch), durations, as_batch=local_queue.is_batch(batch[0]))
        worker.retire()
        yield worker


def _assign_part(
    local_queue: LocalQueue, asynchronous: bool, workers: Sequence[WorkerHandle],
    durations: DurationEstimate,
) -> WorkerHandle | None:  # fmt: skip
    """Assign the next part of a bisected batch to a worker that can take it now; None: none can."""
    worker, _ = _least_busy(local_queue, asynchronous, workers, float("inf"))
    if worker is None or (worker.executions and not asynchronous):
        return None
    worker.assign(runs_of(local_queue.take_part(asynchronous)), durations, as_batch=True)
    return worker


def _least_busy(
    local_queue: LocalQueue, asynchronous: bool, workers: Sequence[WorkerHandle], call: float
) -> tuple[WorkerHandle | None, float]:
    """Return the worker that will be idle first, and how many seconds of tasks it can take.

    `call`: how long a handler call is expected to take.
    """
    worker, budget = None, 0.0
    for other in workers:
        seconds = other.budget(local_queue, call) if other.asynchronous is asynchronous else 0.0
        # an idle one comes before one that is still busy with its last assignment
        if seconds > 0 and (worker is None or other.expected_seconds < worker.expected_seconds):
            worker, budget = other, seconds
    return worker, budget


def _assign_backlog(
    local_queue: LocalQueue, key: BatchKey, workers: Sequence[WorkerHandle],
    durations: DurationEstimate,
) -> WorkerHandle | None:  # fmt: skip
    """Assign tasks with this key to the least busy worker; None: no worker can take any."""
    call = durations.seconds(local_queue.first_kind(key)) * max(1, key.size)
    worker, budget = _least_busy(local_queue, key.asynchronous, workers, call)
    if worker is None:
        return None
    if key.kind is not None:
        runs = local_queue.take_batch(key, budget if worker.executions else float("inf"))
    else:
        most = min(ASSIGNMENT_MAX_TASKS, max(1, worker.allowance))
        if key.asynchronous:
            most = min(most, worker.room(local_queue, call))
        runs = local_queue.take(key, budget, most)
        if not runs and (worker.wants_one or not worker.executions):
            runs = local_queue.take(key, float("inf"), 1)  # it takes longer than the budget
    if not runs:
        return None
    worker.assign(runs, durations, as_batch=key.kind is not None)
    return worker
