"""Make the forms of an operation: default client, async, inside a transaction, and methods."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from peers.client.targets import is_async_target
from peers.client.transport import perform, perform_async, perform_in, perform_in_async

if TYPE_CHECKING:
    from peers.client.statements import Request
    from peers.client.targets import AsyncTarget, SyncTarget

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Performer(Protocol):
    """A client: it performs requests on its own connections."""

    def perform(self, request: Request[T], /) -> T:
        """Perform the request."""
        ...


class AsyncPerformer(Protocol):
    """An async client."""

    async def perform(self, request: Request[T], /) -> T:
        """Perform the request."""
        ...


class InTransaction(Protocol[P, T_co]):
    """An operation inside the transaction of a session, connection or cursor."""

    @overload
    def __call__(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> T_co: ...
    @overload
    def __call__(
        self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T_co]: ...


def with_default_client(build: Callable[P, Request[T]]) -> Callable[P, T]:
    """Return the function that performs an operation with the default client."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return perform(build(*args, **kwargs))

    _describe(call, build, build.__name__)
    return call


def as_async(build: Callable[P, Request[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return the async function that performs an operation with the default client."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return await perform_async(build(*args, **kwargs))

    _describe(call, build, f"{build.__name__}_async")
    return call


def in_transaction(build: Callable[P, Request[T]]) -> InTransaction[P, T]:
    """Return the function that performs an operation inside a given transaction."""

    def call(target: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        request = build(*args, **kwargs)
        if is_async_target(target):
            return perform_in_async(target, request)
        return perform_in(target, request)

    _describe(call, build, f"{build.__name__}_in", first="target")
    return cast("InTransaction[P, T]", call)


def as_method(build: Callable[P, Request[T]]) -> Callable[Concatenate[Performer, P], T]:
    """Return the method of a client for an operation."""

    def call(self: Performer, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.perform(build(*args, **kwargs))

    _describe(call, build, build.__name__, first="self")
    return call


def as_async_method(
    build: Callable[P, Request[T]],
) -> Callable[Concatenate[AsyncPerformer, P], Coroutine[Any, Any, T]]:
    """Return the method of an async client for an operation."""

    async def call(self: AsyncPerformer, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.perform(build(*args, **kwargs))

    _describe(call, build, build.__name__, first="self")
    return call


def _describe(call: Any, build: Callable[..., Any], name: str, first: str | None = None) -> None:
    """Give a form the docstring and the signature that `help` shows."""
    signature = inspect.signature(build)
    parameters = list(signature.parameters.values())
    if first is not None:
        parameters.insert(0, inspect.Parameter(first, inspect.Parameter.POSITIONAL_ONLY))
    result = re.sub(r"^Request\[(.*)\]$", r"\1", str(signature.return_annotation))
    call.__signature__ = signature.replace(parameters=parameters, return_annotation=result)
    call.__name__ = call.__qualname__ = name
    call.__doc__ = build.__doc__
