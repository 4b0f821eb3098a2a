"""The loop of a sync worker: a run of tasks, of which some need a look of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextvars import copy_context
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from peers import current_task, handlers
from peers.handlers import Handler
from peers.protocol.messages import (
    Assign,
    AssignedRun,
    Cancel,
    Completed,
    Failed,
    Recall,
    Recalled,
    Stop,
    ToWorker,
)
from peers.protocol.running_marker import MARKER_SIZE, RunningMarker
from peers.protocol.started_marks import StartedMarks, decode
from peers.worker import loop_sync
from peers.worker.channel import Channel
from peers.worker.loop_sync import SyncLoop
from tests.support.claims import a_claim
from tests.unit.test_claim import a_queue

Outcome = tuple[int, int, str]


class Worker:
    """A sync loop whose peer has sent everything at once, and what it sends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(handlers, "_registry", {})
        # a handler takes some nanoseconds: a busy machine would make it slow
        clock = SimpleNamespace(monotonic_ns=count(1).__next__)
        monkeypatch.setattr(loop_sync, "time", clock)
        fd = os.memfd_create("marker")
        os.ftruncate(fd, MARKER_SIZE)
        self.marker = RunningMarker(fd, writable=True)
        os.close(fd)
        self.outcomes: list[Completed | Failed] = []
        self.recalled: list[tuple[int, int]] = []
        self._channel = Channel(Mock())
        monkeypatch.setattr(self._channel, "send", self._sent)
        monkeypatch.setattr(self._channel, "start_reader", lambda _handle: None)
        monkeypatch.setattr(self._channel, "send_outcomes", self.outcomes.extend)
        self.marks = StartedMarks(-1)
        self.loop = SyncLoop(self._channel, self.marker, self.marks)
        self.tell: Callable[[ToWorker], None] = self.loop._handle

    def register(self, kind: str, function: Callable[..., Any]) -> None:
        """Declare a handler."""
        handlers.register(Handler(kind, function))

    def run(self, *kinds: str, args: list[bytes] | None = None) -> list[Outcome]:
        """Run a claim under the execution ids from 1 on; return each outcome with its number."""
        claim = a_claim(a_queue(), *kinds, args=args)
        self.run_columns(claim.to_message(0, claim.count, 1))
        return [
            (one.execution_id, one.count, one.results.decode())
            if isinstance(one, Completed)
            else (one.execution_id, 1, one.error_type)
            for one in self.outcomes
        ]

    def run_columns(self, columns: AssignedRun) -> None:
        """Run these tasks."""
        self.tell(Assign([columns]))
        self.tell(Stop())
        copy_context().run(self.loop.run)  # or the tests that follow would run inside its last task
        self.loop._inbox.clear()

    def _sent(self, message: object) -> None:
        assert isinstance(message, Recalled)
        self.recalled += message.executions


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker without handlers."""
    made = Worker(monkeypatch)
    yield made
    made.marker.close()


def numbers(count: int) -> list[bytes]:
    """Args with a number each."""
    return [b'{"n": %d}' % number for number in range(count)]


def test_the_results_of_a_run_are_one_outcome(worker: Worker) -> None:
    """In the order of the tasks."""
    worker.register("a", lambda n: n if n % 2 else None)
    assert worker.run(*"aaaa", args=numbers(4)) == [(1, 4, "[null,1,null,3]")]


def test_args_that_are_invalid_fail_their_task_alone(worker: Worker) -> None:
    """Of the types that JSON has itself, which are checked all at once, and of others."""

    def handler(n: int) -> int:
        return n

    worker.register("a", handler)
    worker.run("a", args=[b'{"n": 1}'])
    worker.outcomes.clear()
    args = [b'{"n": 0}', b'{"n": 1}', b'{"n": "x"}', b'{"n": 3}']
    assert worker.run(*"aaaa", args=args) == [
        (1, 2, "[0,1]"), (3, 1, "ArgsInvalid"), (4, 1, "[3]"),
    ]  # fmt: skip


def test_a_number_that_no_double_holds_concerns_its_task_alone(worker: Worker) -> None:
    """Though msgspec refuses to decode the array that it is in."""
    worker.register("a", lambda n: n < 10**400)
    args = [b'{"n": 1}', b'{"n": 1%b}' % (b"0" * 500), b'{"n": 3}']
    assert worker.run(*"aaa", args=args) == [(1, 3, "[true,false,true]")]


def test_a_result_that_cannot_be_encoded_fails_its_task_alone(worker: Worker) -> None:
    """And a handler that raises, too."""

    def handler(n: int) -> object:
        if n == 3:
            raise ValueError(n)
        return object() if n == 1 else n

    worker.register("a", handler)
    assert worker.run(*"aaaaa", args=numbers(5)) == [
        (1, 1, "[0]"), (2, 1, "ResultInvalid"), (3, 1, "[2]"), (4, 1, "ValueError"), (5, 1, "[4]"),
    ]  # fmt: skip


def test_mixed_kinds_are_run_in_their_order(worker: Worker) -> None:
    """Each outcome is of one kind, and a kind without a handler fails alone."""
    ran: list[str] = []
    worker.register("a", lambda: ran.append("a"))
    worker.register("b", lambda: ran.append("b"))
    assert worker.run(*"aabxa") == [
        (1, 2, "[null,null]"), (3, 1, "[null]"), (4, 1, "KeyError"), (5, 1, "[null]"),
    ]  # fmt: skip
    assert ran == ["a", "a", "b", "a"]


def test_a_recall_takes_what_has_not_started(worker: Worker) -> None:
    """While the second of five runs, and a second run waits: the other ones are given back."""

    def handler(n: int) -> None:
        if n == 1:
            more = a_claim(a_queue(), *"aa", args=numbers(2)).to_message(0, 2, 11)
            worker.tell(Assign([more]))
            worker.tell(Recall())

    worker.register("a", handler)
    assert worker.run(*"aaaaa", args=numbers(5)) == [(1, 2, "[null,null]")]
    assert worker.recalled == [(3, 3), (11, 2)]


def test_a_handler_gets_its_own_task_at_any_time(worker: Worker) -> None:
    """Always the same object, also when it asks after others have run; a cancelled one says so,
    whether it was cancelled before or after it had asked.
    """
    seen = []

    def handler(n: int) -> None:
        if n == 1:
            worker.tell(Cancel(2))
            worker.tell(Cancel(3))
        task = current_task()
        if n == 3:
            worker.tell(Cancel(4))
        assert current_task() is task
        seen.append((task.execution_id, task.cancelled))

    worker.register("a", handler)
    claim = a_claim(a_queue(), *"aaaaa", args=numbers(5))
    worker.run_columns(claim.to_message(0, 5, 1))
    assert seen == [(1, False), (2, True), (3, True), (4, True), (5, False)]


def test_what_has_ended_is_sent_before_a_slow_handler(worker: Worker) -> None:
    """A kind whose last call took long may take long again, or crash."""
    sent: list[int] = []

    def slow() -> None:
        sent.append(len(worker.outcomes))

    worker.register("quick", lambda: None)
    worker.register("slow", slow)
    worker.loop._kind("slow").is_slow = True
    worker.run("quick", "quick", "slow", "quick")
    assert sent == [1]


def test_the_marker_shows_the_task_that_runs(worker: Worker) -> None:
    """So a crash in the middle of a run is charged to this task, and not to one of its neighbours;
    after the run no handler runs.
    """
    shown = []

    def handler() -> None:
        shown.append(worker.marker.running()[:2])

    worker.register("a", handler)
    worker.run(*"aaa")
    assert shown == [(1, 1), (2, 1), (3, 1)]
    assert worker.marker.running().execution_id == 0


def test_each_task_is_marked_when_its_handler_starts(worker: Worker) -> None:
    """Not earlier: those behind it count as not started. A batch is marked as a whole."""
    seen: list[int | None] = []

    def note() -> None:
        seen.append(decode(worker.marks.words[5]))

    def batch(rows: list[dict[str, Any]]) -> list[None]:
        note()
        return [None] * len(rows)

    worker.register("a", note)
    handlers.register(Handler("b", batch, batch_size=3))
    single, batched = a_claim(a_queue(), *"aaa"), a_claim(a_queue(), *"bbb", args=numbers(3))
    worker.tell(Assign([single.to_message(0, 3, 7)], mark=5))
    worker.tell(Assign([batched.to_message(0, 3, 10)], True, mark=5))
    worker.tell(Stop())
    copy_context().run(worker.loop.run)
    assert seen == [7, 8, 9, 12]
    assert sum(map(bool, worker.marks.words)) == 1
