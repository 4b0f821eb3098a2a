"""Isolating the bad tasks of a batch: by its worker if they raise, by the peer if they crash."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count
from math import ceil, log2

import pytest

from peers.context import CurrentTask
from peers.handlers import Handler, register
from peers.pool.crash import WorkerExit
from peers.pool.durations import DurationEstimate
from peers.pool.executions import AssignedLease
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue
from peers.protocol.messages import Completed, Failed
from peers.worker.assigned import AssignedTask
from peers.worker.batch import Batch, Part
from tests.support.claims import a_claim

KIND = "unit.batch"
SIZES = [1, 2, 3, 64, 257]


class Poisoned(Exception):  # noqa: N818 - a name says what is the matter
    """What the handler raises when it meets poison."""


def handler(rows: list[dict[str, int]]) -> list[int]:
    """Never called: the tests return or raise in its place."""
    return [row["n"] for row in rows]


@pytest.fixture(autouse=True)
def _known() -> None:
    register(Handler(KIND, handler, batch_size=1000))


def run_batch(batch: Batch, poison: set[int]) -> tuple[dict[int, Completed | Failed], int]:
    """Every outcome by its execution id, and the number of calls."""
    outcomes: dict[int, Completed | Failed] = {}
    calls = 0
    while (part := batch.next()) is not None:
        calls += 1
        if poison & {member["n"] for member in part.args}:
            batch.raised(part, Poisoned())
        else:
            batch.returned(part, [member["n"] for member in part.args])
        for outcome in batch.take_outcomes():
            assert outcome.execution_id not in outcomes, "a task has two outcomes"
            outcomes[outcome.execution_id] = outcome
    return outcomes, calls


def assigned(size: int) -> list[AssignedTask]:
    """Tasks whose execution id is their number + 1."""
    return [
        AssignedTask(n + 1, n + 1, b"token", 1, KIND, b'{"n": %d}' % n, None) for n in range(size)
    ]


def current(task: AssignedTask) -> CurrentTask:
    """A current task that can send no requests."""
    return CurrentTask(task.task_id, KIND, 1, "token", None, task.execution_id, None)  # type: ignore[arg-type]  # it asks nobody


def wrong_after_raising(kind: type[Batch], size: int, bad_tasks: int, seed: int) -> str | None:
    """What is wrong; None when only the bad tasks failed, within the bound."""
    poison = set(random.Random(seed).sample(range(size), min(bad_tasks, size)))
    outcomes, calls = run_batch(kind(assigned(size), current), poison)
    if outcomes.keys() != set(range(1, size + 1)):
        return "tasks were lost"
    failed = {execution_id - 1 for execution_id, one in outcomes.items() if isinstance(one, Failed)}
    if failed != poison:
        return f"{failed} failed, and not {poison}"
    bound = 1 + len(poison) * 2 * ceil(log2(size)) if size > 1 else 1
    return None if calls <= bound else f"{calls} calls, and at most {bound} are needed"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bad_tasks", [0, 1, 3])
def test_tasks_that_raise_are_isolated_in_few_calls(size: int, bad_tasks: int) -> None:
    """Exactly the bad tasks fail, each task has one outcome, in about 2·log₂(n) calls for each."""
    assert wrong_after_raising(Batch, size, bad_tasks, seed=size) is None


class NotBisected(Batch):
    """A broken variant: one bad task fails all."""

    def raised(self, part: Part, error: BaseException, describe: object = None) -> None:
        del describe
        self._fail(part, error)


class Forgetful(Batch):
    """A broken variant: the odd one is left out of both halves."""

    def raised(self, part: Part, error: BaseException, describe: object = None) -> None:
        del describe
        if len(part.members) == 1:
            self._fail(part, error)
            return
        middle = len(part.members) // 2
        halves = [part.members[middle : 2 * middle], part.members[:middle]]
        self._waiting += [half for half in halves if half]


@pytest.mark.parametrize("broken", [NotBisected, Forgetful])
def test_broken_ways_to_bisect_are_caught(broken: type[Batch]) -> None:
    """The same check finds what is wrong."""
    assert any(wrong_after_raising(broken, size, 1, seed) for size in SIZES for seed in range(5))


# --------------------------------------------------------------------------------- it kills


Sort = Callable[[WorkerExit, list[AssignedLease], range, float], None]


def leases_of_a_batch(size: int) -> list[Lease]:
    """Claimed tasks whose index is their number."""
    claim = a_claim(LocalQueue("default", 1, DurationEstimate(), {}), *[KIND] * size)
    return [claim.lease(index) for index in range(size)]


def assigned_as_batch(leases: list[Lease], ids: Iterator[int]) -> list[AssignedLease]:
    """Give them the execution ids of one batch."""
    numbers = [next(ids) for _ in leases]
    return [
        AssignedLease(number, numbers[0], lease)
        for number, lease in zip(numbers, leases, strict=True)
    ]


def wrong_after_crashes(sort: Sort, size: int, bad_tasks: int, seed: int) -> str | None:
    """The same for poison that crashes: each part goes to a fresh worker until all have ended."""
    ids = count(1)
    poison = set(random.Random(seed).sample(range(size), min(bad_tasks, size)))
    waiting, done, failed, crashes = [leases_of_a_batch(size)], set[int](), set[int](), 0
    while waiting:
        part = waiting.pop()
        numbers = {lease.index for lease in part}
        if not numbers & poison:
            done |= numbers
            continue
        crashes += 1
        worker_exit = WorkerExit("SIGSEGV", None)
        tasks = assigned_as_batch(part, ids)
        call = range(tasks[0].execution_id, tasks[-1].execution_id + 1)
        sort(worker_exit, tasks, call, float("inf"))
        failed |= {lease.index for lease, _ in worker_exit.failed}
        waiting += worker_exit.bisected
        if worker_exit.released or worker_exit.requeued:
            return "other tasks were given back"
    if failed != poison or done != set(range(size)) - poison:
        return f"{failed} failed, and not {poison}; {len(done)} were done"
    bound = len(poison) * (ceil(log2(size)) + 1) if size > 1 else len(poison)
    return None if crashes <= bound else f"{crashes} workers crashed, and at most {bound} need to"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bad_tasks", [0, 1, 3])
def test_tasks_that_crash_are_isolated_in_few_crashes(size: int, bad_tasks: int) -> None:
    """Exactly these fail; a worker crashes log₂(n) + 1 times for each at most."""
    assert wrong_after_crashes(WorkerExit.sort, size, bad_tasks, seed=size) is None


def test_failing_all_tasks_of_the_call_is_caught() -> None:
    """A broken variant: every task of the call fails."""

    def harsh(worker_exit: WorkerExit, tasks: list[AssignedLease], *_: object) -> None:
        worker_exit.failed.extend((task.lease, {}) for task in tasks)

    assert wrong_after_crashes(harsh, 64, 1, seed=1)


def test_tasks_behind_a_crash_have_not_started() -> None:
    """They keep their leases and are assigned again; what was finished before is released."""
    leases = leases_of_a_batch(3)
    tasks = [AssignedLease(number, number, lease) for number, lease in enumerate(leases, start=1)]
    worker_exit = WorkerExit("SIGKILL", None)
    worker_exit.sort(tasks, range(2, 3), 3)
    [(failed, failure)] = worker_exit.failed
    assert failed is leases[1]
    assert failure["error_message"] == (
        "the worker process was killed by SIGKILL while it ran this task"
    )
    assert worker_exit.requeued == [leases[2]]
    assert worker_exit.released == [leases[0]]


def test_the_rest_of_a_batch_that_crashed_stays_under_its_lease() -> None:
    """Some of the batch were not in the call that crashed: they are called again, apart from it."""
    leases = leases_of_a_batch(4)
    tasks = assigned_as_batch(leases, count(1))
    worker_exit = WorkerExit("SIGKILL", None)
    worker_exit.sort(tasks, range(1, 2), float("inf"))
    assert [lease for lease, _ in worker_exit.failed] == leases[:1]
    assert worker_exit.bisected == [leases[1:]]
    assert worker_exit.released == []
