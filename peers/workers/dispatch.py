"""Which worker gets what: frames of a lane's backlog, sized to what is soon done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from peers.lane import Bin, Lane
from peers.pace import MOST_IN_FRAME, Pace
from peers.workers.worker import Worker


def hand_out(lane: Lane, workers: Sequence[Worker], pace: Pace) -> Iterator[Worker]:
    """Give the workers what they can take, smallest priority first; yields who was given some."""
    yield from _hand_out_parts(lane, workers, pace)
    now = time.monotonic()
    blocked: set[Bin] = set()
    lane.reserved = 0
    while (where := lane.next_bin(blocked)) is not None:
        if lane.ripe_at(where) > now:
            lane.reserved += 1  # what is less urgent must not take the slot from it meanwhile
            blocked.add(where)
            continue
        worker = _give_frame(lane, where, workers, pace)
        if worker is None:
            blocked.add(where)
        else:
            yield worker
    lane.reserved = 0


def _hand_out_parts(lane: Lane, workers: Sequence[Worker], pace: Pace) -> Iterator[Worker]:
    for asynchronous, parts in lane.parts.items():
        while parts:
            worker, _ = _roomiest(lane, asynchronous, workers)
            if worker is None or (worker.out and not asynchronous):
                break
            worker.give(lane, parts.popleft(), pace, together=True)
            yield worker


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
        most = lane.free_slots if where.asynchronous else MOST_IN_FRAME
        leases = lane.take(where, budget, most)
        if not leases and (worker.wants_one or not worker.out):
            leases = lane.take(where, float("inf"), 1)  # it takes longer than a frame
    if not leases:
        return None
    worker.give(lane, leases, pace, together=where.kind is not None)
    return worker
