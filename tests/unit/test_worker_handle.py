"""What a worker is assigned: the counters of its queue, and the deadlines of its tasks."""

from __future__ import annotations

import time
from itertools import count
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.database.rows import Claimed
from peers.pool.crash import CANCELLED, CRASH, KillReason
from peers.pool.deadlines import RECALL_AFTER, Deadlines
from peers.pool.durations import DurationEstimate
from peers.pool.handle import WorkerHandle
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue
from peers.pool.process import WorkerProcess
from peers.protocol.messages import Assign, Recall
from peers.protocol.running_marker import Running, RunningMarker

_ids = count(1)
IDLE = Running(0, 0, 0.0)
NEVER = float("inf")


def a_queue(slots: int = 9) -> LocalQueue:
    """A queue without tasks."""
    return LocalQueue("default", slots, DurationEstimate(), {})


def a_lease(local_queue: LocalQueue, timeout: float | None = None) -> Lease:
    """A claimed task."""
    return Lease(Claimed(next(_ids), uuid4(), 1, "k", b"{}", timeout, 100), local_queue, 0.0)


def a_worker(*, asynchronous: bool) -> WorkerHandle:
    """One whose process does nothing."""
    process = Mock(WorkerProcess, marker=Mock(RunningMarker))
    worker = WorkerHandle(process, 0)
    worker.begin(asynchronous)
    return worker


class Books:
    """What the queue should count: by hand, from the leases of each call."""

    def __init__(self, *, asynchronous: bool) -> None:
        self.local_queue = a_queue()
        self.worker = a_worker(asynchronous=asynchronous)
        self.calls: list[list[int]] = []

    def assign(self, size: int, *, as_batch: bool) -> None:
        """Assign new leases."""
        leases = [a_lease(self.local_queue) for _ in range(size)]
        self.worker.assign(leases, DurationEstimate(), as_batch=as_batch)
        ids = [lease.execution_id for lease in leases]
        self.calls += [ids] if as_batch else [[number] for number in ids]

    def finish(self, at: int) -> None:
        """Finish one of the executions."""
        open_ids = [number for call in self.calls for number in call]
        execution_id = open_ids[at % len(open_ids)]
        assert self.worker.take_back(execution_id) is not None
        assert self.worker.take_back(execution_id) is None, "an execution is over once"
        for call in self.calls:
            if execution_id in call:
                call.remove(execution_id)
        self.calls = [call for call in self.calls if call]

    def check(self) -> None:
        """Compare."""
        tasks, calls = sum(map(len, self.calls)), len(self.calls)
        occupied = calls if self.worker.asynchronous else min(calls, 1)
        assert self.local_queue.in_workers == tasks == len(self.worker.leases)
        assert self.local_queue.free_slots == 9 - occupied
        assert (self.worker.expected_seconds > 0) is (tasks > 0)


@settings(database=None, max_examples=60, deadline=None)
@given(
    asynchronous=st.booleans(),
    steps=st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 99)), max_size=20),
)
def test_a_queue_counts_what_its_worker_has(
    asynchronous: bool, steps: list[tuple[int, bool, int]]
) -> None:
    """Tasks, and the slots of their calls, whatever is assigned and ends in whatever order."""
    books = Books(asynchronous=asynchronous)
    for size, as_batch, at in steps:
        if size:
            books.assign(size, as_batch=as_batch)
        elif books.calls:
            books.finish(at)
        books.check()
    while books.calls:
        books.finish(0)
        books.check()


def test_the_executions_of_a_batch_are_consecutive_and_named_by_the_first() -> None:
    """The running marker tells a batch by its first execution and their number."""
    local_queue, worker = a_queue(), a_worker(asynchronous=False)
    batch = [a_lease(local_queue) for _ in range(3)]
    single = [a_lease(local_queue) for _ in range(2)]
    worker.assign(batch, DurationEstimate(), as_batch=True)
    worker.assign(single, DurationEstimate())
    first = batch[0].execution_id
    assert [lease.execution_id for lease in batch] == [first, first + 1, first + 2]
    assert {lease.batch_id for lease in batch} == {first}
    assert [lease.batch_id for lease in single] == [lease.execution_id for lease in single]
    assert [lease.is_first for lease in batch + single] == [True, True, True, False, False]
    sent: Any = worker.process.send
    assert [type(call.args[0]) for call in sent.call_args_list[1:]] == [Assign, Assign]


def test_what_waits_behind_a_slow_handler_is_recalled_once() -> None:
    """Not while the handler may still be a quick one, and not if nothing waits."""
    local_queue, worker = a_queue(), a_worker(asynchronous=False)
    marker: Any = worker.process.marker
    marker.kill_at.return_value = NEVER
    sent: Any = worker.process.send
    leases = [a_lease(local_queue) for _ in range(2)]
    worker.assign(leases, DurationEstimate())
    marker.running.return_value = Running(leases[0].execution_id, 1, 5.0)
    assert worker.next_deadline() == pytest.approx(5.0 + RECALL_AFTER)
    worker.watch(5.0 + RECALL_AFTER / 2)
    assert not isinstance(sent.call_args.args[0], Recall)
    worker.watch(5.1 + RECALL_AFTER)
    assert isinstance(sent.call_args.args[0], Recall)
    assert worker.next_deadline() == NEVER
    calls = sent.call_count
    worker.watch(5.2 + RECALL_AFTER)
    assert sent.call_count == calls


# ------------------------------------------------------------------------------------- deadlines


def deadlines(*leases: Lease, asynchronous: bool, kill_at: float = NEVER) -> Deadlines:
    """Those of a worker with these leases, whose execution ids are their number from 1."""
    for number, lease in enumerate(leases, start=1):
        lease.execution_id = lease.batch_id = number
    marker = Mock(RunningMarker, **{"kill_at.return_value": kill_at})
    made = Deadlines(marker, {lease.execution_id: lease for lease in leases})
    made.asynchronous = asynchronous
    for lease in leases:
        made.add(lease, calls=1)
    return made


def test_a_sync_handler_has_its_timeout_from_its_own_start() -> None:
    """However long it waited behind others; no other task is blamed."""
    queue = a_queue()
    made = deadlines(a_lease(queue, 1.0), a_lease(queue), asynchronous=False)
    running = Running(1, 1, 100.0)
    assert made.exceeded(running, 100.9) is None
    assert made.exceeded(running, 101.1) == KillReason(
        1, "timeout", "ran longer than its timeout of 1 s"
    )
    assert made.exceeded(Running(2, 1, 0.0), 1000.0) is None
    assert made.exceeded(IDLE, 1000.0) is None


def test_a_handler_is_killed_by_its_own_limit() -> None:
    """That of `kill_after()`; an async one has a moment more to yield."""
    running = Running(1, 1, 100.0)
    for asynchronous, late in ((False, 200.1), (True, 202.1)):
        made = deadlines(a_lease(a_queue()), asynchronous=asynchronous, kill_at=200.0)
        assert made.exceeded(running, late - 0.2) is None
        reason = made.exceeded(running, late)
        assert reason is not None
        assert "kill_after" in reason.message


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_cancelled_task_is_killed_only_where_it_runs(asynchronous: bool) -> None:
    """A sync one that waits is no reason to kill the handler before it. An async handler that keeps
    the loop from stopping it is killed itself, for a crash.
    """
    queue = a_queue()
    made = deadlines(a_lease(queue), a_lease(queue), asynchronous=asynchronous)
    made.add_cancelled(2, grace=0.0)
    later = time.monotonic() + 1
    assert made.missed(Running(2, 1, 0.0), later) == KillReason(2, CANCELLED, "stopped on request")
    reason = made.missed(Running(1, 1, 0.0), later)
    if asynchronous:
        assert reason is not None
        assert reason[:2] == (1, CRASH)
        idle = made.missed(IDLE, later)
        assert idle is not None
        assert idle.execution_id == 2
    else:
        assert reason is None
        assert made.missed(IDLE, later) is None
    made.remove(2)
    assert made.missed(Running(2, 1, 0.0), later) is None
