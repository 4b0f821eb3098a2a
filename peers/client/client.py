"""The client of an application: its connections, and one method for each operation."""

# ruff: noqa: ASYNC109 - the sync and the async form take the same arguments

from __future__ import annotations

import asyncio
import atexit
import json
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, Unpack, overload

from peers.client import (
    bulk_operations,
    graph_operations,
    limit_operations,
    operations,
    schedule_operations,
)
from peers.client.checks import id_of, text_of, wait_of
from peers.client.forms import as_method
from peers.client.graph import Graph, GraphOptions
from peers.client.peek import Peek, ask
from peers.client.place import Place
from peers.client.pool import Pool
from peers.client.records import not_ended
from peers.client.result_thread import ResultThread
from peers.client.results import only_outcome, outcomes_of
from peers.client.task import read_result, require_task, submission
from peers.client.transaction import LazyConnection, read_again_after_loss
from peers.client.transport import perform_once, perform_text
from peers.database.connection import connect
from peers.errors import PeersError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from peers.client.options import OptionFields
    from peers.client.records import Outcome
    from peers.client.statements import Request
    from peers.client.task import Task
    from peers.database.connection import Connection
    from peers.database.deadlines import BoundedConnection
    from peers.spans import Span
    from peers.types import TaskId

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

DEFAULT_MAX_CONNECTIONS: Final = 10


class Client:
    """Submits and manages tasks, on a pool of connections.

    One client serves all threads of a process, and also works in a child process after a fork. It
    connects at its first use. Use it in a `with` block or close it; at exit it is closed.

    database_url: without one, the settings name the database, as for commands; PEERS_EMBEDDED=1 is
    the private one of this machine. An empty one leaves everything to libpq's own variables
    (PGHOST, PGSERVICE …).
    max_connections: how many requests can run at once. Waiting for results takes one more
    connection. application_name: the name that pg_stat_activity shows.
    """

    def __init__(
        self,
        database_url: str | None = None,
        *,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        application_name: str = "peers client",
    ) -> None:
        if type(max_connections) is not int or max_connections < 1:
            raise ValueError(f"max_connections must be at least 1, not {max_connections!r}")
        if database_url is not None:
            text_of("database_url", database_url)
        text_of("application_name", application_name)
        self._place = Place(database_url)
        self._max_connections = max_connections
        self._application_name = application_name
        self._lock = threading.Lock()
        self._is_closed = False
        self._pool: Pool | None = None
        self._waiter: ResultThread | None = None
        self._threads: ThreadPoolExecutor | None = None
        _clients.add(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Calls of `result` that still wait raise PeersError."""
        with self._lock:
            self._is_closed = True
            pool, waiter, threads = self._pool, self._waiter, self._threads
            self._pool = self._waiter = self._threads = None
        if waiter is not None:
            waiter.close()
        if threads is not None:
            threads.shutdown(wait=False)
        if pool is not None:
            pool.close()
        self._place.close()

    # ------------------------------------------------------------------------------ operations

    submit_many = as_method(operations.submit_many)
    get = as_method(operations.get)
    find = as_method(operations.find)
    explain = as_method(operations.explain)
    log = as_method(operations.log)
    cancel = as_method(operations.cancel)
    retry = as_method(operations.retry)
    discard = as_method(operations.discard)
    retry_dead = as_method(bulk_operations.retry_dead)
    discard_dead = as_method(bulk_operations.discard_dead)
    cancel_tasks = as_method(bulk_operations.cancel_tasks)
    change = as_method(operations.change)
    set_limit = as_method(limit_operations.set_limit)
    get_limit = as_method(limit_operations.get_limit)
    find_limits = as_method(limit_operations.find_limits)
    remove_limit = as_method(limit_operations.remove_limit)
    shut_limit = as_method(limit_operations.shut_limit)
    open_limit = as_method(limit_operations.open_limit)
    pause = as_method(operations.pause)
    resume = as_method(operations.resume)
    graph_status = as_method(graph_operations.graph_status)
    find_graphs = as_method(graph_operations.find_graphs)
    cancel_graph = as_method(graph_operations.cancel_graph)
    pause_graph = as_method(graph_operations.pause_graph)
    resume_graph = as_method(graph_operations.resume_graph)
    retry_graph = as_method(graph_operations.retry_graph)
    add_schedule = as_method(schedule_operations.add_schedule)
    get_schedule = as_method(schedule_operations.get_schedule)
    find_schedules = as_method(schedule_operations.find_schedules)
    explain_schedule = as_method(schedule_operations.explain_schedule)
    pause_schedule = as_method(schedule_operations.pause_schedule)
    resume_schedule = as_method(schedule_operations.resume_schedule)
    remove_schedule = as_method(schedule_operations.remove_schedule)
    run_schedule = as_method(schedule_operations.run_schedule)
    backfill_schedule = as_method(schedule_operations.backfill_schedule)
    cancel_backfill = as_method(schedule_operations.cancel_backfill)

    @overload
    def submit(self, task: Task[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> TaskId: ...
    @overload
    def submit(
        self,
        kind: str,
        /,
        args: Mapping[str, object] | None = None,
        **options: Unpack[OptionFields],
    ) -> TaskId: ...
    def submit(self, task: Task[..., Any] | str, /, *args: Any, **kwargs: Any) -> TaskId:
        """Submit a task and return its id: a handler with its args, or a kind, args and options.

        Raises ArgsInvalid, BadTask, BadGraph, DatabaseUnreachable.
        """
        return self.perform(submission(task, *args, **kwargs))

    @overload
    def result(self, id: int, timeout: Span | None = None) -> Any: ...
    @overload
    def result(
        self, id: int, timeout: Span | None = None, *, task: Task[..., Coroutine[Any, Any, R]]
    ) -> R: ...
    @overload
    def result(self, id: int, timeout: Span | None = None, *, task: Task[..., R]) -> R: ...
    def result(
        self, id: int, timeout: Span | None = None, *, task: Task[..., Any] | None = None
    ) -> Any:
        """Wait until a task has ended, for at most `timeout`, and return its result.

        timeout: seconds, a timedelta or a text such as "1h30m"; 0 looks once. task: its handler;
        the result then has the type that the handler returns. Without it, the result is JSON.
        Raises TaskFailed, TaskCancelled, TaskNotFound, TimeoutError, BadArgument.
        """
        require_task(task)
        return read_result(self.wait(id, timeout), task)

    def peek(self, id: int, timeout: Span | None = None) -> Peek:
        """Return what the handler of a running task does. See `peers.peek`."""
        return ask(self.perform, id, timeout)

    def graph(
        self,
        *,
        name: str | None = None,
        idempotency_key: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Graph:
        """Return a graph to fill in a `with` block, submitted at its end. See `peers.graph`."""
        return Graph(self.perform, GraphOptions(name, idempotency_key, metadata))

    # ------------------------------------------------------------------------- how it performs

    def perform(self, request: Request[T]) -> T:
        """Perform a request, in a transaction of its own if it changes something."""
        statement, document = request.statement, json.dumps(request.document)
        pool = self._open_pool()
        connection = LazyConnection(pool.take, pool.discard)

        def read(current: Connection) -> T:
            return perform_text(current, statement, document)

        try:
            if statement.is_read_only:
                return read_again_after_loss(connection, read)
            return perform_once(connection, statement, document)
        finally:
            used = connection.detach()
            if used is not None:
                pool.give_back(used)

    async def perform_async(self, request: Request[T]) -> T:
        """Perform a request in a thread. One that has begun is finished even when cancelled."""
        with self._lock:
            self._require_open()
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self._max_connections, "peers client")
            threads = self._threads
        return await asyncio.get_running_loop().run_in_executor(threads, self.perform, request)

    def wait(self, id: int, timeout: Span | None) -> Outcome:
        """Return the outcome of a task once it has ended.

        Raises TaskNotFound, TimeoutError, BadArgument.
        """
        seconds = wait_of(timeout)
        if seconds == 0:
            return _outcome_now(self.perform(outcomes_of(id)), id, seconds)
        future = self._open_waiter().wait_for(id_of(id))
        try:
            return future.result(seconds)
        except TimeoutError:
            raise not_ended(id, seconds) from None
        finally:
            future.cancel()

    async def wait_async(self, id: int, timeout: Span | None) -> Outcome:
        """Await the outcome of a task. Raises TaskNotFound, TimeoutError, BadArgument."""
        seconds = wait_of(timeout)
        if seconds == 0:
            return _outcome_now(await self.perform_async(outcomes_of(id)), id, seconds)
        future = asyncio.wrap_future(self._open_waiter().wait_for(id_of(id)))
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            raise not_ended(id, seconds) from None

    def _open_pool(self) -> Pool:
        with self._lock:
            self._require_open()
            if self._pool is None:
                self._pool = Pool(self._connect, self._max_connections)
            return self._pool

    def _open_waiter(self) -> ResultThread:
        with self._lock:
            self._require_open()
            if self._waiter is None:
                self._waiter = ResultThread(self._connect)
            return self._waiter

    def _require_open(self) -> None:
        if self._is_closed:
            raise PeersError("the client is closed", "Make another one.")

    def _connect(self) -> BoundedConnection:
        return connect(self._place.url(), application_name=self._application_name, pooled=True)

    def forget_connections(self) -> None:
        """Leave the connections to the parent process, after a fork; open new ones when needed."""
        _left_to_parent.append((self._pool, self._waiter, self._threads))
        self._lock = threading.Lock()  # another thread of the parent may have held it
        self._place.renew_lock()
        self._pool = self._waiter = self._threads = None


_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_left_to_parent: Final[list[object]] = []
"""A child process must not use or close these: the sockets are its parent's."""


def _outcome_now(outcomes: list[Outcome], id: int, timeout: float) -> Outcome:
    outcome = only_outcome(outcomes, id)
    if not outcome.has_ended:
        raise not_ended(id, timeout)
    return outcome


def _after_fork() -> None:
    for client in list(_clients):
        client.forget_connections()


@atexit.register
def _at_exit() -> None:
    for client in list(_clients):
        client.close()


os.register_at_fork(after_in_child=_after_fork)
