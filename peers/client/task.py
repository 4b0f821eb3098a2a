"""`@task`: a function that is also a kind of task and can be submitted."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypedDict, TypeVar, Unpack, overload

from peers.client.submission import Document, OptionFields, Options, Span, document
from peers.client.transport import SUBMIT, is_asynchronous, send, send_async
from peers.errors import ArgsInvalid
from peers.handlers import DEFAULT_BACKOFF, DEFAULT_BACKOFF_CAP, Handler, register
from peers.types import DEFAULT_MAX_ATTEMPTS, DEFAULT_PRIORITY, DEFAULT_QUEUE

if TYPE_CHECKING:
    from peers.client.transport import Asynchronous, Synchronous

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A handler with its kind. Calling it runs the function here and now; `submit` queues it."""

    def __init__(self, handler: Handler, bound: Options = Options()) -> None:  # noqa: B008 - frozen
        self.handler = handler
        self.bound = bound
        functools.update_wrapper(self, handler.function)

    @property
    def kind(self) -> str:
        """The kind under which it is registered."""
        return self.handler.kind

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the function, without the scheduler."""
        result: R = self.handler.function(*args, **kwargs)
        return result

    def __repr__(self) -> str:
        return f"<Task {self.kind}>"

    def options(self, **changes: Unpack[OptionFields]) -> Task[P, R]:
        """A copy with these options for what it submits; see Options. Raises BadTask."""
        return Task(self.handler, replace(self.bound, **changes))

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Submits one task, committed at once; answers its id.

        Uses a connection of its own, from the PEERS_* settings; inside a running handler it goes
        through the peer. Raises ArgsInvalid, BadTask, ConfigError, DatabaseUnreachable.
        """
        return send(SUBMIT, self.document(*args, **kwargs))

    @overload
    def submit_in(self, target: Synchronous, /, *args: P.args, **kwargs: P.kwargs) -> int: ...
    @overload
    def submit_in(
        self, target: Asynchronous, /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[int]: ...
    def submit_in(
        self, target: Synchronous | Asynchronous, /, *args: P.args, **kwargs: P.kwargs
    ) -> int | Awaitable[int]:
        """Submits one task inside the target's transaction; answers its id.

        The target is a SQLAlchemy Session or Connection, or a psycopg connection or cursor; the
        async ones answer an awaitable. The task exists once the transaction commits.
        """
        submission = self.document(*args, **kwargs)
        if is_asynchronous(target):
            return send_async(SUBMIT, submission, target)
        return send(SUBMIT, submission, target)

    def document(self, *args: P.args, **kwargs: P.kwargs) -> Document:
        """The checked JSON document that a submission sends. Raises ArgsInvalid."""
        return document(self.kind, self._by_name(args, kwargs), self.bound)

    def _by_name(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, Any]:
        if not args:
            return dict(kwargs)
        if self.handler.batch_size is not None:
            raise ArgsInvalid(
                f"{self.kind} is submitted task by task, with args by name",
                "Its list is made of them by the peer that runs it.",
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


class _Policy(TypedDict, total=False):
    queue: str
    priority: int
    max_attempts: int
    timeout: Span | None
    backoff: Span
    backoff_cap: Span


@overload
def task(
    kind: str, *, batch_size: None = None, **policy: Unpack[_Policy]
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
@overload
def task(
    kind: str, *, batch_size: int, batch_wait: Span = 0, **policy: Unpack[_Policy]
) -> Callable[[Callable[[list[Any]], R]], Task[..., R]]: ...
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
) -> Callable[[Callable[P, R]], Task[P, R]] | Callable[[Callable[P, R]], Task[..., R]]:
    """Makes a function, plain or async, the handler of a kind.

    With a batch_size it is called with a list of the args of up to as many tasks, at once or when
    the first of them has waited for batch_wait, and returns a result, or an exception, for each, in
    the same order. When it raises, or takes its worker along, it is called again with halves, until
    the tasks that cannot be done stand alone; only these fail. Retry and Reject are for all of a
    call. The timeout is that of a call.

    Durations are timedeltas or seconds. The wait after a failed attempt is a random part of
    backoff * 2^(attempt - 1), at most of backoff_cap. Raises ValueError for values out of bounds
    and for a kind that another function has already.
    """
    if not isinstance(kind, str):
        raise TypeError(f'write @task("some.kind") above the function, not {kind!r}')

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        handler = Handler(
            kind,
            function,
            queue=queue,
            priority=priority,
            max_attempts=max_attempts,
            timeout=None if timeout is None else _timedelta(timeout),
            backoff=_timedelta(backoff),
            backoff_cap=_timedelta(backoff_cap),
            batch_size=batch_size,
            batch_wait=_timedelta(batch_wait),
        )
        register(handler)
        return Task(handler)

    return decorate


def _timedelta(span: Span) -> timedelta:
    return span if isinstance(span, timedelta) else timedelta(seconds=span)


def submit(
    kind: str, args: Mapping[str, object] | None = None, **options: Unpack[OptionFields]
) -> int:
    """Submits one task by the name of its kind; answers its id. For options, see Options.

    Raises ArgsInvalid, BadTask, ConfigError, DatabaseUnreachable.
    """
    return send(SUBMIT, document(kind, args or {}, Options(**options)))
