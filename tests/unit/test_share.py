"""The slots of a queue that workers share, and what waits for them in the workers."""

from __future__ import annotations

import pytest

from peers.pool.durations import CLAIM_MAX_TASKS, DurationEstimate
from peers.pool.local_queue import LocalQueue
from peers.pool.share import Share


def a_queue(slots: int) -> LocalQueue:
    """A queue without tasks."""
    return LocalQueue("default", slots, DurationEstimate(), {})


def assign(share: Share, calls: int) -> None:
    """Assign calls, with as many slots as the worker may have now."""
    share.started(calls, calls, share.available, 0.0)


@pytest.mark.parametrize(
    ("seconds", "ahead"), [(0.0, CLAIM_MAX_TASKS), (0.01, 200), (1.0, 2), (60.0, 0)]
)
def test_a_worker_has_the_next_calls_before_others_end(seconds: float, ahead: int) -> None:
    """As many as end soon, so that no slot waits for the peer. They occupy no slots."""
    local_queue = a_queue(100)
    share = Share(local_queue)
    assert share.room(seconds) == 100 + ahead
    assign(share, share.room(seconds))
    assert share.room(seconds) == 0
    assert (share.occupied, share.next_calls, local_queue.free_slots) == (100, ahead, 0)
    share.finished(1, 1, 0.0)
    assert (share.room(seconds), local_queue.free_slots) == (1, 0 if ahead else 1)


def test_one_quick_call_waits_behind_the_only_slot() -> None:
    """Not behind one that takes long."""
    share = Share(a_queue(1))
    assert (share.room(0.03), share.room(0.05)) == (2, 1)


def test_no_call_waits_in_a_worker_that_has_no_slot() -> None:
    """It would wait for a call of another worker to end, of which this worker does not hear."""
    local_queue = a_queue(2)
    one, other = Share(local_queue), Share(local_queue)
    assign(one, 2)
    assert other.room(0.001) == 0
    one.finished(1, 1, 0.0)
    assert other.room(0.001) > 0
    assign(other, 3)
    assert (other.slots, other.next_calls, local_queue.free_slots) == (1, 2, 0)
