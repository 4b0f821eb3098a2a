"""Which worker gets what: frames of a local_queue's backlog, sized to what is soon done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from peers.pool.durations import MOST_IN_FRAME, DurationEstimate
from peers.pool.handle import WorkerHandle
from peers.pool.local_queue import BatchKey, LocalQueue
from peers.pool.missing import unused_isolated


def hand_out(
    local_queue: LocalQueue, workers: Sequence[WorkerHandle], durations: DurationEstimate
) -> Iterator[WorkerHandle]:
    """Give the workers what they can take, smallest priority first; yields who was given some.

    A part of a divided batch goes before all that is no more urgent, to a worker that has nothing
    else; while it waits for one, nothing less urgent is given to those that could run it.
    """
    yield from _give_suspects(local_queue, workers, durations)
    now = time.monotonic()
    unripe: list[int] = []
    blocked: set[BatchKey] = set()
    full: set[bool] = set()
    while True:
        where, part = local_queue.next_bin(blocked), local_queue.next_part(full)
        urgencies = [local_queue.urgency(where)] if where is not None else []
        urgencies += [part[1]] if part is not None else []
        # what is less urgent must not take the slot of a batch that waits to be full
        local_queue.reserved = sum(priority < min(urgencies, default=0) for priority in unripe)
        if part is not None and (where is None or part[1] <= local_queue.urgency(where)):
            worker = _give_part(local_queue, part[0], workers, durations)
            if worker is None:
                full.add(part[0])
                blocked.update(local_queue.bins(part[0]))
        elif where is None:
            break
        elif local_queue.ripe_at(where) > now:
            unripe.append(local_queue.urgency(where))
            blocked.add(where)
            continue
        else:
            worker = _give_frame(local_queue, where, workers, durations)
            if worker is None:
                local_queue.overdue(where)
                blocked.add(where)
        if worker is not None:
            yield worker
    local_queue.reserved = 0


def _give_suspects(
    local_queue: LocalQueue, workers: Sequence[WorkerHandle], durations: DurationEstimate
) -> Iterator[WorkerHandle]:
    """Give each part of suspects to a worker that has had nothing and will get nothing else.

    They have kept their slots, so that nobody has to wait for a free one.
    """
    for part in list(local_queue.suspects):
        fresh = (
            w for w in unused_isolated(workers) if w.ready and w.asynchronous is part.asynchronous
        )
        worker = next(fresh, None)
        if worker is None:
            continue
        local_queue.suspects.remove(part)
        for call in part.calls:
            worker.give(local_queue, call, durations, together=local_queue.is_batch(call[0]))
        worker.retire()
        yield worker


def _give_part(
    local_queue: LocalQueue,
    asynchronous: bool,
    workers: Sequence[WorkerHandle],
    durations: DurationEstimate,
) -> WorkerHandle | None:
    """Give the next part of a divided batch to a worker that can take it now; None: none can."""
    worker, _ = _roomiest(local_queue, asynchronous, workers)
    if worker is None or (worker.out and not asynchronous):
        return None
    worker.give(local_queue, local_queue.parts[asynchronous].popleft(), durations, together=True)
    return worker


def _roomiest(
    local_queue: LocalQueue, asynchronous: bool, workers: Sequence[WorkerHandle]
) -> tuple[WorkerHandle | None, float]:
    """The worker that is soonest ready for more, and for how many seconds of it."""
    worker, budget = None, 0.0
    for candidate in workers:
        room = candidate.budget(local_queue) if candidate.asynchronous is asynchronous else 0.0
        # an idle one comes before one that is still busy with its last frame
        if room > 0 and (worker is None or candidate.expected < worker.expected):
            worker, budget = candidate, room
    return worker, budget


def _give_frame(
    local_queue: LocalQueue,
    where: BatchKey,
    workers: Sequence[WorkerHandle],
    durations: DurationEstimate,
) -> WorkerHandle | None:
    """Give one frame to the worker that has the most room for it; None: none has."""
    worker, budget = _roomiest(local_queue, where.asynchronous, workers)
    if worker is None:
        return None
    if where.kind is not None:
        leases = local_queue.take_batch(where, budget if worker.out else float("inf"))
    else:
        most = min(local_queue.free_slots, MOST_IN_FRAME) if where.asynchronous else MOST_IN_FRAME
        leases = local_queue.take(where, budget, min(most, max(1, worker.allowance)))
        if not leases and (worker.wants_one or not worker.out):
            leases = local_queue.take(where, float("inf"), 1)  # it takes longer than a frame
    if not leases:
        return None
    worker.give(local_queue, leases, durations, together=where.kind is not None)
    return worker
