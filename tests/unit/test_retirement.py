"""When a worker retires, which ones are missing, and how suspects are divided."""

from __future__ import annotations

from collections import Counter
from itertools import count
from unittest.mock import Mock
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.database.rows import Claimed
from peers.pool.crash import Death, Out, suspect_all
from peers.pool.durations import DurationEstimate
from peers.pool.handle import WorkerHandle
from peers.pool.isolation import Suspects
from peers.pool.local_queue import Lease, LocalQueue
from peers.pool.missing import to_start
from peers.pool.retirement import Limits, Retirement, may_retire
from peers.protocol.messages import Completed, Failed

_ids = count(1)
DONE = Completed(1, 0.1, b"null")


def a_worker(**traits: object) -> WorkerHandle:
    """As much of a worker as is looked at."""
    usual = {"retiring": False, "ready": True, "purpose": None, "asynchronous": False,
             "tasks_given": 0, "allowance": 1}  # fmt: skip
    return Mock(WorkerHandle, **{**usual, **traits})


def a_lease() -> Lease:
    """A claimed task."""
    token = uuid4()
    task = Claimed(next(_ids), token, 1, "k", b"{}", None, 100)
    return Lease(task, str(token).encode(), "default", 0.0, 100)


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
    assert rules.reason(worker, "c", DONE, 0.0) is None
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
def test_what_handlers_say_on_purpose_is_no_sign_of_a_bad_worker(error_type: str) -> None:
    """Any number of kinds may do so."""
    rules, worker = Retirement(Limits()), a_worker()
    assert [rules.reason(worker, kind, failure(error_type), 0.0) for kind in "abcdef"] == [None] * 6


def test_exhaustion_retires_at_once() -> None:
    """With what was said of it."""
    reason = Retirement(Limits()).reason(a_worker(), "a", failure("OSError", exhausted=True), 0.0)
    assert reason == "OSError: message"


def test_loops_that_still_finish_do_not_pile_up() -> None:
    """The fifth goes on until one of them has ended; sync workers have their slot."""
    loop = a_worker(asynchronous=True)
    retiring = [a_worker(asynchronous=True, retiring=True) for _ in range(4)]
    assert may_retire(loop, [loop, *retiring[:3]])
    assert not may_retire(loop, [loop, *retiring])
    assert may_retire(a_worker(), [loop, *retiring])


# --------------------------------------------------------------------------------------- starting


def test_who_retires_is_replaced_while_it_finishes() -> None:
    """And workers for suspects come on top, each for one part, up to a bound."""
    ordinary = [a_worker(), a_worker(retiring=True)]
    assert to_start(ordinary, 1, {}) == []
    assert to_start(ordinary[1:], 1, {}) == [None]
    waiting = {"q": Counter({True: 1})}
    assert to_start(ordinary, 1, waiting) == [True]
    assert to_start([*ordinary, a_worker(purpose=True)], 1, waiting) == []
    assert to_start([*ordinary, a_worker(purpose=False)], 1, waiting) == [True]
    busy = [a_worker(purpose=True, retiring=True, tasks_given=9) for _ in range(8)]
    assert to_start([*ordinary, *busy[:7]], 1, waiting) == [True]
    assert to_start([*ordinary, *busy], 1, waiting) == []


# --------------------------------------------------------------------------------------- suspects


@settings(database=None, max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=70), data=st.data())
def test_halving_ends_with_the_culprit_alone(sizes: list[int], data: st.DataObject) -> None:
    """Of any number of calls, batches among them: each part that dies is divided without losing a
    lease, until one is alone; and all others have been in a part that lived.
    """
    calls = [[a_lease() for _ in range(size)] for size in sizes]
    leases = [lease for call in calls for lease in call]
    culprit = data.draw(st.sampled_from(leases))
    parts, lived, deaths = [Suspects(calls, asynchronous=True)], [], 0
    while parts:
        part = parts.pop()
        if culprit not in part.leases:
            lived += part.leases
        elif len(part.leases) > 1:
            deaths += 1
            halves = part.halves()
            assert sorted(map(id, part.leases)) == sorted(id(x) for h in halves for x in h.leases)
            parts += halves
    assert sorted(map(id, lived)) == sorted(id(one) for one in leases if one is not culprit)
    assert deaths <= len(calls).bit_length() + 3


def test_the_suspects_of_a_loop_are_those_of_all_queues() -> None:
    """Each queue keeps its own, and calls stay whole."""
    local_queues = [LocalQueue(name, 9, DurationEstimate(), {}) for name in "ab"]
    outs = {
        number: Out(a_lease(), local_queues[number // 4 % 2], 0.1, call=number // 4)
        for number in range(20)
    }
    death = Death("SIGKILL", None)
    suspect_all(death, outs)
    assert len(death.suspects) == 4
    found = [id(lease) for part in death.suspects for lease in part.leases]
    assert sorted(found) == sorted(id(out.lease) for out in outs.values())


def test_suspects_keep_their_slots_while_they_wait() -> None:
    """So newcomers get those that are left; what is dropped frees its own."""
    local_queue = LocalQueue("default", 5, DurationEstimate(), {})
    part = Suspects([[a_lease()], [a_lease()], [a_lease()]], asynchronous=True)
    local_queue.suspect(part, 1.0)
    assert local_queue.free_slots == 2
    assert local_queue.divided() == local_queue.suspected() == part.leases
    local_queue.drop(part.calls[0])
    assert local_queue.free_slots == 3
    local_queue.drop(part.leases)
    assert (local_queue.free_slots, list(local_queue.suspects)) == (5, [])
    local_queue.suspect(Suspects([[a_lease()], [a_lease()]], asynchronous=False), 1.0)
    assert local_queue.free_slots == 4
