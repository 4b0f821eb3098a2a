"""What a worker is assigned: the counters of its queue, and the deadlines of its tasks."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.pool.batch_key import BatchKey
from peers.pool.claim import TaskRun
from peers.pool.crash import CANCELLED, CRASH, KillReason
from peers.pool.deadlines import RECALL_AFTER, Deadlines
from peers.pool.durations import DurationEstimate
from peers.pool.executions import Execution, Executions
from peers.pool.handle import WorkerHandle
from peers.pool.local_queue import LocalQueue
from peers.pool.peek import ask_worker
from peers.pool.process import WorkerProcess
from peers.protocol.messages import Assign, Cancel, Peek, Recall
from peers.protocol.running_marker import Running, RunningMarker
from tests.support.claims import a_claim

IDLE = Running(0, 0, 0.0)
NEVER = float("inf")


def a_queue(slots: int = 9) -> LocalQueue:
    """A queue without tasks."""
    return LocalQueue("default", slots, DurationEstimate(), {})


def a_run(
    local_queue: LocalQueue, size: int, timeouts: list[float | None] | None = None
) -> TaskRun:
    """The tasks of a claim."""
    return TaskRun(a_claim(local_queue, *["k"] * size, timeouts=timeouts), 0, size)


def a_worker(*, asynchronous: bool) -> WorkerHandle:
    """One whose process does nothing."""
    process = Mock(WorkerProcess, marker=Mock(RunningMarker))
    worker = WorkerHandle(process, 0)
    worker.begin(asynchronous)
    return worker


def last_assigned(worker: WorkerHandle) -> Assign:
    """The message that it was sent last."""
    sent: Any = worker.process.send
    message = sent.call_args.args[0]
    assert isinstance(message, Assign)
    return message


class Books:
    """What the queue should count: by hand, from the leases of each call."""

    def __init__(self, *, asynchronous: bool) -> None:
        self.local_queue = a_queue()
        self.worker = a_worker(asynchronous=asynchronous)
        self.calls: list[list[int]] = []

    def assign(self, size: int, *, as_batch: bool) -> None:
        """Assign new leases."""
        run = a_run(self.local_queue, size)
        self.worker.assign([run], DurationEstimate(), as_batch=as_batch)
        first = last_assigned(self.worker).runs[0].execution_id
        ids = list(range(first, first + size))
        self.calls += [ids] if as_batch else [[number] for number in ids]

    def finish(self, at: int) -> None:
        """Finish one of the executions."""
        open_ids = [number for call in self.calls for number in call]
        execution_id = open_ids[at % len(open_ids)]
        assert self.worker.ended(execution_id) is not None
        assert self.worker.ended(execution_id) is None, "an execution is over once"
        for call in self.calls:
            if execution_id in call:
                call.remove(execution_id)
        self.calls = [call for call in self.calls if call]

    def check(self) -> None:
        """Compare."""
        tasks, calls = sum(map(len, self.calls)), len(self.calls)
        # the calls of an async worker that are beyond its slots wait for one of them
        occupied = min(calls, 9 if self.worker.asynchronous else 1)
        assert self.local_queue.in_workers == tasks == len(self.worker.executions)
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
    # a batch of two claims
    batch = [a_run(local_queue, 2), a_run(local_queue, 1)]
    worker.assign(batch, DurationEstimate(), as_batch=True)
    one, other = last_assigned(worker).runs
    assert (one.count, other.count) == (2, 1)
    assert other.execution_id == one.execution_id + 2
    worker.assign([a_run(local_queue, 2)], DurationEstimate())
    assert worker.executions.calls == 3
    assert worker.executions.ids_of_call(one.execution_id) == list(
        range(one.execution_id, one.execution_id + 3)
    )
    ended = [worker.ended(one.execution_id + offset) for offset in range(4)]
    assert None not in ended
    assert [worker.was_fresh_for(each) for each in ended if each] == [True, True, True, False]


def test_a_batch_of_two_claims_is_recalled_whole() -> None:
    """The worker returns it as one range of executions, and no task of it may stay behind."""
    local_queue, worker = a_queue(), a_worker(asynchronous=False)
    batch = [a_run(local_queue, 2), a_run(local_queue, 3)]
    worker.assign(batch, DurationEstimate(), as_batch=True)
    [first, _] = last_assigned(worker).runs
    recalled = worker.recalled([(first.execution_id, 5)])
    assert recalled == [lease for run in batch for lease in run.leases()]
    assert (len(worker.executions), local_queue.in_workers, local_queue.free_slots) == (0, 0, 9)


def test_what_waits_behind_a_slow_handler_is_recalled_once() -> None:
    """Not while the handler may still be a quick one, and not if nothing waits."""
    local_queue, worker = a_queue(), a_worker(asynchronous=False)
    marker: Any = worker.process.marker
    marker.kill_at.return_value = NEVER
    sent: Any = worker.process.send
    worker.assign([a_run(local_queue, 2)], DurationEstimate())
    marker.running.return_value = Running(last_assigned(worker).runs[0].execution_id, 1, 5.0)
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


def deadlines(
    *timeouts: float | None, asynchronous: bool, kill_at: float = NEVER
) -> tuple[Deadlines, Executions]:
    """Those of a worker with tasks with these timeouts, whose execution ids count from 1."""
    marker = Mock(RunningMarker, **{"kill_at.return_value": kill_at})
    executions = Executions()
    made = Deadlines(marker, executions)
    made.asynchronous = asynchronous
    execution = Execution(1, a_run(a_queue(), len(timeouts), list(timeouts)), 0.0)
    executions.add(execution)
    made.add(execution, calls=1)
    return made, executions


def test_a_sync_handler_has_its_timeout_from_its_own_start() -> None:
    """However long it waited behind others; no other task is blamed."""
    made, _ = deadlines(1.0, None, asynchronous=False)
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
        made, _ = deadlines(None, asynchronous=asynchronous, kill_at=200.0)
        assert made.exceeded(running, late - 0.2) is None
        reason = made.exceeded(running, late)
        assert reason is not None
        assert "kill_after" in reason.message


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_cancelled_task_is_killed_only_where_it_runs(asynchronous: bool) -> None:
    """A sync one that waits is no reason to kill the handler before it. An async handler that keeps
    the loop from stopping it is killed itself, for a crash.
    """
    made, executions = deadlines(None, None, asynchronous=asynchronous)
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
    ended = executions.take(2, 1)
    assert ended is not None
    made.remove(ended)
    assert made.missed(Running(2, 1, 0.0), later) is None


def test_what_waits_for_a_slot_of_slow_async_handlers_is_recalled() -> None:
    """And the worker gets no more of it until a handler ends, but what there are free slots for."""
    local_queue, worker = a_queue(slots=2), a_worker(asynchronous=True)
    marker: Any = worker.process.marker
    marker.kill_at.return_value, marker.running.return_value = NEVER, IDLE
    sent: Any = worker.process.send
    assigned = time.monotonic()
    worker.assign([a_run(local_queue, 3)], DurationEstimate())
    first = last_assigned(worker).runs[0].execution_id
    assert last_assigned(worker).slots == 2
    now = time.monotonic()
    assert assigned + RECALL_AFTER <= worker.next_deadline() <= now + RECALL_AFTER
    worker.watch(assigned + RECALL_AFTER / 2)
    assert isinstance(sent.call_args.args[0], Assign)
    worker.watch(now + 2 * RECALL_AFTER)
    assert isinstance(sent.call_args.args[0], Recall)
    assert worker.budget(local_queue, 0.001) == 0, "while it is being recalled"
    [lease] = worker.recalled([(first + 2, 1)])
    assert lease.index == 2
    assert worker.room(local_queue, 0.001) == 0
    local_queue.slots += 1
    assert worker.room(local_queue, 0.001) == 1
    assert worker.ended(first) is not None
    assert worker.room(local_queue, 0.001) > 2


# ------------------------------------------------------------------------- one task of a long run


def test_a_crash_in_the_middle_of_a_run_is_charged_to_the_task_that_ran() -> None:
    """What has ended stays ended. What may have started is released, and what is behind it is
    assigned again. No other lease is made than for these.
    """
    local_queue, worker = a_queue(), a_worker(asynchronous=False)
    run = a_run(local_queue, 1000)
    worker.assign([run], DurationEstimate())
    first = last_assigned(worker).runs[0].execution_id
    assert worker.ended(first, 500) is not None
    process: Any = worker.process
    process.marker.running.return_value = Running(first + 600, 1, 0.0)
    process.marker.last_started.return_value = range(first + 600, first + 601)
    process.reap.return_value = -11
    exited = worker.reap(stopped=False)
    assert [(lease.index, failure["exit_signal"]) for lease, failure in exited.failed] == [
        (600, "SIGSEGV")
    ]
    assert [lease.index for lease in exited.released] == list(range(500, 600))
    assert [lease.index for lease in exited.requeued] == list(range(601, 1000))
    assert run.claim.leases_made(0, 500) == []
    assert (local_queue.in_workers, local_queue.free_slots) == (0, local_queue.slots)
    local_queue.requeue(exited.requeued)
    [again] = local_queue.take(BatchKey(False), 1e9, 1000)
    assert again == TaskRun(run.claim, 601, 399), "they are one run again"


def test_one_task_of_a_run_is_cancelled() -> None:
    """The 700th: what has not started is recalled, and goes on as a run without it."""
    local_queue, worker = a_queue(), a_worker(asynchronous=False)
    run = a_run(local_queue, 1000)
    worker.assign([run], DurationEstimate())
    first = last_assigned(worker).runs[0].execution_id
    lease = run.claim.lease(699)
    assert worker.cancel(lease, grace=1.0)
    sent: Any = worker.process.send
    assert [call.args[0] for call in sent.call_args_list[-2:]] == [Cancel(first + 699), Recall()]
    recalled = worker.recalled([(first + 10, 990)])
    assert lease in recalled
    assert not worker.cancel(lease, grace=1.0), "it is not there any more"
    local_queue.requeue([other for other in recalled if other is not lease])
    taken = local_queue.take(BatchKey(False), 1e9, 1000)
    assert taken == [TaskRun(run.claim, 10, 689), TaskRun(run.claim, 700, 300)]
    assert worker.executions.calls == 10


def test_a_peek_says_which_task_is_before_another() -> None:
    """A sync worker has two tasks, and runs the first; an async one has both on its loop."""
    local_queue = a_queue()
    run = a_run(local_queue, 2)
    first, second = run.leases()
    for asynchronous in (False, True):
        worker = a_worker(asynchronous=asynchronous)
        worker.process.pid, worker.process.pidfd, worker.process.stack_dump = 1, -1, None
        worker.assign([run], DurationEstimate())
        execution_id = last_assigned(worker).runs[0].execution_id
        marker: Any = worker.process.marker
        marker.running.return_value = Running(execution_id, 1, 5.0)
        now = 7.0
        targets = [ask_worker(worker, lease, 3, now) for lease in (first, second)]
        assert all(targets)
        running, waiting = (target for target in targets if target is not None)
        assert running.phase == "running"
        about = f"task {first.task.task_id} (k)"
        if asynchronous:
            assert "it has the loop since 2.000 s" in running.sentence
            assert f"{about} has the loop since 2.000 s" in waiting.sentence
        else:
            assert running.sentence == "running for 2.0 s"
            assert waiting.phase == "waiting"
            assert f"behind {about}, which has been running for 2.0 s" in waiting.sentence
        sent: Any = worker.process.send
        assert sent.call_args.args[0] == Peek(3, execution_id + 1)
        assert ask_worker(worker, a_run(local_queue, 1).leases()[0], 3, now) is None
