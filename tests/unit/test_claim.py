"""A claim: what is made of its columns, and when."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from peers.database.binary import read_ids
from peers.pool.batch_key import BatchKey
from peers.pool.claim import TaskRun, runs_of
from peers.pool.durations import DurationEstimate
from peers.pool.executions import Execution, Executions
from peers.pool.local_queue import LocalQueue
from peers.protocol.messages import KindDeclared
from tests.support.claims import a_claim

KINDS = {
    "a": KindDeclared("a", False, 5, 3.0, 1.0, 1.0),
    "b": KindDeclared("b", True, 5, None, 1.0, 1.0),
    "c": KindDeclared("c", False, 5, None, 1.0, 1.0, batch_size=3),
    "d": KindDeclared("d", False, 5, None, 1.0, 1.0),
}


def a_queue() -> LocalQueue:
    """A queue without tasks."""
    return LocalQueue("default", 1, DurationEstimate(), KINDS)


def test_a_whole_claim_goes_to_a_worker_as_it_came() -> None:
    """No lease is made, and neither the ids nor the args are copied or read."""
    claim = a_claim(a_queue(), *["a"] * 1000)
    [run] = claim.runs()
    assert run == TaskRun(claim, 0, 1000)
    message = claim.to_message(run.first, run.count, 7)
    assert (message.execution_id, message.count, message.token) == (7, 1000, claim.token)
    assert (message.attempts, message.kinds, message.timeouts) == ((1,), ("a",), (3.0,))
    assert message.task_ids is run.task_ids()
    assert message.args is claim.to_message(0, 1000, 1).args
    assert run.leases_made() == []


def test_a_part_of_a_claim_has_its_own_ids_and_args() -> None:
    """In the same order."""
    args = [b'{"n": %d}' % number for number in range(10)]
    claim = a_claim(a_queue(), *"aaaaaddddd", args=args)
    message = claim.to_message(4, 3, 1)
    assert read_ids(message.task_ids) == tuple(claim.task_id(index) for index in (4, 5, 6))
    assert message.kinds == ("a", "d", "d")
    assert message.timeouts == (3.0, None, None)
    assert message.args == b'[{"n": 4},{"n": 5},{"n": 6}]'


def test_a_lease_is_made_once_and_says_what_the_claim_says() -> None:
    """That of the 700th task, found by its id, with a timeout of its own."""
    timeouts: list[float | None] = [None] * 1000
    timeouts[699] = 0.5
    args = [b'{"n": %d}' % number for number in range(1000)]
    claim = a_claim(a_queue(), *["a"] * 1000, timeouts=timeouts, args=args)
    index = claim.find(claim.task_id(699))
    assert index == 699
    lease = claim.lease(index)
    assert claim.lease(699) is lease
    assert claim.leases_made(0, 1000) == [lease]
    assert claim.leases_made(0, 699) == []
    task = lease.task
    assert (task.task_id, task.token) == (claim.task_id(699), UUID(bytes=claim.token))
    assert (task.attempt, task.kind, task.args, task.timeout) == (1, "a", b'{"n": 699}', 0.5)
    assert claim.find(claim.task_id(0) - 1) is None


def test_tasks_that_cannot_be_assigned_together_are_runs_of_their_own() -> None:
    """Sync, async and batch handlers, and different priorities; sync kinds may be mixed."""
    claim = a_claim(a_queue(), *"adbbcca", priorities=[1, 1, 1, 1, 1, 2, 2])
    runs = claim.runs()
    assert [(run.first, run.count, run.priority) for run in runs] == [
        (0, 2, 1), (2, 2, 1), (4, 1, 1), (5, 1, 2), (6, 1, 2),
    ]  # fmt: skip
    assert [run.key for run in runs[:3]] == [
        BatchKey(False), BatchKey(True), BatchKey(False, "c", None, 3, 0.0),
    ]  # fmt: skip
    leases = [lease for run in runs for lease in run.leases()]
    assert runs_of(leases) == runs, "leases become runs again"


@settings(database=None, max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), max_size=12))
def test_executions_end_in_any_order(ends: list[tuple[int, int]]) -> None:
    """Some that have consecutive ids end together, from wherever: each ends once, and is the task
    of its id; what has ended is not there any more.
    """
    claim = a_claim(a_queue(), *["a"] * 30)
    executions = Executions()
    executions.add(Execution(100, TaskRun(claim, 0, 10), 0.0))
    executions.add(Execution(110, TaskRun(claim, 10, 20), 0.0))
    left = set(range(30))
    for first, count in ends:
        wanted = set(range(first, first + count))
        taken = executions.take(100 + first, count)
        crosses = first < 10 < first + count
        assert (taken is not None) is (wanted <= left and not crosses)
        if taken is not None:
            assert taken.run == TaskRun(claim, first, count)
            left -= wanted
        assert len(executions) == executions.calls == len(left)
        for index in range(30):
            assert (executions.find(100 + index) is not None) is (index in left)
            found = executions.find_task(TaskRun(claim, index, 1))
            assert found == (100 + index if index in left else None)
