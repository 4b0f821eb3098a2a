"""Run the handler of a task in this process, with the code that a worker runs it with."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol
from uuid import UUID

from peers.context import CurrentTask, Scheduler, enter, enter_batch
from peers.errors import BadArgument, TaskCancelled, TaskFailed
from peers.handlers import Handler, registry
from peers.protocol.messages import Completed, Failed
from peers.worker.args import load_args
from peers.worker.assigned import AssignedTask
from peers.worker.batch import Batch, Part
from peers.worker.outcome import completed, failed, failed_async

_OVERRAN: Final = "timeout"
_CANCELLED: Final = "cancelled"


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that has ended: what a worker sends to its peer, and what the handler raised."""

    task: AssignedTask
    outcome: Completed | Failed
    error: BaseException | None = None


class InlineScheduler(Scheduler, Protocol):
    """What replies to a handler in place of its peer."""

    @property
    def overran(self) -> bool:
        """Return whether the handler ran longer than its last `kill_after` allowed."""


@dataclass(slots=True)
class Attempt:
    """An attempt that is to run, and what its handler gets from `current_task()`."""

    task: AssignedTask
    current: CurrentTask
    scheduler: InlineScheduler
    on_start: Callable[[asyncio.Task[Any] | None], None] = lambda _: None
    """Called before the handler, with the task of asyncio that runs an async one."""

    def current_task(self, _index: int) -> CurrentTask:
        """Return the running task, for `peers.context`."""
        return self.current


def require_no_loop(instead: str) -> None:
    """Raise BadArgument in a coroutine, whose event loop would wait; say what to use instead."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise BadArgument("an async handler cannot run here, in a coroutine", f"Use {instead}.")


def current_task_of(task: AssignedTask, scheduler: Scheduler) -> CurrentTask:
    """Return what the handler of `task` gets from `current_task()`."""
    return CurrentTask(
        id=task.task_id,
        kind=task.kind,
        attempt=task.attempt,
        token=str(UUID(bytes=task.token)),
        deadline=None if task.timeout is None else time.monotonic() + task.timeout,
        execution_id=task.execution_id,
        _scheduler=scheduler,
    )


def run(attempt: Attempt) -> Ended:
    """Run a sync handler, in a context of its own. Raises what ends the whole test."""
    return copy_context().run(_run, attempt)


def _run(attempt: Attempt) -> Ended:
    task = attempt.task
    started = time.monotonic()
    enter(attempt, 0)
    attempt.on_start(None)
    try:
        result = registry()[task.kind].function(**load_args(task))
        outcome: Completed | Failed = completed(task, time.monotonic() - started, result)
    except BaseException as error:  # noqa: BLE001  # whatever a handler raises is the task's failure
        _reraise_what_ends_the_test(error)
        return Ended(task, failed(task, time.monotonic() - started, error), error)
    seconds = time.monotonic() - started
    if (overrun := _overrun_of(attempt, seconds)) is not None:
        return Ended(task, Failed(task.execution_id, seconds, _OVERRAN, str(overrun)), overrun)
    return Ended(task, outcome)


def _overrun_of(attempt: Attempt, seconds: float) -> TimeoutError | None:
    """Return the failure of a sync handler that a peer would have killed meanwhile."""
    task = attempt.task
    if task.timeout is not None and seconds > task.timeout:
        return TimeoutError(f"ran longer than its timeout of {task.timeout:g} s")
    if attempt.scheduler.overran:
        return TimeoutError("ran longer than kill_after() allowed")
    return None


async def run_async(attempt: Attempt) -> Ended:
    """Run an async handler on this event loop, as a task of its own."""
    running = asyncio.create_task(_run_async(attempt))
    try:
        return await running
    except asyncio.CancelledError:  # of whoever awaits this
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        raise


async def _run_async(attempt: Attempt) -> Ended:
    task = attempt.task
    started = time.monotonic()
    enter(attempt, 0)
    limit = asyncio.timeout(task.timeout)
    main = asyncio.current_task()
    attempt.on_start(main)
    try:
        async with limit:
            result = await registry()[task.kind].function(**load_args(task))
        outcome = completed(task, time.monotonic() - started, result)
    except BaseException as error:  # whatever a handler raises is the task's failure
        _reraise_what_ends_the_test(error)
        is_cancelled = attempt.current.cancelled
        if isinstance(error, asyncio.CancelledError) and not is_cancelled:
            raise  # the test itself was cancelled
        while main is not None and main.cancelling():
            main.uncancel()
        seconds = time.monotonic() - started
        described = failed_async(task, seconds, error, limit=limit, cancelled=is_cancelled)
        return Ended(task, described, error)
    return Ended(task, outcome)


def _reraise_what_ends_the_test(error: BaseException) -> None:
    """Raise Ctrl-C, and the exceptions of pytest.fail, pytest.skip and the like."""
    if isinstance(error, KeyboardInterrupt) or (
        not isinstance(error, Exception) and type(error).__module__ == "_pytest.outcomes"
    ):
        raise error


# --------------------------------------------------------------------------------------- batches


class BatchRun:
    """A batch whose calls run in this process. It is bisected like a real one."""

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self._tasks = {attempt.task.execution_id: attempt.task for attempt in attempts}
        current = {attempt.task.execution_id: attempt.current for attempt in attempts}
        self._errors: dict[int, BaseException] = {}
        self._batch = Batch(
            [attempt.task for attempt in attempts], lambda task: current[task.execution_id]
        )

    def run(self) -> list[Ended]:
        """Call a sync handler until each task has an outcome."""
        return copy_context().run(self._run)

    def _run(self) -> list[Ended]:
        while (part := self._batch.next()) is not None:
            enter_batch(part.tasks)
            try:
                results = self._function_of(part)(part.args)
            except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its tasks' failure
                _reraise_what_ends_the_test(error)
                self._batch.raised(part, error, self._noting(failed))
            else:
                self._returned(part, results)
        return self._ended()

    async def run_async(self) -> list[Ended]:
        """Call an async handler until each task has an outcome."""
        return await asyncio.create_task(self._run_async())

    async def _run_async(self) -> list[Ended]:
        while (part := self._batch.next()) is not None:
            enter_batch(part.tasks)
            limit = asyncio.timeout(part.timeout)
            try:
                async with limit:
                    results = await self._function_of(part)(part.args)
            except Exception as error:  # noqa: BLE001  # a cancelled test ends the batch
                describe = partial(failed_async, limit=limit, cancelled=False)
                self._batch.raised(part, error, self._noting(describe))
            else:
                self._returned(part, results)
        return self._ended()

    def _function_of(self, part: Part) -> Callable[..., Any]:
        return registry()[part.kind].function

    def _returned(self, part: Part, results: Any) -> None:
        if isinstance(results, list) and len(results) == len(part.members):
            for member, result in zip(part.members, results, strict=True):
                if isinstance(result, BaseException):
                    self._errors[member.task.execution_id] = result
        self._batch.returned(part, results)

    def _noting(self, describe: Callable[..., Failed]) -> Callable[..., Failed]:
        def noted(task: AssignedTask, seconds: float, error: BaseException) -> Failed:
            self._errors[task.execution_id] = error
            return describe(task, seconds, error)

        return noted

    def _ended(self) -> list[Ended]:
        return sorted(
            (
                Ended(
                    self._tasks[outcome.execution_id],
                    outcome,
                    self._errors.get(outcome.execution_id),
                )
                for outcome in self._batch.take_outcomes()
            ),
            key=lambda ended: ended.outcome.execution_id,
        )


# ---------------------------------------------------------------------------------------- reading


def result_of(ended: Ended, handler: Handler) -> Any:
    """Return what a caller of `peers.result` gets. Raises what the handler raised."""
    if isinstance(ended.outcome, Completed):
        [stored] = json.loads(ended.outcome.results)
        return handler.load_result(stored)
    raise error_of(ended)


def error_of(ended: Ended) -> BaseException:
    """Return the exception of an attempt that failed."""
    outcome = ended.outcome
    assert isinstance(outcome, Failed)
    if outcome.error_type == _CANCELLED:
        return TaskCancelled(f"the handler of {ended.task.kind} was cancelled")
    if outcome.error_type == _OVERRAN:
        error = TimeoutError(outcome.error_message)
        error.__cause__ = ended.error
        return error
    return ended.error or TaskFailed(f"{outcome.error_type}: {outcome.error_message}")
