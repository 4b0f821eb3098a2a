"""What a peer makes of a worker's output: which call it belongs to, and when it is stored."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from peers.pool.claim import TaskRun
from peers.pool.executions import Execution, Executions
from peers.pool.worker_output import WorkerOutput
from peers.protocol import output
from tests.support.claims import a_claim
from tests.unit.test_claim import a_queue

if TYPE_CHECKING:
    from collections.abc import Iterator


class Worker:
    """A worker with four tasks, whose execution ids are 1 to 4, and its output pipe."""

    def __init__(self, policy: str = "failed") -> None:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.executions = Executions()
        self.claim = a_claim(a_queue(), *["a"] * 4)
        self.executions.add(Execution(1, TaskRun(self.claim, 0, 4), 0.0))
        self.output = WorkerOutput(self.reader, self.executions, {"a": policy})

    def begin(self, execution_id: int, span: int = 1) -> None:
        """Begin a call."""
        os.write(self._writer, output.begin(execution_id, span))

    def say(self, execution_id: int, text: bytes) -> None:
        """Print in a handler."""
        for frame in output.frames(execution_id, text):
            os.write(self._writer, frame)

    def program(self, text: bytes) -> None:
        """Print in a program of the handler."""
        os.write(self._writer, text)

    def read(self, now: float = 0.0) -> list[tuple[int, bytes]]:
        """The lines of programs, with the task of each."""
        return [(lease.task.task_id, line) for lease, line in self.output.read_rest(now)]

    def failed(self, execution_id: int) -> str | None:
        """The log of an attempt that has failed."""
        self.read()
        kept = self.output.failed(execution_id)
        return None if kept is None else kept.text

    def end(self) -> None:
        """Close the pipe."""
        os.close(self.reader)
        os.close(self._writer)


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker of a kind that keeps the logs of failed attempts."""
    made = Worker()
    yield made
    made.end()


def test_each_call_has_its_own_text(worker: Worker) -> None:
    """Frames by their id, and programs by the call that began last."""
    worker.begin(1)
    worker.say(1, b"one\n")
    worker.program(b"of one\n")
    worker.begin(2)
    worker.say(1, b"late\n")
    worker.program(b"of two\nwithout end")
    ids = worker.claim.task_id(0), worker.claim.task_id(1)
    assert worker.read() == [(ids[0], b"of one"), (ids[1], b"of two")]
    assert worker.failed(1) == "one\nof one\nlate\n"
    assert worker.failed(2) == "of two\nwithout end"
    assert worker.failed(3) is None


def test_a_call_that_is_over_has_no_log_any_more(worker: Worker) -> None:
    """What its threads print later belongs to nobody, and takes no memory."""
    worker.say(1, b"one\n")
    assert worker.failed(1) == "one\n"
    worker.executions.take(1, 1)
    worker.say(1, b"late\n")
    worker.read()
    assert worker.output._logs == {}


def test_a_task_of_a_batch_has_the_log_of_its_last_call(worker: Worker) -> None:
    """Of the whole batch, of the half that failed, of its own call."""
    worker.begin(1, 4)
    worker.say(1, b"all\n")
    assert worker.failed(4) == "all\n"
    worker.begin(1, 2)
    worker.say(1, b"half\n")
    assert [worker.failed(2), worker.failed(1)] == ["half\n", "half\n"]
    worker.begin(2)
    worker.say(2, b"alone\n")
    assert [worker.failed(2), worker.failed(1)] == ["alone\n", "half\n"]


def test_logs_of_calls_that_never_report_are_forgotten(worker: Worker) -> None:
    """Their tasks run again in another worker."""
    for execution_id in range(1_000, 1_100):
        worker.begin(execution_id)
    worker.read()
    assert len(worker.output._logs) < 30


def test_a_running_log_is_stored_less_and_less_often(worker: Worker) -> None:
    """After 10 s, then 20, 40, 60 s later, and only if there is something new."""
    worker.say(1, b"x\n")
    worker.read(now=0.0)
    stored = []
    for second in range(300):
        if second % 5 == 0:
            worker.say(1, b"x\n")
            worker.read(now=second)
        is_due = worker.output.next_due() <= second
        found = list(worker.output.due(second))
        assert bool(found) == is_due
        stored += [second for _ in found]
    assert stored == [10, 30, 70, 130, 190, 250]
    for second in range(300, 1_000):
        assert list(worker.output.due(second)) == [] or second == 310


def test_a_followed_log_is_stored_each_second_and_stays(worker: Worker) -> None:
    """For 15 s; and when the attempt completes, although only failures are kept."""
    worker.say(1, b"x\n")
    worker.read(now=0.0)
    worker.output.follow(worker.claim.task_id(0), 1.0)
    stored = []
    for second in range(1, 60):
        worker.say(1, b"x\n")
        worker.read(now=second)
        stored += [second for _ in worker.output.due(second)]
    assert stored[:15] == list(range(1, 16))
    assert len(stored) < 19
    [(lease, log)] = worker.output.completed(worker.executions.take(1, 1))  # type: ignore[arg-type]
    assert lease.task.task_id == worker.claim.task_id(0)
    assert log is not None
    assert log.size == 120


@pytest.mark.parametrize(("policy", "kept"), [("failed", None), ("always", "x\n")])
def test_what_a_completed_attempt_leaves(policy: str, kept: str | None) -> None:
    """Its log, or nothing: what was stored while it ran is removed."""
    worker = Worker(policy)
    worker.say(1, b"x\n")
    worker.say(2, b"x\n")
    worker.read(now=0.0)
    assert len(list(worker.output.due(10.0))) == 2
    found = list(worker.output.completed(worker.executions.take(1, 1)))  # type: ignore[arg-type]
    assert [None if log is None else log.text for _, log in found] == [kept]
    worker.end()
