"""A handler as its callers see it: it can be called, bound to options, and submitted."""

# ruff: noqa: ASYNC109 - the sync and the async form take the same arguments

from __future__ import annotations

import functools
import inspect
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from peers.client import operations
from peers.client.node import Node
from peers.client.options import OptionFields, Options, options_from
from peers.client.results import wait, wait_async
from peers.client.statements import Request
from peers.client.submission import document
from peers.client.submit_statements import submit_statement
from peers.client.targets import is_async_target
from peers.client.transport import perform, perform_async, perform_in, perform_in_async
from peers.errors import ArgsInvalid, BadArgument, BadTask
from peers.handlers import Handler
from peers.spans import Span

if TYPE_CHECKING:
    from peers.client.records import Outcome, TaskLog
    from peers.client.targets import AsyncTarget, SyncTarget
    from peers.types import ParentFailure, TaskId

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
V = TypeVar("V")


class Task(Generic[P, R_co]):
    """A handler with its kind. A call runs the function directly; `submit` queues a task."""

    def __init__(self, handler: Handler, bound: Options = Options()) -> None:  # noqa: B008 - frozen
        self.handler = handler
        self.bound = bound
        functools.update_wrapper(self, handler.function)

    @property
    def kind(self) -> str:
        """Return the kind under which the handler is registered."""
        return self.handler.kind

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the function, without the scheduler."""
        result: R_co = self.handler.function(*args, **kwargs)
        return result

    def __repr__(self) -> str:
        return f"<Task {self.kind}>"

    def options(self, **changes: Unpack[OptionFields]) -> Self:
        """Return a copy that submits with these options; see Options. Raises BadTask."""
        return type(self)(self.handler, options_from(changes, self.bound))

    def after(
        self,
        *parents: Node | int | Iterable[Node | int],
        on_parent_failure: ParentFailure | str | None = None,
    ) -> Self:
        """Return a copy that submits tasks which wait for these parents too.

        Parents are nodes of a graph or ids of tasks, or lists of them. on_parent_failure: "hold",
        "cancel" or "run", for all parents of the task. Raises BadTask.
        """
        found = list(self.bound.depends_on)
        for parent in parents:
            if isinstance(parent, Iterable) and not isinstance(parent, str | bytes | Mapping):
                found += parent
            else:
                found.append(cast("Node | int", parent))
        bound = replace(self.bound, depends_on=found)
        if on_parent_failure is not None:
            bound = replace(bound, on_parent_failure=on_parent_failure)
        return type(self)(self.handler, bound)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> TaskId:
        """Submit a task, committed at once, and return its id.

        Uses the default client, whose database the PEERS_* settings name; inside a running handler
        the peer submits it. Raises ArgsInvalid, BadTask, ConfigError, DatabaseUnreachable.
        """
        return perform(self.request(*args, **kwargs))

    async def submit_async(self, *args: P.args, **kwargs: P.kwargs) -> TaskId:
        """Submit a task without blocking the event loop, and return its id."""
        return await perform_async(self.request(*args, **kwargs))

    @overload
    def submit_in(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> TaskId: ...
    @overload
    def submit_in(
        self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, TaskId]: ...
    def submit_in(
        self, target: SyncTarget | AsyncTarget, /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskId | Coroutine[Any, Any, TaskId]:
        """Submit a task inside the target's transaction, and return its id.

        The target is a SQLAlchemy Session or Connection, a psycopg connection or cursor, or
        Django's connection. With an async one the call is awaited. The task exists once the
        transaction commits. Raises ArgsInvalid, BadTask, and what the database refuses.
        """
        request = self.request(*args, **kwargs)
        if is_async_target(target):
            return perform_in_async(target, request)
        return perform_in(target, request)

    @overload
    def result(
        self: Task[P, Coroutine[Any, Any, V]], id: int, timeout: Span | None = None
    ) -> V: ...
    @overload
    def result(self, id: int, timeout: Span | None = None) -> R_co: ...
    def result(self, id: int, timeout: Span | None = None) -> Any:
        """Wait until a task of this kind has ended and return what its handler returned.

        timeout: seconds, a timedelta or a text such as "1h30m"; 0 looks once. Raises TaskFailed,
        TaskCancelled, TaskNotFound, TimeoutError, BadArgument, and BadTask for a task of another
        kind.
        """
        return read_result(wait(id, timeout), self)

    @overload
    async def result_async(
        self: Task[P, Coroutine[Any, Any, V]], id: int, timeout: Span | None = None
    ) -> V: ...
    @overload
    async def result_async(self, id: int, timeout: Span | None = None) -> R_co: ...
    async def result_async(self, id: int, timeout: Span | None = None) -> Any:
        """Do the same as `result` without blocking the event loop."""
        return read_result(await wait_async(id, timeout), self)

    def log(self, id: int, attempt: int | None = None) -> TaskLog | None:
        """Return what an attempt of a task has printed and logged; None: there is no log of it.

        attempt: its number; None: the last one that has a log. Raises TaskNotFound, BadArgument.
        """
        return perform(operations.log(id, attempt))

    async def log_async(self, id: int, attempt: int | None = None) -> TaskLog | None:
        """Do the same as `log` without blocking the event loop."""
        return await perform_async(operations.log(id, attempt))

    def request(self, *args: P.args, **kwargs: P.kwargs) -> Request[TaskId]:
        """Return the checked request of a submission. Raises ArgsInvalid."""
        with self.hinting_at_keywords(args, kwargs):
            fields = document(self.kind, self.by_name(*args, **kwargs), self.bound)
        return Request(submit_statement(fields), fields)

    @contextmanager
    def hinting_at_keywords(
        self, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> Iterator[None]:
        """Say in the error of a call with one dict that a task takes its args as keywords."""
        try:
            yield
        except ArgsInvalid as error:
            if kwargs or len(args) != 1 or not isinstance(args[0], Mapping):
                raise
            raise ArgsInvalid(
                error.message,
                "With a task, args are those of its function: pass a dict of args as **args, such "
                "as submit(fetch, **args).",
            ) from error

    def by_name(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """Return the args of a call by their names. Raises ArgsInvalid."""
        if not args:
            return dict(kwargs)
        if self.handler.batch_size is not None:
            raise ArgsInvalid(
                f"{self.kind} is submitted task by task, with args by name",
                "The peer that runs it makes the list.",
            )
        try:
            bound = inspect.signature(self.handler.function).bind_partial(*args)
        except TypeError as error:
            raise ArgsInvalid(f"args do not fit {self.kind}: {error}") from None
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL and name in bound.arguments:
                raise ArgsInvalid(
                    f"{self.kind} takes its args by name; *{name} cannot be submitted"
                )
            if name in bound.arguments and name in kwargs:
                raise ArgsInvalid(f'{self.kind} got "{name}" twice')
        return {**bound.arguments, **kwargs}


class BatchTask(Task[..., R_co]):
    """A handler that runs many tasks in one call. Each task has a result of its own."""

    def result(self, id: int, timeout: Span | None = None) -> Any:
        """Wait until a task of this kind has ended and return its result as JSON."""
        return read_result(wait(id, timeout), self)

    async def result_async(self, id: int, timeout: Span | None = None) -> Any:
        """Do the same as `result` without blocking the event loop."""
        return read_result(await wait_async(id, timeout), self)


def submission(task: Task[..., Any] | str, /, *args: Any, **kwargs: Any) -> Request[TaskId]:
    """Return the request that submits a handler with its args, or a kind, args and options."""
    if isinstance(task, Task):
        return task.request(*args, **kwargs)
    return operations.submit(task, *args, **kwargs)


def require_task(task: object) -> None:
    """Refuse what is no task, before a caller waits for its result. Raises BadArgument."""
    if task is not None and not isinstance(task, Task):
        raise BadArgument(f"task must be the function under @task, not {task!r}")


def read_result(outcome: Outcome, task: Task[..., Any] | None) -> Any:
    """Return a task's result as its handler returned it, or as JSON without a handler.

    Raises TaskFailed, TaskCancelled, BadTask.
    """
    if task is None:
        return outcome.value()
    if outcome.kind != task.kind:
        raise BadTask(f"task {outcome.id} is of kind {outcome.kind}, not {task.kind}")
    return task.handler.load_result(outcome.value())
