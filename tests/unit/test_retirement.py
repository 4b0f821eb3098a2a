"""When a worker retires, which workers are missing, and how isolated groups are bisected."""

from __future__ import annotations

from collections import Counter
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.pool.crash import WorkerExit
from peers.pool.durations import DurationEstimate
from peers.pool.executions import AssignedLease
from peers.pool.handle import WorkerHandle
from peers.pool.isolation import IsolatedGroup, WorkerRole
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue
from peers.pool.retirement import Limits, Retirement, may_retire
from peers.pool.scaling import workers_to_start
from peers.protocol.messages import Failed
from tests.support import claims

ORDINARY, SYNC, ASYNC = WorkerRole


def a_worker(**traits: object) -> WorkerHandle:
    """A worker handle with the attributes that these rules read."""
    usual = {"retiring": False, "ready": True, "role": ORDINARY, "asynchronous": False,
             "tasks_assigned": 0, "allowance": 1}  # fmt: skip
    return Mock(WorkerHandle, **{**usual, **traits})


def a_queue(name: str = "default", slots: int = 9) -> LocalQueue:
    """A queue without tasks."""
    return LocalQueue(name, slots, DurationEstimate(), {})


def a_lease(local_queue: LocalQueue | None = None) -> Lease:
    """A claimed task."""
    return claims.a_lease(a_queue() if local_queue is None else local_queue)


def failure(error_type: str = "ValueError", *, exhausted: bool = False) -> Failed:
    """An outcome."""
    return Failed(1, 0.1, error_type, "message", exhausted=exhausted)


# --------------------------------------------------------------------------------------- retiring


def test_kinds_that_fail_in_a_row_retire_their_worker() -> None:
    """Three of them; one kind that fails again and again is its own fault, and a success or
    another worker begins a new count.
    """
    rules, worker, other = Retirement(Limits()), a_worker(), a_worker()
    assert [rules.reason(worker, "a", failure(), 0.0) for _ in range(9)] == [None] * 9
    assert rules.reason(other, "b", failure(), 0.0) is None
    assert rules.reason(worker, "b", failure(), 0.0) is None
    rules.succeeded(worker)
    assert [rules.reason(worker, kind, failure(), 0.0) for kind in "ab"] == [None, None]
    assert "a, b, c" in str(rules.reason(worker, "c", failure(), 0.0))


def test_when_everything_fails_workers_do_not_come_and_go() -> None:
    """A database that all handlers need is away: one worker in half a minute is replaced."""
    rules = Retirement(Limits())
    retired = 0
    for tenth in range(1000):
        worker = a_worker()
        reasons = [rules.reason(worker, kind, failure(), tenth / 10) for kind in "abc"]
        retired += any(reasons)
    assert retired == 4


@pytest.mark.parametrize("error_type", ["Retry", "Reject", "ArgsInvalid", "ResultInvalid"])
def test_deliberate_failures_do_not_retire_a_worker(error_type: str) -> None:
    """However many kinds fail like this."""
    rules, worker = Retirement(Limits()), a_worker()
    assert [rules.reason(worker, kind, failure(error_type), 0.0) for kind in "abcdef"] == [None] * 6


def test_exhaustion_retires_at_once() -> None:
    """And the reason names the error."""
    reason = Retirement(Limits()).reason(a_worker(), "a", failure("OSError", exhausted=True), 0.0)
    assert reason == "OSError: message"


def test_retiring_loops_do_not_pile_up() -> None:
    """The fifth retires only when one of them has exited. Sync workers may always retire."""
    loop = a_worker(asynchronous=True)
    retiring = [a_worker(asynchronous=True, retiring=True) for _ in range(4)]
    assert may_retire(loop, [loop, *retiring[:3]])
    assert not may_retire(loop, [loop, *retiring])
    assert may_retire(a_worker(), [loop, *retiring])


# --------------------------------------------------------------------------------------- starting


def test_a_retiring_worker_is_replaced_while_it_finishes() -> None:
    """Workers for isolated groups come on top, one for each group, up to a limit."""
    ordinary = [a_worker(), a_worker(retiring=True)]
    assert workers_to_start(ordinary, 1, {}) == []
    assert workers_to_start(ordinary[1:], 1, {}) == [ORDINARY]
    waiting = {"q": Counter({ASYNC: 1})}
    assert workers_to_start(ordinary, 1, waiting) == [ASYNC]
    assert workers_to_start([*ordinary, a_worker(role=ASYNC)], 1, waiting) == []
    assert workers_to_start([*ordinary, a_worker(role=SYNC)], 1, waiting) == [ASYNC]
    busy = [a_worker(role=ASYNC, retiring=True, tasks_assigned=9) for _ in range(8)]
    assert workers_to_start([*ordinary, *busy[:7]], 1, waiting) == [ASYNC]
    assert workers_to_start([*ordinary, *busy], 1, waiting) == []


# -------------------------------------------------------------------------------------- isolation


@settings(database=None, max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=70), data=st.data())
def test_bisecting_ends_with_the_bad_task_alone(sizes: list[int], data: st.DataObject) -> None:
    """Of any number of batches: each group whose worker dies is bisected without losing a lease,
    until one task is alone; and all others have been in a group that lived.
    """
    batches = [[a_lease() for _ in range(size)] for size in sizes]
    leases = [lease for batch in batches for lease in batch]
    bad = data.draw(st.sampled_from(leases))
    groups, lived, deaths = [IsolatedGroup(batches, asynchronous=True)], [], 0
    while groups:
        group = groups.pop()
        if bad not in group.leases:
            lived += group.leases
        elif len(group.leases) > 1:
            deaths += 1
            halves = group.halves()
            assert sorted(map(id, group.leases)) == sorted(id(x) for h in halves for x in h.leases)
            groups += halves
    assert sorted(map(id, lived)) == sorted(id(one) for one in leases if one is not bad)
    assert deaths <= len(batches).bit_length() + 3


def test_a_loop_that_died_without_a_handler_isolates_the_tasks_of_all_queues() -> None:
    """Each queue keeps its own, and batches stay whole."""
    queues = [a_queue(name) for name in "ab"]
    leases = [a_lease(queues[number // 4 % 2]) for number in range(20)]
    tasks = [
        AssignedLease(number + 1, number // 4 * 4 + 1, lease) for number, lease in enumerate(leases)
    ]
    worker_exit = WorkerExit("SIGKILL", None)
    worker_exit.sort(tasks, None, float("inf"))
    assert len(worker_exit.isolated) == 4
    for group in worker_exit.isolated:
        assert len({lease.local_queue for lease in group.leases}) == 1
        assert all(len(batch) == 4 for batch in group.batches)
    found = [id(lease) for group in worker_exit.isolated for lease in group.leases]
    assert sorted(found) == sorted(map(id, leases))


def test_isolated_groups_keep_their_slots_while_they_wait() -> None:
    """New tasks get the other slots. Dropping a group frees its slots."""
    local_queue = a_queue(slots=5)
    group = IsolatedGroup([[a_lease()], [a_lease()], [a_lease()]], asynchronous=True)
    local_queue.isolate(group, 1.0)
    assert local_queue.free_slots == 2
    assert local_queue.leases_to_rerun() == local_queue.isolated_leases() == group.leases
    local_queue.drop(group.batches[0])
    assert local_queue.free_slots == 3
    local_queue.drop(group.leases)
    assert (local_queue.free_slots, local_queue.isolated) == (5, ())
    local_queue.isolate(IsolatedGroup([[a_lease()], [a_lease()]], asynchronous=False), 1.0)
    assert local_queue.free_slots == 4
