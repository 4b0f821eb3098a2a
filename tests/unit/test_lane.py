"""The backlog of one queue on a peer."""

from __future__ import annotations

from itertools import count
from uuid import uuid4

from peers.lane import Lane, Lease
from peers.model import Claimed
from peers.pace import Pace, claim_size

_ids = count(1)
NO_ASYNC: frozenset[str] = frozenset()


def a_lease(kind: str = "a", priority: int = 100) -> Lease:
    """A claimed task."""
    token = uuid4()
    task = Claimed(next(_ids), token, 1, kind, b"{}", None, priority)
    return Lease(task, str(token).encode(), "default", 0.0, priority)


def a_lane(slots: int = 2, **seconds: float) -> Lane:
    """A lane that knows how long these kinds take."""
    pace = Pace()
    for kind, took in seconds.items():
        pace.note(kind, took)
    return Lane("default", slots, pace)


def test_smaller_priorities_come_first_and_equals_keep_their_order() -> None:
    """Also when they come in several claims, and when some are put back."""
    lane = a_lane(a=0.0)
    late, first, urgent = a_lease(priority=100), a_lease(priority=100), a_lease(priority=1)
    lane.claimed([first], NO_ASYNC)
    lane.claimed([urgent, late], NO_ASYNC)
    assert list(lane) == [urgent, first, late]
    taken = lane.take(False, 1.0, 2)
    assert taken == [urgent, first]
    lane.put_back(taken, NO_ASYNC)
    assert lane.head(False) is urgent


def test_sync_and_async_tasks_are_lined_up_apart() -> None:
    """Each kind of worker finds its own next task."""
    lane = a_lane(a=0.0, b=0.0)
    sync_one, async_one = a_lease("a"), a_lease("b")
    lane.claimed([sync_one, async_one], frozenset({"b"}))
    assert lane.head(False) is sync_one
    assert lane.head(True) is async_one
    assert lane.take(True, 1.0, 5) == [async_one]
    assert lane.head(True) is None
    assert len(lane) == 1


def test_a_frame_takes_no_more_than_its_budget() -> None:
    """By the time that the kinds are expected to take, and by number."""
    lane = a_lane(a=0.01)
    lane.claimed([a_lease() for _ in range(10)], NO_ASYNC)
    assert len(lane.take(False, 0.035, 10)) == 3
    assert len(lane.take(False, 1.0, 2)) == 2
    assert lane.take(False, 0.001, 10) == []
    assert len(lane) == 5


def test_dropped_leases_are_gone() -> None:
    """And only those."""
    lane = a_lane()
    keep, drop = a_lease(), a_lease()
    lane.claimed([keep, drop], NO_ASYNC)
    lane.drop([drop])
    assert list(lane) == [keep]


def test_an_empty_lane_wants_a_task_for_each_slot_at_least() -> None:
    """And more when its last claim was of quick kinds."""
    assert a_lane(slots=3).wanted() == 3
    lane = a_lane(slots=3, quick=0.001)
    lane.claimed([a_lease("quick")], NO_ASYNC)
    lane.take(False, 1.0, 1)
    assert lane.wanted() == claim_size(3, 0.001)


def test_what_is_in_the_workers_counts_as_being_at_hand() -> None:
    """A lane whose slots are busy with slow tasks wants nothing more."""
    lane = a_lane(slots=2)
    lane.in_workers = lane.running = 2
    assert lane.wanted() == 0
    assert lane.free_slots == 0


def test_a_slot_that_would_stand_idle_is_reason_enough_to_ask() -> None:
    """Though most of what should be at hand is there."""
    lane = a_lane(slots=4)
    lane.in_workers = lane.running = 3
    assert lane.wanted() == 1
