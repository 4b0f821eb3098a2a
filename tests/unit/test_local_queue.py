"""The backlog of one queue on a peer."""

from __future__ import annotations

import time
from typing import Any

import pytest

from peers.pool.batch_key import BatchKey
from peers.pool.claim import TaskRun
from peers.pool.dispatch import hand_out
from peers.pool.durations import (
    ARGS_MAX_BYTES,
    CLAIM_MAX_TASKS,
    HELD_MAX_TASKS,
    DurationEstimate,
    claim_size,
)
from peers.pool.isolation import WorkerRole
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue
from peers.protocol.messages import KindDeclared
from tests.support.claims import a_claim

PLAIN = BatchKey(asynchronous=False)
ASYNC = BatchKey(asynchronous=True)
KINDS = {
    "a": KindDeclared("a", False, 5, None, 1.0, 1.0),
    "b": KindDeclared("b", True, 5, None, 1.0, 1.0),
    "c": KindDeclared("c", False, 5, None, 1.0, 1.0, batch_size=3, batch_wait=2.0),
}


def a_queue(slots: int = 2, **seconds: float) -> LocalQueue:
    """A queue that knows how long these kinds take."""
    durations = DurationEstimate()
    for kind, took in seconds.items():
        durations.note(kind, took)
    return LocalQueue("default", slots, durations, KINDS)


def indexes(runs: list[TaskRun]) -> list[int]:
    """The places of these tasks in their claims."""
    return [index for run in runs for index in range(run.first, run.first + run.count)]


def tasks(runs: list[TaskRun]) -> list[Lease]:
    """The leases of these tasks."""
    return [lease for run in runs for lease in run.leases()]


def test_smaller_priorities_come_first_and_equals_keep_their_order() -> None:
    """Also when they come in several claims, and when some are requeued."""
    local_queue = a_queue(a=0.0)
    older, newer = a_claim(local_queue, "a"), a_claim(local_queue, "a", "a", priorities=[1, 100])
    local_queue.claimed(older)
    local_queue.claimed(newer)
    first, urgent, late = older.lease(0), newer.lease(0), newer.lease(1)
    assert local_queue.waiting() == [urgent, first, late]
    taken = tasks(local_queue.take(PLAIN, 1.0, 2))
    assert taken == [urgent, first]
    local_queue.requeue(taken)
    assert local_queue.waiting() == [urgent, late, first]


def test_sync_and_async_tasks_have_backlogs_of_their_own() -> None:
    """Each kind of worker finds its own next task."""
    local_queue = a_queue(a=0.0, b=0.0)
    claim = a_claim(local_queue, "a", "b")
    local_queue.claimed(claim)
    assert local_queue.next_key(set()) == PLAIN
    assert local_queue.next_key({PLAIN}) == ASYNC
    assert indexes(local_queue.take(ASYNC, 1.0, 5)) == [1]
    assert local_queue.next_key({PLAIN}) is None
    assert len(local_queue) == 1


def test_an_assignment_takes_no_more_than_its_budget() -> None:
    """By the expected duration of the kinds, and by number."""
    local_queue = a_queue(a=0.01)
    local_queue.claimed(a_claim(local_queue, *["a"] * 10))
    assert indexes(local_queue.take(PLAIN, 0.035, 10)) == [0, 1, 2]
    assert indexes(local_queue.take(PLAIN, 1.0, 2)) == [3, 4]
    assert local_queue.take(PLAIN, 0.001, 10) == []
    assert len(local_queue) == 5


def test_dropped_leases_are_gone() -> None:
    """And only those."""
    local_queue = a_queue()
    claim = a_claim(local_queue, *["a"] * 5)
    local_queue.claimed(claim)
    dropped = [claim.lease(1), claim.lease(3)]
    assert local_queue.holds(dropped[0])
    local_queue.drop(dropped)
    assert local_queue.waiting() == [claim.lease(0), claim.lease(2), claim.lease(4)]
    assert len(local_queue) == 3
    assert not local_queue.holds(dropped[0])


def test_an_empty_queue_wants_a_task_for_each_slot_at_least() -> None:
    """And more when its last claim was of quick kinds."""
    assert a_queue(slots=3).wanted() == 3
    local_queue = a_queue(slots=3, quick=0.001)
    local_queue.claimed(a_claim(local_queue, "quick"))
    local_queue.take(PLAIN, 1.0, 1)
    assert local_queue.wanted() == claim_size(3, 0.001)


def test_tasks_in_workers_count_as_held() -> None:
    """A queue whose slots are busy with slow tasks wants nothing more."""
    local_queue = a_queue(slots=2)
    local_queue.started(2, slots=2)
    assert local_queue.wanted() == 0
    assert local_queue.free_slots == 0


def test_an_idle_slot_is_reason_enough_to_claim() -> None:
    """Though the queue holds most of what it should."""
    local_queue = a_queue(slots=4)
    local_queue.started(3, slots=3)
    assert local_queue.wanted() == 1


def test_a_batch_is_due_when_it_is_full_or_has_waited() -> None:
    """Three fill a batch of this kind; two wait until the older one was claimed two seconds ago."""
    local_queue = a_queue(c=0.0)
    local_queue.claimed(a_claim(local_queue, "c", "c"))
    key = local_queue.next_key(set())
    assert key == BatchKey(False, "c", None, 3, 2.0)
    assert local_queue.due_at(key) == 2.0
    assert local_queue.next_due(1.0) == 2.0
    assert local_queue.next_due(2.0) == float("inf"), "a batch that is due needs no timer"
    local_queue.claimed(a_claim(local_queue, "c", "c"))
    assert local_queue.due_at(key) == 0.0
    assert indexes(local_queue.take_batch(key, float("inf"))) == [0, 1, 0]
    assert len(local_queue) == 1


def test_enough_is_claimed_to_fill_a_batch_for_each_slot() -> None:
    """However slow the kind is, or its batches would never be full."""
    local_queue = a_queue(slots=4, c=10.0)
    local_queue.claimed(a_claim(local_queue, "c"))
    assert local_queue.wanted() == 4 * 3 - 1


def test_parts_of_a_batch_stay_together_and_are_not_given_back_as_late() -> None:
    """Iterating yields what could be released. A bisected batch has started, so it is not in it."""
    local_queue = a_queue(c=0.0)
    claim = a_claim(local_queue, *["c"] * 4)
    leases = [claim.lease(index) for index in range(4)]
    local_queue.add_parts([leases[:2], leases[2:]], 5.0)
    assert local_queue.waiting() == []
    assert local_queue.leases_to_rerun() == leases
    local_queue.drop([leases[0]])
    assert list(local_queue._parts[False]) == [[leases[1]], leases[2:]]


def test_a_batch_that_waits_to_be_full_is_filled() -> None:
    """However few are missing. Of other kinds that come
    along there are no more than would be claimed anyway.
    """
    local_queue = a_queue(slots=1, c=0.001)
    local_queue.claimed(a_claim(local_queue, "c", "c"))
    assert local_queue.wanted() >= 1
    local_queue.claimed(a_claim(local_queue, "c"))
    assert local_queue.due_at(BatchKey(False, "c", None, 3, 2.0)) == 0.0
    mixed = a_queue(slots=1, a=1.0, c=1.0)
    mixed.claimed(a_claim(mixed, "c", *["a"] * 9))
    assert mixed.wanted() == 0, "nine slow ones are too many as it is"


def test_no_more_is_wanted_than_one_claim_may_bring() -> None:
    """However many slots and batches there are."""
    local_queue = a_queue(slots=4000, c=0.001)
    assert local_queue.wanted() == CLAIM_MAX_TASKS
    local_queue.claimed(a_claim(local_queue, "c"))
    assert local_queue.wanted() == CLAIM_MAX_TASKS


@pytest.mark.parametrize("slots", [1, 8, 1000, 1001, 5000, 10_000])
@pytest.mark.parametrize("kind", ["a", "b"])
@pytest.mark.parametrize("seconds", [0.0, 0.001, 60.0])
def test_claims_go_on_until_every_slot_has_a_task(slots: int, kind: str, seconds: float) -> None:
    """However many slots there are, and however few tasks one statement may bring."""
    local_queue = a_queue(slots=slots, **{kind: seconds})
    claims = 0
    while wanted := local_queue.wanted():
        local_queue.claimed(a_claim(local_queue, *[kind] * wanted))
        claims += 1
    assert slots <= len(local_queue) <= max(slots, HELD_MAX_TASKS)
    assert claims <= 1 + len(local_queue) / CLAIM_MAX_TASKS + 1


def test_a_claim_is_limited_by_the_size_of_args() -> None:
    """Of tasks with 1 MiB of args no claim brings more than a few, however many slots are free; and
    no assignment carries more.
    """
    local_queue = a_queue(slots=5000, b=60.0)
    large = b'"%b"' % (b"x" * (1 << 20))
    local_queue.claimed(a_claim(local_queue, *["b"] * 20, args=[large] * 20))
    assert local_queue.wanted() == 15
    assert indexes(local_queue.take(ASYNC, float("inf"), 500)) == list(range(15))
    only = a_queue(slots=2, b=60.0)
    huge = b'"%b"' % (b"x" * (ARGS_MAX_BYTES + 1))
    only.claimed(a_claim(only, "b", "b", args=[huge, b"{}"]))
    assert indexes(only.take(ASYNC, float("inf"), 500)) == [0], "one goes in any case"


def test_no_assignment_has_more_tasks_than_it_should() -> None:
    """An async worker with room for thousands gets several assignments."""
    local_queue = a_queue(slots=5000, b=60.0)
    for _ in range(2):
        local_queue.claimed(a_claim(local_queue, *["b"] * 600))
    desk: Any = Desk()
    desk.asynchronous, desk.budget = True, lambda _queue, _call: float("inf")
    list(hand_out(local_queue, [desk], DurationEstimate()))
    assert [len(had) for had in desk.had] == [1000, 200]


def test_a_batch_that_has_waited_once_need_not_wait_again() -> None:
    """A batch that is due and finds no worker is released in the end; when it comes again, it is
    due at once. The next one waits as usual.
    """
    local_queue = a_queue(c=0.0)
    local_queue.claimed(a_claim(local_queue, "c"))
    key = local_queue.next_key(set())
    assert key is not None
    local_queue.mark_overdue(key)
    local_queue.drop(local_queue.waiting())
    local_queue.claimed(a_claim(local_queue, "c"))
    assert local_queue.due_at(key) == 0.0
    assert len(local_queue.take_batch(key, float("inf"))) == 1
    local_queue.claimed(a_claim(local_queue, "c"))
    assert local_queue.due_at(key) == 2.0


def test_a_queue_forgets_keys_without_leases() -> None:
    """Otherwise it would keep a key for each timeout that a task of a batch kind ever had."""
    local_queue = a_queue(c=0.0)
    for timeout in range(1, 100):
        local_queue.claimed(a_claim(local_queue, "c", timeouts=[float(timeout)]))
        key = local_queue.next_key(set())
        assert key is not None
        local_queue.take_batch(key, float("inf"))
    assert local_queue.keys(asynchronous=False) == []


class Desk:
    """As much of a worker as `hand_out` needs. The tests finish its tasks."""

    asynchronous = False
    wants_one = True
    role = WorkerRole.ORDINARY
    allowance = 1000

    def __init__(self) -> None:
        self.leases: list[Lease] = []
        self.had: list[list[Lease]] = []

    @property
    def expected_seconds(self) -> float:
        return float(len(self.leases))

    @property
    def executions(self) -> list[Lease]:
        return self.leases

    def budget(self, local_queue: LocalQueue, _call: float) -> float:
        return 0.1 if len(self.leases) <= 1 and local_queue.free_slots > 0 else 0.0

    def room(self, local_queue: LocalQueue, _call: float) -> int:
        return local_queue.free_slots

    def assign(self, runs: list[TaskRun], durations: DurationEstimate, *, as_batch: bool) -> None:
        del durations, as_batch
        self.leases += tasks(runs)
        self.had.append(tasks(runs))


def handed_out(local_queue: LocalQueue, *, turns: int) -> list[list[Lease]]:
    """The assignments of a worker that finishes one task in each turn."""
    desk: Any = Desk()
    for _ in range(turns):
        list(hand_out(local_queue, [desk], DurationEstimate()))
        del desk.leases[:1]
    return list(desk.had)


def test_a_part_goes_before_less_urgent_tasks() -> None:
    """It goes before everything that is no more urgent, alone. More urgent tasks go before it."""
    local_queue = a_queue(slots=1)
    less = a_claim(local_queue, *["a"] * 50, priorities=[200])
    more = a_claim(local_queue, "a", priorities=[1])
    batch = a_claim(local_queue, "c", "c")
    part = [batch.lease(0), batch.lease(1)]
    local_queue.claimed(less)
    desk: Any = Desk()
    list(hand_out(local_queue, [desk], DurationEstimate()))
    assert len(desk.had) == 2, "it has one, and one ahead"
    local_queue.add_parts([part], 0.0)
    local_queue.claimed(more)
    for _ in range(3):
        list(hand_out(local_queue, [desk], DurationEstimate()))
        del desk.leases[:1]
    assert part not in desk.had[:2]
    assert desk.had[2] == [more.lease(0)]
    for _ in range(3):
        list(hand_out(local_queue, [desk], DurationEstimate()))
        del desk.leases[:1]
    assert desk.had[3] == part


def test_a_waiting_batch_keeps_its_slot_from_less_urgent_tasks_only() -> None:
    """Tasks of the same priority take the slot: a queue must not stop for them."""
    for priority, taken in ((100, 1), (200, 0)):
        local_queue = a_queue(slots=1)
        local_queue.claimed(a_claim(local_queue, "c", claimed_at=time.monotonic()))
        local_queue.claimed(a_claim(local_queue, "a", priorities=[priority]))
        assert len(handed_out(local_queue, turns=1)) == taken


def test_after_a_release_of_late_tasks_nothing_is_claimed_before_a_slot_is_free() -> None:
    """The peer would get the same tasks again. Then it claims ahead as usual."""
    local_queue = a_queue(2, a=0.001)
    local_queue.claimed(a_claim(local_queue, "a", "a"))
    local_queue.drop(local_queue.waiting())
    local_queue.started(2, 2)
    assert local_queue.wanted()
    local_queue.needs_slot()
    assert local_queue.wanted() == 0
    local_queue.finished(1, 1)
    assert local_queue.wanted()
    local_queue.started(1, 1)
    assert local_queue.wanted()
