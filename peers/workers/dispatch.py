"""Which worker gets what: frames of a lane's backlog, sized to what is soon done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peers.lane import Lane
from peers.pace import MOST_IN_FRAME, Pace
from peers.workers.worker import Worker


def hand_out(lane: Lane, workers: Sequence[Worker], pace: Pace) -> Iterator[Worker]:
    """Give the workers what they can take, smallest priority first; yields who was given some."""
    blocked: set[bool] = set()
    while (asynchronous := _next_mode(lane, blocked)) is not None:
        worker = _give_frame(lane, asynchronous, workers, pace)
        if worker is None:
            blocked.add(asynchronous)
        else:
            yield worker


def _next_mode(lane: Lane, blocked: set[bool]) -> bool | None:
    """Whether the most urgent lease is for an async handler; None: nothing can be handed out."""
    heads = [
        (head.priority, mode)
        for mode in (False, True)
        if mode not in blocked and (head := lane.head(mode)) is not None
    ]
    return min(heads)[1] if heads else None


def _give_frame(
    lane: Lane, asynchronous: bool, workers: Sequence[Worker], pace: Pace
) -> Worker | None:
    """Give one frame to the worker that has the most room for it; None: none has."""
    worker, budget = None, 0.0
    for candidate in workers:
        room = candidate.budget(lane) if candidate.asynchronous is asynchronous else 0.0
        # an idle one comes before one that is still busy with its last frame
        if room > 0 and (worker is None or candidate.expected < worker.expected):
            worker, budget = candidate, room
    if worker is None:
        return None
    leases = lane.take(asynchronous, budget, lane.free_slots if asynchronous else MOST_IN_FRAME)
    if not leases and not worker.out:
        leases = lane.take(asynchronous, float("inf"), 1)  # it takes longer than a frame
    if not leases:
        return None
    worker.give(lane, leases, pace)
    return worker
