"""Which worker gets what: frames of a lane's backlog, sized to what is soon done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from peers.pool.durations import MOST_IN_FRAME, Pace
from peers.pool.handle import Worker
from peers.pool.local_queue import Bin, Lane
from peers.pool.missing import unused_isolated


def hand_out(lane: Lane, workers: Sequence[Worker], pace: Pace) -> Iterator[Worker]:
    """Give the workers what they can take, smallest priority first; yields who was given some.

    A part of a divided batch goes before all that is no more urgent, to a worker that has nothing
    else; while it waits for one, nothing less urgent is given to those that could run it.
    """
    yield from _give_suspects(lane, workers, pace)
    now = time.monotonic()
    unripe: list[int] = []
    blocked: set[Bin] = set()
    full: set[bool] = set()
    while True:
        where, part = lane.next_bin(blocked), lane.next_part(full)
        urgencies = [lane.urgency(where)] if where is not None else []
        urgencies += [part[1]] if part is not None else []
        # what is less urgent must not take the slot of a batch that waits to be full
        lane.reserved = sum(priority < min(urgencies, default=0) for priority in unripe)
        if part is not None and (where is None or part[1] <= lane.urgency(where)):
            worker = _give_part(lane, part[0], workers, pace)
            if worker is None:
                full.add(part[0])
                blocked.update(lane.bins(part[0]))
        elif where is None:
            break
        elif lane.ripe_at(where) > now:
            unripe.append(lane.urgency(where))
            blocked.add(where)
            continue
        else:
            worker = _give_frame(lane, where, workers, pace)
            if worker is None:
                lane.overdue(where)
                blocked.add(where)
        if worker is not None:
            yield worker
    lane.reserved = 0


def _give_suspects(lane: Lane, workers: Sequence[Worker], pace: Pace) -> Iterator[Worker]:
    """Give each part of suspects to a worker that has had nothing and will get nothing else.

    They have kept their slots, so that nobody has to wait for a free one.
    """
    for part in list(lane.suspects):
        fresh = (
            w for w in unused_isolated(workers) if w.ready and w.asynchronous is part.asynchronous
        )
        worker = next(fresh, None)
        if worker is None:
            continue
        lane.suspects.remove(part)
        for call in part.calls:
            worker.give(lane, call, pace, together=lane.is_batch(call[0]))
        worker.retire()
        yield worker


def _give_part(
    lane: Lane, asynchronous: bool, workers: Sequence[Worker], pace: Pace
) -> Worker | None:
    """Give the next part of a divided batch to a worker that can take it now; None: none can."""
    worker, _ = _roomiest(lane, asynchronous, workers)
    if worker is None or (worker.out and not asynchronous):
        return None
    worker.give(lane, lane.parts[asynchronous].popleft(), pace, together=True)
    return worker


def _roomiest(
    lane: Lane, asynchronous: bool, workers: Sequence[Worker]
) -> tuple[Worker | None, float]:
    """The worker that is soonest ready for more, and for how many seconds of it."""
    worker, budget = None, 0.0
    for candidate in workers:
        room = candidate.budget(lane) if candidate.asynchronous is asynchronous else 0.0
        # an idle one comes before one that is still busy with its last frame
        if room > 0 and (worker is None or candidate.expected < worker.expected):
            worker, budget = candidate, room
    return worker, budget


def _give_frame(lane: Lane, where: Bin, workers: Sequence[Worker], pace: Pace) -> Worker | None:
    """Give one frame to the worker that has the most room for it; None: none has."""
    worker, budget = _roomiest(lane, where.asynchronous, workers)
    if worker is None:
        return None
    if where.kind is not None:
        leases = lane.take_batch(where, budget if worker.out else float("inf"))
    else:
        most = min(lane.free_slots, MOST_IN_FRAME) if where.asynchronous else MOST_IN_FRAME
        leases = lane.take(where, budget, min(most, max(1, worker.allowance)))
        if not leases and (worker.wants_one or not worker.out):
            leases = lane.take(where, float("inf"), 1)  # it takes longer than a frame
    if not leases:
        return None
    worker.give(lane, leases, pace, together=where.kind is not None)
    return worker
