"""`@task`: the function that runs a kind of task, and that can be submitted."""

# ruff: noqa: ASYNC109 - the sync and the async form take the same arguments

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    ParamSpec,
    Self,
    TypedDict,
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
from peers.errors import ArgsInvalid, BadArgument, BadLimit, BadSchedule, BadTask
from peers.handlers import DEFAULT_BACKOFF, DEFAULT_BACKOFF_CAP, Handler, KeepLog, register
from peers.limits import Limit
from peers.schedules import Schedule
from peers.spans import Span, timedelta_of
from peers.types import DEFAULT_MAX_ATTEMPTS, DEFAULT_PRIORITY, DEFAULT_QUEUE

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


class _Policy(TypedDict, total=False):
    queue: str
    priority: int
    max_attempts: int
    timeout: Span | None
    backoff: Span
    backoff_cap: Span
    keep_log: bool | Literal["always"]
    limit: Limit | Iterable[Limit]
    cron: str | None
    every: Span | None
    timezone: str | None
    schedules: Iterable[Schedule]


@overload
def task(
    kind: str, *, batch_size: None = None, **policy: Unpack[_Policy]
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
@overload
def task(
    kind: str, *, batch_size: int, batch_wait: Span = 0, **policy: Unpack[_Policy]
) -> Callable[[Callable[[list[Any]], R]], BatchTask[R]]: ...
def task(
    kind: str,
    *,
    queue: str = DEFAULT_QUEUE,
    priority: int = DEFAULT_PRIORITY,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    timeout: Span | None = None,
    backoff: Span = DEFAULT_BACKOFF,
    backoff_cap: Span = DEFAULT_BACKOFF_CAP,
    batch_size: int | None = None,
    batch_wait: Span = 0,
    keep_log: bool | Literal["always"] = False,
    limit: Limit | Iterable[Limit] = (),
    cron: str | None = None,
    every: Span | None = None,
    timezone: str | None = None,
    schedules: Iterable[Schedule] = (),
) -> Callable[[Callable[..., Any]], Any]:
    """Make a function, plain or async, the handler of a kind.

    With a batch_size it is called with a list: the args of up to that many tasks. The call begins
    when the list is full, or when its first task has waited for batch_wait. It returns a result, or
    an exception, for each task, in the same order. When it raises, or its worker dies, the batch is
    bisected until the failing tasks are isolated; only these fail. Retry, Reject and the timeout
    apply to all tasks of the call.

    keep_log: keep the last 64 KiB of what each failed attempt has printed and logged; "always":
    also of completed ones. `peers log ID` and the table peers.task_log show them.

    limit: how many of its tasks run at once, or start in a period, in all peers together; one Limit
    or several, which all hold.

    With cron or every, the peers submit a task of this kind at each due time, by the clocks of
    timezone (UTC, if left out). The schedule has the name of the kind. schedules: schedules with
    more options, or several of them; see Schedule.

    A duration is a timedelta, seconds, or a text such as "90s", "1h30m" or "1 hour". The wait after
    a failed attempt is a random part of backoff * 2^(attempt - 1), at most backoff_cap. Raises
    ValueError for values out of bounds and for a kind that already has another function, BadLimit
    and BadSchedule.
    """
    if not isinstance(kind, str):
        raise ValueError(f'kind must be a string: write @task("some.kind"), not {kind!r}')
    _require_policy(kind, queue, timezone, priority, max_attempts, batch_size)
    limits = _limits(limit)

    declared = _schedules(schedules)
    if cron is not None or every is not None:
        declared = (Schedule(cron=cron, every=every, timezone=timezone or "UTC"), *declared)
    elif timezone is not None:
        raise BadSchedule(
            f"timezone of {kind!r} belongs to cron or every, and neither is set",
            'Set cron, or pass it in schedules: Schedule(cron=…, timezone="Europe/Berlin").',
        )

    def span(name: str, value: Span) -> timedelta:
        try:
            return timedelta_of(value)
        except ValueError as error:
            raise ValueError(f"{name} of {kind!r} {error}, not {value!r}") from None

    def decorate(function: Callable[..., Any]) -> Task[..., Any]:
        handler = Handler(
            kind,
            function,
            queue=queue,
            priority=priority,
            max_attempts=max_attempts,
            timeout=None if timeout is None else span("timeout", timeout),
            backoff=span("backoff", backoff),
            backoff_cap=span("backoff_cap", backoff_cap),
            batch_size=batch_size,
            batch_wait=span("batch_wait", batch_wait),
            keep_log=_kept(keep_log),
            limits=limits,
            schedules=declared,
        )
        register(handler)
        return Task(handler) if batch_size is None else BatchTask(handler)

    return decorate


def _kept(keep_log: object) -> KeepLog:
    """Return which logs are kept. `Handler` refuses what is neither a boolean nor "always"."""
    if isinstance(keep_log, bool):
        return "failed" if keep_log else ""
    return keep_log if keep_log == "always" else repr(keep_log)  # type: ignore[return-value]


def _require_policy(
    kind: str,
    queue: object,
    timezone: object,
    priority: object,
    max_attempts: object,
    batch_size: object,
) -> None:
    """Refuse texts and numbers of another type. Raises ValueError."""
    for name, text in (("queue", queue), ("timezone", "UTC" if timezone is None else timezone)):
        if not isinstance(text, str):
            raise ValueError(f"{name} of {kind!r} must be a string, not {text!r}")
    numbers = {"priority": priority, "max_attempts": max_attempts}
    if batch_size is not None:
        numbers["batch_size"] = batch_size
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueError(f"{name} of {kind!r} must be a whole number, not {number!r}")


def _schedules(schedules: object) -> tuple[Schedule, ...]:
    """Return the schedules as a tuple. Raises BadSchedule for anything else."""
    several = tuple(schedules) if isinstance(schedules, Iterable) else (schedules,)
    if isinstance(schedules, Mapping) or not all(isinstance(each, Schedule) for each in several):
        raise BadSchedule(
            f"schedules must be a list of Schedule, not {schedules!r}",
            'For example, schedules=[Schedule(cron="0 4 * * *")].',
        )
    return several


def _limits(limit: Limit | Iterable[Limit]) -> tuple[Limit, ...]:
    """Return one or several limits as a tuple. Raises BadLimit for anything else."""
    several = tuple(limit) if isinstance(limit, Iterable) else (limit,)
    if isinstance(limit, Mapping) or not all(isinstance(each, Limit) for each in several):
        raise BadLimit(
            f"limit must be a Limit or several, not {limit!r}", "For example, limit=Limit(4)."
        )
    return several
