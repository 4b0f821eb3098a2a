"""Run a handler inline: as a peer would run it, but in this process and without a database.

The args take the same way as in production (checked, written as JSON, read again by the worker's
code), and so does the result. A handler that passes here passes on a peer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, ParamSpec, TypeVar, overload
from uuid import UUID, uuid4

from peers.client.task import BatchTask, Task
from peers.context import CurrentTask, Parent
from peers.errors import BadArgument
from peers.handlers import Handler
from peers.protocol.messages import Failed
from peers.spans import Span, timedelta_of
from peers.testing import active
from peers.testing.databases import Database
from peers.testing.execution import (
    Attempt,
    BatchRun,
    Ended,
    current_task_of,
    error_of,
    require_no_loop,
    result_of,
    run,
    run_async,
)
from peers.testing.requests import Cooldown, InlineRequests, Progress, Submission
from peers.worker.assigned import AssignedTask

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
V = TypeVar("V")


class TaskRun(Generic[P, R_co]):
    """One attempt of a task, for a test to run and to inspect.

    `run` returns what a caller of `peers.result` would get, and raises what the handler raises,
    Retry, Snooze and Reject included: so it returns only where a peer would record the task as
    completed. It raises TimeoutError where a peer would have stopped or killed the handler.

    id, attempt, token, parents, due_at: what the handler gets from `current_task()`. timeout: that
    of the attempt (default: the handler's). cooldowns: by name, the seconds that `cooldown_left`
    returns. cancelled: the task is cancelled from the start. database: where the handler's
    submissions go. The default is that of the fixture `peers_database`; without it, they are only
    recorded.
    """

    def __init__(
        self,
        task: Task[P, R_co],
        *,
        id: int = 1,
        attempt: int = 1,
        token: UUID | None = None,
        timeout: Span | None = None,
        parents: Sequence[Parent] = (),
        due_at: datetime | None = None,
        cooldowns: Mapping[str, float] | None = None,
        cancelled: bool = False,
        database: Database | None = None,
    ) -> None:
        if not isinstance(task, Task):
            raise BadArgument(f"task must be the function under @task, not {task!r}")
        if isinstance(task, BatchTask):
            raise BadArgument(f"{task.kind} is a batch handler", "Use run_batch(…).")
        self.task = task
        self.current: CurrentTask | None = None
        """What `current_task()` returns, once the handler has started."""
        self._id, self._attempt, self._token = id, attempt, token or uuid4()
        self._timeout = _seconds(task.handler, timeout)
        self._cancelled = cancelled
        self._main: asyncio.Task[Any] | None = None
        self._requests = InlineRequests(
            parents, due_at, cooldowns or {}, database or active.database()
        )

    @property
    def progress(self) -> list[Progress]:
        """Return the handler's calls of `current_task().progress`, in their order."""
        return self._requests.progress

    @property
    def submitted(self) -> list[Submission]:
        """Return what the handler has submitted, in its order."""
        return self._requests.submitted

    @property
    def cooldowns(self) -> list[Cooldown]:
        """Return the cooldowns that the handler has started, in their order."""
        return self._requests.cooldowns

    def cancel(self) -> None:
        """Cancel the task as `peers.cancel` would: set `cancelled`, and stop an async handler."""
        self._cancelled = True
        if self.current is not None:
            self.current.cancelled = True
        if self._main is not None:
            self._main.get_loop().call_soon_threadsafe(self._main.cancel)

    @overload
    def run(self: TaskRun[P, Coroutine[Any, Any, V]], *args: P.args, **kwargs: P.kwargs) -> V: ...
    @overload
    def run(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def run(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the handler with these args, an async one on an event loop of its own.

        Raises ArgsInvalid and ResultInvalid as a submission and a worker do.
        """
        attempt = self._prepare(*args, **kwargs)
        if not self.task.handler.is_async:
            return self._result(run(attempt))
        require_no_loop("await run_async(…)")
        return self._result(asyncio.run(run_async(attempt)))

    @overload
    async def run_async(
        self: TaskRun[P, Coroutine[Any, Any, V]], *args: P.args, **kwargs: P.kwargs
    ) -> V: ...
    @overload
    async def run_async(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    async def run_async(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run an async handler on this event loop, and a sync one in a thread."""
        attempt = self._prepare(*args, **kwargs)
        if self.task.handler.is_async:
            return self._result(await run_async(attempt))
        return self._result(await asyncio.to_thread(run, attempt))

    def _prepare(self, *args: P.args, **kwargs: P.kwargs) -> Attempt:
        document = self.task.request(*args, **kwargs).document
        assigned = AssignedTask(
            execution_id=1,
            task_id=self._id,
            token=self._token.bytes,
            attempt=self._attempt,
            kind=self.task.kind,
            args=json.dumps(document["args"]).encode(),
            timeout=self._timeout,
        )
        self.current = current = current_task_of(assigned, self._requests)
        current.cancelled = self._cancelled
        return Attempt(assigned, current, self._requests, self._started)

    def _started(self, main: asyncio.Task[Any] | None) -> None:
        self._main = main
        if self._cancelled:
            self.cancel()

    def _result(self, ended: Ended) -> Any:
        self._main = None
        return result_of(ended, self.task.handler)


def _seconds(handler: Handler, timeout: Span | None) -> float | None:
    return handler.timeout_seconds if timeout is None else timedelta_of(timeout).total_seconds()


@overload
def run_task(task: Task[P, Coroutine[Any, Any, V]], /, *args: P.args, **kwargs: P.kwargs) -> V: ...
@overload
def run_task(task: Task[P, R_co], /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
def run_task(task: Task[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run a handler with these args as its first attempt, and return its result.

    Raises what the handler raises. `TaskRun` does the same with other attempts, with parents, and
    with what the handler reported. See there.
    """
    return TaskRun(task).run(*args, **kwargs)


@overload
async def run_task_async(
    task: Task[P, Coroutine[Any, Any, V]], /, *args: P.args, **kwargs: P.kwargs
) -> V: ...
@overload
async def run_task_async(task: Task[P, R_co], /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
async def run_task_async(task: Task[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Do the same as `run_task` on this event loop."""
    return await TaskRun(task).run_async(*args, **kwargs)


def run_batch(task: BatchTask[Any], args: Sequence[Mapping[str, object]]) -> list[Any]:
    """Run a batch handler for tasks with these args, and return what became of each, in order.

    That is its result as JSON, or the exception with which it failed. The handler is called again
    with parts of the batch when it raises, as on a peer.
    """
    prepared, is_async = _batch_run(task, args)
    if is_async:
        require_no_loop("await run_batch_async(…)")
    ended = asyncio.run(prepared.run_async()) if is_async else prepared.run()
    return [_outcome(each, task.handler) for each in ended]


async def run_batch_async(task: BatchTask[Any], args: Sequence[Mapping[str, object]]) -> list[Any]:
    """Do the same as `run_batch` on this event loop."""
    prepared, is_async = _batch_run(task, args)
    ended = await prepared.run_async() if is_async else await asyncio.to_thread(prepared.run)
    return [_outcome(each, task.handler) for each in ended]


def _batch_run(task: BatchTask[Any], args: Sequence[Mapping[str, object]]) -> tuple[BatchRun, bool]:
    if not isinstance(task, BatchTask):
        raise BadArgument(f"task must be a function under @task(…, batch_size=…), not {task!r}")
    size = task.handler.batch_size
    if not args or (size is not None and len(args) > size):
        raise BadArgument(f"a batch of {task.kind} has 1 to {size} tasks, not {len(args)}")
    requests = InlineRequests((), None, {}, active.database())
    attempts = []
    for number, each in enumerate(args, start=1):
        document = task.request(**each).document
        assigned = AssignedTask(
            number, number, uuid4().bytes, 1, task.kind, json.dumps(document["args"]).encode(),
            _seconds(task.handler, None),
        )  # fmt: skip
        attempts.append(Attempt(assigned, current_task_of(assigned, requests), requests))
    return BatchRun(attempts), task.handler.is_async


def _outcome(ended: Ended, handler: Handler) -> Any:
    if isinstance(ended.outcome, Failed):
        return error_of(ended)
    return result_of(ended, handler)
