"""The loop of an async worker: the calls that follow one another in a slot share nothing."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar
from typing import Any, TypedDict
from unittest.mock import Mock

import pytest

from peers import current_task, handlers
from peers.handlers import Handler
from peers.protocol.messages import NOT_STARTED, Assign, Cancel, Completed, Failed, Stack, Stop
from peers.protocol.running_marker import MARKER_SIZE, RunningMarker
from peers.protocol.started_marks import StartedMarks, decode
from peers.worker.channel import Channel
from peers.worker.loop_async import AsyncLoop
from tests.support.claims import a_claim
from tests.unit.test_claim import a_queue

Outcome = tuple[int, str]

seen: ContextVar[int | None] = ContextVar("seen", default=None)


class _Row(TypedDict):
    n: int


class Worker:
    """An async loop whose peer has sent everything at once, and what it sends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(handlers, "_registry", {})
        fd = os.memfd_create("marker")
        os.ftruncate(fd, MARKER_SIZE)
        self.marker = RunningMarker(fd, writable=True)
        os.close(fd)
        self.outcomes: list[Outcome] = []
        self.count = 0
        channel = Channel(Mock())
        monkeypatch.setattr(channel, "start_reader", lambda _handle: None)
        monkeypatch.setattr(channel, "send_outcomes", self._sent)
        self.marks = StartedMarks(-1)
        self.loop = AsyncLoop(channel, self.marker, self.marks)

    def register(self, kind: str, function: Callable[..., Any]) -> None:
        """Declare a handler."""
        handlers.register(Handler(kind, function))

    def run(self, *kinds: str, slots: int = 1, args: list[bytes] | None = None) -> list[Outcome]:
        """Run a claim under the execution ids from 1 on; return the outcome of each task."""
        claim = a_claim(a_queue(), *kinds, args=args)
        self.count = claim.count
        columns = claim.to_message(0, claim.count, 1)
        self.loop._loop.call_soon(self.loop._handle, Assign([columns], False, "default", slots))
        self.loop.run()
        return sorted(
            (first + index, f"[{json.dumps(result)}]") if text.startswith("[") else (first, text)
            for first, text in self.outcomes
            for index, result in enumerate(json.loads(text) if text.startswith("[") else [None])
        )

    def cancel(self, execution_id: int) -> None:
        """Cancel a task, as the peer does."""
        self.loop._handle(Cancel(execution_id))

    def _sent(self, outcomes: list[Completed | Failed]) -> None:
        for one in outcomes:
            if isinstance(one, Completed):
                self.outcomes.append((one.execution_id, one.results.decode()))
                self.count -= one.count
            else:
                self.outcomes.append((one.execution_id, one.error_type))
                self.count -= 1
        if not self.count:
            self.loop._handle(Stop())


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker without handlers."""
    made = Worker(monkeypatch)
    yield made
    made.loop._loop.close()
    made.marker.close()


@pytest.mark.parametrize("slots", [1, 2])
def test_a_call_does_not_see_the_context_of_another(worker: Worker, slots: int) -> None:
    """What a handler sets in its context, the next one in its slot does not find there."""

    async def handler(n: int) -> int | None:
        found = seen.get()
        seen.set(n)
        await asyncio.sleep(0)
        return found

    worker.register("a", handler)
    outcomes = worker.run(*"aaaa", slots=slots, args=[b'{"n": %d}' % n for n in range(4)])
    assert outcomes == [(number, "[null]") for number in range(1, 5)]


def test_each_call_has_a_task_of_its_own(worker: Worker) -> None:
    """Libraries keep connections and sessions for each asyncio task."""
    tasks = set()

    async def handler() -> None:
        tasks.add(asyncio.current_task())
        await asyncio.sleep(0)

    worker.register("a", handler)
    worker.run(*"aaa")
    assert len(tasks) == 3


def test_a_cancelled_call_leaves_the_next_one_alone(worker: Worker) -> None:
    """Whether the handler lets itself be stopped, ends anyway, or cancels itself as it ends."""

    async def stopped() -> None:
        worker.loop._loop.call_soon(worker.cancel, current_task().execution_id, context=Context())
        await asyncio.sleep(60)

    async def stubborn() -> int:
        try:
            await stopped()
        except asyncio.CancelledError:
            return 1
        return 2

    async def self_cancelled() -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return 3

    async def other() -> int:
        await asyncio.sleep(0)
        return 0

    for kind, function in zip("xyzo", (stopped, stubborn, self_cancelled, other), strict=True):
        worker.register(kind, function)
    assert worker.run(*"xoyozo") == [
        (1, "cancelled"), (2, "[0]"), (3, "[1]"), (4, "[0]"), (5, "[3]"), (6, "[0]"),
    ]  # fmt: skip


def test_a_task_that_is_cancelled_while_it_waits_does_not_run(worker: Worker) -> None:
    """The next one in the slot does."""
    ran = []

    async def handler() -> None:
        ran.append(current_task().execution_id)
        worker.loop._loop.call_soon(worker.cancel, 2, context=Context())
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    worker.register("a", handler)
    assert worker.run(*"aa") == [(1, "[null]"), (2, "cancelled")]
    assert ran == [1]


def test_a_task_whose_coroutine_never_began_fails(worker: Worker) -> None:
    """Something that is no handler cancels every asyncio task, also one that has just started."""
    start = worker.loop._start_waiting
    cancelled: list[bool] = []

    async def handler() -> None:
        await asyncio.sleep(0)

    def start_and_cancel(queue: Any) -> None:
        start(queue)
        if not cancelled:
            cancelled.extend(task.cancel() for task in asyncio.all_tasks(worker.loop._loop))

    worker.register("a", handler)
    worker.loop._start_waiting = start_and_cancel  # type: ignore[method-assign]
    assert worker.run(*"aa") == [(1, "asyncio.exceptions.CancelledError"), (2, "[null]")]
    assert cancelled == [True]


def test_the_outcomes_of_a_batch_are_sent_before_its_next_call(worker: Worker) -> None:
    """If that one crashes the worker, they are not lost, though a next task waits."""
    sent: list[int] = []

    async def handler(rows: list[_Row]) -> list[int]:
        sent.append(len(worker.outcomes))
        return [10 // row["n"] for row in rows]

    async def other() -> None:
        pass

    handlers.register(Handler("b", handler, batch_size=2))
    worker.register("a", other)
    worker.loop._flushed_at = time.monotonic() + 60  # as if something had just been sent
    batch = a_claim(a_queue(), *"bb", args=[b'{"n": 1}', b'{"n": 0}'])
    next_one = a_claim(a_queue(), "a")
    worker.count = 3
    for claim, first, is_batch in ((batch, 1, True), (next_one, 3, False)):
        message = Assign([claim.to_message(0, claim.count, first)], is_batch, "default", 1)
        worker.loop._loop.call_soon(worker.loop._handle, message)
    worker.loop.run()
    assert sent == [0, 0, 1]


def test_the_result_of_a_slow_handler_is_sent_before_the_next_one_starts(worker: Worker) -> None:
    """If that one crashes the worker, the long work is not repeated."""
    sent: list[int] = []

    async def handler() -> None:
        sent.append(len(worker.outcomes))
        await asyncio.sleep(0.11)

    worker.register("a", handler)
    worker.loop._flushed_at = time.monotonic() + 60  # as if something had just been sent
    worker.run(*"aaa")
    assert sent == [0, 1, 2]


def test_timers_of_handlers_end_on_time(worker: Worker) -> None:
    """Not at the next whole millisecond, which would delay all that wait beside each other."""
    late = [1.0]

    async def handler() -> None:
        loop = asyncio.get_running_loop()
        while min(late) > 0.0004 and len(late) < 2000:  # a busy machine delays most of them
            began = loop.time()
            await asyncio.sleep(0.0012)
            late.append(loop.time() - began - 0.0012)

    worker.register("a", handler)
    worker.run("a")
    assert min(late) < 0.0004, late


def test_neighbours_that_end_one_after_the_other_are_one_outcome(worker: Worker) -> None:
    """Those of one kind; a failure between them stays on its own."""

    async def handler(n: int) -> int:
        await asyncio.sleep(0)
        return 10 // n

    worker.register("a", handler)
    worker.register("b", handler)
    args = [b'{"n": %d}' % n for n in (1, 2, 0, 5, 10, 10)]
    worker.run(*"aaaaab", slots=6, args=args)
    assert sorted(worker.outcomes) == [
        (1, "[10,5]"), (3, "ZeroDivisionError"), (4, "[2,1]"), (6, "[1]"),
    ]  # fmt: skip


def test_outcomes_wait_for_others_only_while_there_is_a_next_task(worker: Worker) -> None:
    """A slot that becomes free is reported in the same turn of the loop."""
    sizes: list[int] = []

    async def handler() -> None:
        sizes.append(len(worker.outcomes))
        await asyncio.sleep(0)

    worker.register("a", handler)
    worker.loop._flushed_at = time.monotonic() + 60  # as if something had just been sent
    worker.run(*"aaaa")
    assert sizes == [0, 0, 0, 1]
    assert worker.outcomes == [(1, "[null,null,null]"), (4, "[null]")]


def test_each_task_is_marked_when_it_gets_a_slot(worker: Worker) -> None:
    """Not earlier, and for each queue apart: one queue does not start in the order of another. A
    batch is marked as a whole.
    """
    seen: list[tuple[int, int | None, int | None]] = []

    async def handler() -> None:
        words = worker.marks.words
        seen.append((current_task().execution_id, decode(words[5]), decode(words[6])))
        await asyncio.sleep(0.01)

    async def batch(rows: list[_Row]) -> list[None]:
        seen.append((10, decode(worker.marks.words[5]), None))
        return [None] * len(rows)

    worker.register("a", handler)
    handlers.register(Handler("b", batch, batch_size=2))
    worker.count = 6
    args = [b'{"n": 1}'] * 2
    for claim, first, is_batch, name, mark in (
        (a_claim(a_queue(), *"aaa"), 1, False, "one", 5),
        (a_claim(a_queue(), "a"), 4, False, "two", 6),
        (a_claim(a_queue(), *"bb", args=args), 10, True, "one", 5),
    ):  # fmt: skip
        message = Assign([claim.to_message(0, claim.count, first)], is_batch, name, 1, mark)
        worker.loop._loop.call_soon(worker.loop._handle, message)
    worker.loop.run()
    assert seen == [(1, 1, 4), (4, 1, 4), (2, 2, 4), (3, 3, 4), (10, 11, None)]


def test_stacks_are_those_of_the_task_that_was_asked_for(worker: Worker) -> None:
    """The coroutine with what it awaits; a task without a slot has none."""
    found: list[tuple[list[Stack], str]] = []

    def look() -> None:
        found.extend(worker.loop._stacks(execution_id) for execution_id in (1, 2, 9))

    async def inner() -> None:
        asyncio.get_running_loop().call_soon(look)
        await asyncio.sleep(0.01)

    async def handler() -> None:
        await inner()

    worker.register("a", handler)
    worker.run(*"aa")
    (running, remark), (_, waits), (_, ended) = found[:3]
    assert remark == ""
    functions = [frame.function.rpartition(".")[2] for frame in running[0].frames]
    assert functions[-3:] == ["handler", "inner", "sleep"]
    assert waits == NOT_STARTED
    assert ended == "the handler has just ended"
