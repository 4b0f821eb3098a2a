"""Tasks of a lease that may not all run at once, and tasks that may not start yet."""

from __future__ import annotations

from typing import Any

from peers.pool.claim import Claim, TaskRun
from peers.pool.durations import DurationEstimate
from peers.pool.local_queue import LocalQueue
from peers.protocol.messages import KindDeclared
from tests.support.claims import a_claim

WORKER = 4711


def declared(kind: str, *, asynchronous: bool = False) -> KindDeclared:
    """A kind that the app declares."""
    return KindDeclared(kind, asynchronous, 5, None, 1.0, 3600.0)


def a_queue(*, asynchronous: bool = False, seconds: float | None = None) -> LocalQueue:
    """A queue with eight slots and one kind, whose handlers take so long."""
    durations = DurationEstimate()
    if seconds is not None:
        durations.note("k", seconds)
    return LocalQueue("default", 8, durations, {"k": declared("k", asynchronous=asynchronous)})


def a_limited_claim(queue: LocalQueue, tasks: int, most_running: int | None) -> Claim:
    """A claim of tasks under a limit."""
    claim = a_claim(queue, *["k"] * tasks)
    claim.is_limited, claim.key = True, 4711
    claim.most_running = most_running
    return claim


def assign(queue: LocalQueue, worker: int = WORKER, most: int = 1000) -> list[TaskRun]:
    """Assign a worker what it takes next."""
    key = queue.next_key(set())
    if key is None:
        return []
    runs = queue.take(key, 1e9, most)
    for run in runs:
        run.claim.in_workers[worker] += run.count
    return runs


def finish(runs: list[TaskRun], worker: int = WORKER) -> None:
    """The worker has run these tasks."""
    for run in runs:
        run.claim.left_worker(worker, run.count)


def test_no_more_tasks_of_a_lease_run_than_may() -> None:
    """Slow ones one by one: each starts when another has ended."""
    queue = a_queue()
    queue.claimed(a_limited_claim(queue, 5, most_running=2))
    assert len(queue.waiting()) == 5
    assert queue.admit(1.0) == []
    assert queue.admit(1.0) == []
    first, second = assign(queue, 1, most=1), assign(queue, 2, most=1)
    assert [run.count for run in first + second] == [1, 1]
    queue.admit(1.0)
    assert assign(queue, 3) == []
    finish(first, 1)
    assert queue.limited_ended
    assert (queue.take_freed_keys(), queue.take_freed_keys()) == ({4711}, set())
    queue.admit(1.0)
    assert [run.first for run in assign(queue, 3)] == [2]
    queue.admit(1.0)
    assert assign(queue, 1) == []


def test_short_tasks_come_in_runs_that_one_worker_runs() -> None:
    """A run is assigned whole: two workers that share it would run beside each other."""
    queue = a_queue(seconds=0.02)
    queue.claimed(a_limited_claim(queue, 12, most_running=1))
    queue.admit(1.0)
    taken = assign(queue, most=2)
    assert [run.count for run in taken] == [5]
    queue.admit(1.0)
    assert assign(queue, 2) == []
    finish(taken)
    queue.admit(1.0)
    assert [run.count for run in assign(queue)] == [5]


def test_async_tasks_are_counted_one_by_one() -> None:
    """One worker runs several of them at once."""
    queue = a_queue(asynchronous=True, seconds=0.001)
    queue.claimed(a_limited_claim(queue, 9, most_running=3))
    queue.admit(1.0)
    assert [[run.count for run in assign(queue)] for _ in range(4)] == [[1], [1], [1], []]
    queue.admit(1.0)
    assert assign(queue) == []


def test_each_worker_gets_one() -> None:
    """A worker with two limited tasks would leave another without, for which they were claimed."""
    queue = a_queue(seconds=0.005)
    queue.claimed(a_limited_claim(queue, 2, most_running=None))
    queue.claimed(a_limited_claim(queue, 60, most_running=2))
    queue.admit(1.0)
    counts = [sum(run.count for run in assign(queue, worker)) for worker in range(5)]
    assert counts == [1, 1, 20, 20, 0]
    quick = a_queue(seconds=0.00001)
    quick.claimed(a_limited_claim(quick, 1000, most_running=4))
    quick.admit(1.0)
    counts = [sum(run.count for run in assign(quick, worker)) for worker in range(4)]
    assert counts == [250] * 4, "a share for each"


def test_tasks_that_come_back_wait_again() -> None:
    """Those of a dead worker must not run beside those that took their place."""
    queue = a_queue(seconds=0.02)
    claim = a_limited_claim(queue, 10, most_running=1)
    queue.claimed(claim)
    queue.admit(1.0)
    taken = assign(queue)
    finish(taken)
    queue.requeue([lease for run in taken for lease in run.leases()])
    queue.admit(1.0)
    assert sum(run.count for run in assign(queue)) == 5
    queue.admit(1.0)
    assert assign(queue, 2) == []
    assert len(queue.waiting()) == 5


def test_tasks_behind_slow_ones_are_given_back() -> None:
    """A lease of tasks that were thought to be short must not keep its key for long."""
    queue = a_queue(seconds=0.02)
    claim = a_limited_claim(queue, 12, most_running=1)
    queue.claimed(claim)
    assert queue.admit(0.9) == []
    assert assign(queue)
    back = queue.admit(1.1)
    assert len(back) == 7
    queue.drop(back)
    assert queue.waiting() == []


def test_waiting_tasks_can_be_dropped() -> None:
    """As in a drain, or when one of them is cancelled."""
    queue = a_queue()
    claim = a_limited_claim(queue, 5, most_running=1)
    queue.claimed(claim)
    queue.admit(1.0)
    assert queue.holds(claim.lease(3))
    queue.drop([claim.lease(3)])
    assert not queue.holds(claim.lease(3))
    queue.drop(queue.waiting())
    assert queue.waiting() == []
    assert queue.admit(1.0) == []


def test_a_task_under_a_rate_starts_at_its_time() -> None:
    """Not before; and if it is too late, it is given back."""
    queue = a_queue()
    claim = a_limited_claim(queue, 1, None)
    claim.start_at, claim.start_by = 10.0, 10.1
    queue.claimed(claim)
    assert queue.admit(9.9) == []
    assert assign(queue) == []
    assert queue.next_due(9.9) == 10.0
    assert queue.free_for_limited(9.9) == 7
    assert queue.admit(10.0) == []
    late = a_limited_claim(queue, 1, None)
    late.start_at, late.start_by = 10.0, 10.1
    queue.claimed(late)
    assert queue.admit(10.2) == [claim.lease(0), late.lease(0)] or len(queue.admit(10.2)) == 2


def test_how_many_tasks_a_slot_can_take() -> None:
    """Only kinds whose tasks are known to be short."""
    assert a_queue().tasks_per_slot() == {}
    assert a_queue(seconds=0.2).tasks_per_slot() == {}
    assert a_queue(seconds=0.01).tasks_per_slot() == {"k": 25}


def test_limited_tasks_go_before_others_of_their_priority() -> None:
    """A limit may keep other peers waiting for them."""
    queue = a_queue()
    queue.claimed(a_claim(queue, "k", "k"))
    limited: Any = a_limited_claim(queue, 1, None)
    queue.claimed(limited)
    assert assign(queue, most=1)[0].claim is limited
