"""The client for asyncio."""

# ruff: noqa: ASYNC109 - the sync and the async form take the same arguments

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, overload

from peers.client import (
    bulk_operations,
    graph_operations,
    limit_operations,
    operations,
    schedule_operations,
)
from peers.client.client import DEFAULT_MAX_CONNECTIONS, Client
from peers.client.forms import as_async_method
from peers.client.graph import AsyncGraph, GraphOptions
from peers.client.peek import Peek, ask_async
from peers.client.task import read_result, require_task, submission

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from peers.client.options import OptionFields
    from peers.client.statements import Request
    from peers.client.task import Task
    from peers.spans import Span
    from peers.types import TaskId

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class AsyncClient:
    """A `Client` whose methods are awaited, for any number of event loops.

    A request runs in a thread, on the connections of a Client, so that one code handles broken
    connections for both. One thread waits for the results of all tasks. A request that has begun is
    finished even when the coroutine that awaits it is cancelled.
    """

    def __init__(
        self,
        database_url: str | None = None,
        *,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        application_name: str = "peers client",
    ) -> None:
        self._client = Client(
            database_url, max_connections=max_connections, application_name=application_name
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Calls of `result` that still wait raise PeersError."""
        await asyncio.to_thread(self._client.close)

    submit_many = as_async_method(operations.submit_many)
    get = as_async_method(operations.get)
    find = as_async_method(operations.find)
    explain = as_async_method(operations.explain)
    log = as_async_method(operations.log)
    cancel = as_async_method(operations.cancel)
    retry = as_async_method(operations.retry)
    discard = as_async_method(operations.discard)
    retry_dead = as_async_method(bulk_operations.retry_dead)
    discard_dead = as_async_method(bulk_operations.discard_dead)
    cancel_tasks = as_async_method(bulk_operations.cancel_tasks)
    change = as_async_method(operations.change)
    set_limit = as_async_method(limit_operations.set_limit)
    get_limit = as_async_method(limit_operations.get_limit)
    find_limits = as_async_method(limit_operations.find_limits)
    remove_limit = as_async_method(limit_operations.remove_limit)
    shut_limit = as_async_method(limit_operations.shut_limit)
    open_limit = as_async_method(limit_operations.open_limit)
    pause = as_async_method(operations.pause)
    resume = as_async_method(operations.resume)
    graph_status = as_async_method(graph_operations.graph_status)
    find_graphs = as_async_method(graph_operations.find_graphs)
    cancel_graph = as_async_method(graph_operations.cancel_graph)
    pause_graph = as_async_method(graph_operations.pause_graph)
    resume_graph = as_async_method(graph_operations.resume_graph)
    retry_graph = as_async_method(graph_operations.retry_graph)
    add_schedule = as_async_method(schedule_operations.add_schedule)
    get_schedule = as_async_method(schedule_operations.get_schedule)
    find_schedules = as_async_method(schedule_operations.find_schedules)
    explain_schedule = as_async_method(schedule_operations.explain_schedule)
    pause_schedule = as_async_method(schedule_operations.pause_schedule)
    resume_schedule = as_async_method(schedule_operations.resume_schedule)
    remove_schedule = as_async_method(schedule_operations.remove_schedule)
    run_schedule = as_async_method(schedule_operations.run_schedule)
    backfill_schedule = as_async_method(schedule_operations.backfill_schedule)
    cancel_backfill = as_async_method(schedule_operations.cancel_backfill)

    async def perform(self, request: Request[T]) -> T:
        """Perform a request, in a transaction of its own if it changes something."""
        return await self._client.perform_async(request)

    @overload
    async def submit(self, task: Task[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> TaskId: ...
    @overload
    async def submit(
        self,
        kind: str,
        /,
        args: Mapping[str, object] | None = None,
        **options: Unpack[OptionFields],
    ) -> TaskId: ...
    async def submit(self, task: Task[..., Any] | str, /, *args: Any, **kwargs: Any) -> TaskId:
        """Submit a task and return its id: a handler with its args, or a kind, args and options.

        Raises ArgsInvalid, BadTask, BadGraph, DatabaseUnreachable.
        """
        return await self.perform(submission(task, *args, **kwargs))

    @overload
    async def result(self, id: int, timeout: Span | None = None) -> Any: ...
    @overload
    async def result(
        self, id: int, timeout: Span | None = None, *, task: Task[..., Coroutine[Any, Any, R]]
    ) -> R: ...
    @overload
    async def result(self, id: int, timeout: Span | None = None, *, task: Task[..., R]) -> R: ...
    async def result(
        self, id: int, timeout: Span | None = None, *, task: Task[..., Any] | None = None
    ) -> Any:
        """Wait until a task has ended, for at most `timeout`, and return its result.

        timeout: seconds, a timedelta or a text such as "1h30m"; 0 looks once. task: its handler;
        the result then has the type that the handler returns. Without it, the result is JSON.
        Raises TaskFailed, TaskCancelled, TaskNotFound, TimeoutError, BadArgument.
        """
        require_task(task)
        return read_result(await self._client.wait_async(id, timeout), task)

    async def peek(self, id: int, timeout: Span | None = None) -> Peek:
        """Return what the handler of a running task does. See `peers.peek`."""
        return await ask_async(self.perform, id, timeout)

    def graph(
        self,
        *,
        name: str | None = None,
        idempotency_key: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> AsyncGraph:
        """Return a graph to fill in an `async with` block. See `peers.graph`."""
        return AsyncGraph(self.perform, GraphOptions(name, idempotency_key, metadata))
