"""A handler that runs inline sees what it would see on a peer, and is checked as there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest

import peers
from peers import (
    ArgsInvalid,
    BadArgument,
    Parent,
    PeersError,
    Reject,
    ResultInvalid,
    Retry,
    Snooze,
    TaskCancelled,
    current_batch,
    current_task,
    handlers,
    task,
)
from peers.testing import Progress, TaskRun, run_batch, run_batch_async, run_task, run_task_async

TOKEN = UUID(int=7)


@pytest.fixture(autouse=True)
def _no_other_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_registry", "_limits", "_schedules"):
        monkeypatch.setattr(handlers, name, {})


def test_a_handler_gets_its_task() -> None:
    """`current_task()` has what the test said, and the time until the timeout."""

    @task("look", timeout="1m")
    def look() -> dict[str, object]:
        now = current_task()
        assert now.deadline is not None
        left = now.deadline - time.monotonic()
        return {
            "id": now.id, "kind": now.kind, "attempt": now.attempt, "token": now.token,
            "left": round(left), "due_at": str(now.due_at),
        }  # fmt: skip

    due_at = datetime(2026, 3, 1, tzinfo=UTC)
    run = TaskRun(look, id=42, attempt=3, token=TOKEN, due_at=due_at)
    assert run.run() == {
        "id": 42, "kind": "look", "attempt": 3, "token": str(TOKEN), "left": 60,
        "due_at": str(due_at),
    }  # fmt: skip
    with pytest.raises(RuntimeError, match="only known inside"):
        current_task()


def test_args_and_result_take_the_way_through_json() -> None:
    """The handler gets what a worker reads, and the test what `peers.result` returns."""

    @dataclass
    class Point:
        x: int
        y: int

    @task("move")
    def move(point: Point, day: date, names: tuple[str, ...]) -> Point:
        assert isinstance(point, Point)
        assert day == date(2026, 1, 2)
        assert names == ("a", "b")
        return Point(point.x + 1, point.y)

    assert run_task(move, Point(1, 2), date(2026, 1, 2), names=("a", "b")) == Point(2, 2)


def test_args_that_a_submission_refuses_are_refused() -> None:
    """Also what a direct call of the function would take."""

    @task("strict")
    def strict(number: int, **more: object) -> None: ...

    wrong: dict[str, Any] = {"number": "7"}
    with pytest.raises(ArgsInvalid, match="number"):
        run_task(strict, **wrong)
    with pytest.raises(ArgsInvalid):
        run_task(strict, number=7, other=object())
    with pytest.raises(ArgsInvalid, match="1 MiB"):
        run_task(strict, number=7, text="x" * (1 << 20))


@pytest.mark.parametrize(
    "result",
    [{1, 2}, object(), float("nan"), "\0", b"bytes"],
    ids=["set", "object", "nan", "nul", "bytes"],
)
def test_a_result_that_cannot_be_stored_fails(result: object) -> None:
    """A direct call would return it."""

    @task("careless")
    def careless() -> Any:
        return result

    with pytest.raises(ResultInvalid):
        run_task(careless)


@pytest.mark.parametrize("raised", [Retry(30), Snooze("5m"), Reject("no such user"), OSError("x")])
def test_what_a_handler_raises_is_raised(raised: Exception) -> None:
    """It is the same object, so its fields can be looked at."""

    @task("raises")
    def raises() -> None:
        raise raised

    with pytest.raises(type(raised)) as caught:
        run_task(raises)
    assert caught.value is raised


def test_parents_have_results_as_a_worker_reads_them() -> None:
    """A parent that is not completed has none."""

    @task("child")
    def child() -> list[list[object]]:
        return [[one.id, one.kind, one.state, one.result] for one in current_task().parents()]

    parents = [
        Parent(1, "a", "completed", (1, {"day": date(2026, 1, 2)})),
        Parent(2, "b", "dead", "ignored"),
    ]
    assert TaskRun(child, parents=parents).run() == [
        [1, "a", "completed", [1, {"day": "2026-01-02"}]],
        [2, "b", "dead", None],
    ]


def test_progress_cooldowns_and_submissions_are_recorded() -> None:
    """Without a database nothing is submitted, and each id is another one."""

    @task("inner", queue="side")
    def inner(n: int) -> None: ...

    @task("busy")
    def busy() -> list[int]:
        now = current_task()
        now.progress(1, 2)
        now.progress(2)
        assert now.cooldown_left("api") == 0.0
        now.cooldown("1m", "429", name="api")
        assert now.cooldown_left("api") == 60.0
        ids = [int(inner.submit(1)), int(inner.options(priority=5).submit(n=2))]
        ids += map(int, peers.submit_many(inner, [{"n": 3}, {"n": 4}]))
        with peers.graph() as graph:
            first = graph.add(inner, n=5)
            graph.add("other.kind", {"x": 1}, depends_on=[first])
        return ids

    run = TaskRun(busy)
    ids = run.run()
    assert len(set(ids)) == 4
    assert run.progress == [Progress(1, 2), Progress(2, None)]
    assert [(one.name, one.seconds, one.reason) for one in run.cooldowns] == [("api", 60.0, "429")]
    assert [(one.kind, one.args) for one in run.submitted] == [
        ("inner", {"n": 1}), ("inner", {"n": 2}), ("inner", {"n": 3}), ("inner", {"n": 4}),
        ("inner", {"n": 5}), ("other.kind", {"x": 1}),
    ]  # fmt: skip
    assert run.submitted[0].options["queue"] == "side"
    assert run.submitted[1].options["priority"] == 5


def test_a_request_that_needs_a_database_says_so() -> None:
    """Nothing could answer it."""

    @task("asks")
    def asks() -> None:
        peers.get(1)

    with pytest.raises(PeersError, match="needs a database"):
        run_task(asks)


def test_a_sync_handler_that_a_peer_would_have_killed_has_timed_out() -> None:
    """By its timeout, or by what it said itself."""

    @task("slow", timeout=0.01)
    def slow() -> str:
        time.sleep(0.02)
        return "done"

    @task("hangs")
    def hangs(then: bool) -> None:
        current_task().kill_after(0.01)
        time.sleep(0.02)
        if then:
            current_task().kill_after(None)

    with pytest.raises(TimeoutError, match=r"longer than its timeout of 0\.01 s"):
        run_task(slow)
    assert TaskRun(slow, timeout="1m").run() == "done"
    for then in (True, False):
        with pytest.raises(TimeoutError, match="kill_after"):
            run_task(hangs, then)


def test_an_async_handler_is_stopped_at_its_timeout() -> None:
    """As by its worker."""

    @task("waits", timeout=0.01)
    async def waits() -> None:
        await asyncio.sleep(60)

    @task("raises")
    async def raises() -> None:
        raise TimeoutError("of something else")

    with pytest.raises(TimeoutError, match=r"longer than its timeout of 0\.01 s"):
        run_task(waits)
    with pytest.raises(TimeoutError, match="of something else"):
        run_task(raises)


def test_an_async_handler_runs_on_the_loop_of_the_test() -> None:
    """So it can share connections that belong to this loop."""

    @task("here")
    async def here(n: int) -> int:
        await asyncio.sleep(0)
        seen.append(asyncio.get_running_loop())
        return n + current_task().attempt

    @task("sync")
    def sync() -> int:
        return current_task().id

    async def test() -> None:
        assert await run_task_async(here, 2) == 3
        assert seen == [asyncio.get_running_loop()]
        assert await TaskRun(sync, id=9).run_async() == 9
        assert TaskRun(sync, id=9).run() == 9
        with pytest.raises(BadArgument, match=r"in a coroutine.*run_async"):
            run_task(here, 2)

    seen: list[asyncio.AbstractEventLoop] = []
    asyncio.run(test())
    assert run_task(here, n=4) == 5


def test_a_handler_sees_that_its_task_is_cancelled() -> None:
    """From the start, or while it runs; an async one is stopped."""

    @task("patient")
    def patient() -> list[bool]:
        seen = [current_task().cancelled]
        run.cancel()
        return [*seen, current_task().cancelled]

    @task("async")
    async def waits(cancel: bool) -> None:
        if cancel:
            runs[0].cancel()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    ended: list[bool] = []
    runs: list[TaskRun[..., Any]] = []
    run = TaskRun(patient)
    assert run.run() == [False, True]
    assert TaskRun(patient, cancelled=True).run() == [True, True]
    with pytest.raises(TaskCancelled):
        TaskRun(waits, cancelled=True).run(cancel=False)
    runs.append(TaskRun(waits))
    with pytest.raises(TaskCancelled):
        runs[0].run(cancel=True)
    assert ended == [True, True]


def test_a_test_that_is_cancelled_cancels_its_handler() -> None:
    """The cancellation is not taken for one of the task."""

    @task("waits")
    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def test() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(TaskRun(waits).run_async(), 0.01)

    ended: list[bool] = []
    asyncio.run(test())
    assert ended == [True]


def test_a_failing_assertion_of_pytest_ends_the_test() -> None:
    """`pytest.fail` in a stub of a handler is no failure of a task."""

    @task("fails")
    def fails() -> None:
        pytest.fail("not called, please")

    with pytest.raises(pytest.fail.Exception):
        run_task(fails)


def test_a_batch_is_bisected_and_each_task_has_its_outcome() -> None:
    """One bad task fails alone, and a returned exception is that of its task."""

    @task("double", batch_size=10)
    def double(rows: list[dict[str, int]]) -> list[object]:
        calls.append(len(rows))
        assert [one.kind for one in current_batch()] == ["double"] * len(rows)
        if any(row["n"] == 3 for row in rows):
            raise OSError("three")
        return [Reject("four") if row["n"] == 4 else 2 * row["n"] for row in rows]

    calls: list[int] = []
    found = run_batch(double, [{"n": n} for n in range(1, 6)])
    assert [str(each) for each in found] == ["2", "4", "three", "four", "10"]
    assert [type(each) for each in found] == [int, int, OSError, Reject, int]
    assert calls[0] == 5
    assert len(calls) > 2
    with pytest.raises(BadArgument, match="1 to 10 tasks"):
        run_batch(double, [{"n": 1}] * 11)
    with pytest.raises(BadArgument, match="run_batch"):
        TaskRun(double)


def test_an_async_batch_runs_in_both_forms() -> None:
    """With the loop of the test, or with one of its own."""

    @task("upper", batch_size=3)
    async def upper(rows: list[Mapping[str, str]]) -> list[str]:
        await asyncio.sleep(0)
        return [row["text"].upper() for row in rows]

    args = [{"text": "a"}, {"text": "b"}]
    assert run_batch(upper, args) == ["A", "B"]
    assert asyncio.run(run_batch_async(upper, args)) == ["A", "B"]


def _numbers() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "value", [_numbers(), MappingProxyType({"a": 1})], ids=["iterator", "mapping"]
)
def test_inline_and_a_worker_agree_on_odd_results(value: object) -> None:
    """The worker's own code decides."""
    from peers.worker.outcome import encode_result

    @task("odd")
    def odd() -> Any:
        return value

    try:
        expected: object = encode_result("odd", value)
    except ResultInvalid:
        expected = ResultInvalid
    if expected is ResultInvalid:
        with pytest.raises(ResultInvalid):
            run_task(odd)
    else:
        assert run_task(odd) == {"a": 1}
