"""Submit a task with the default client, or inside a transaction of the application."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, Unpack, overload

from peers.client.targets import is_async_target
from peers.client.task import Task, submission
from peers.client.transport import perform, perform_async, perform_in, perform_in_async

if TYPE_CHECKING:
    from peers.client.options import OptionFields
    from peers.client.targets import AsyncTarget, SyncTarget
    from peers.types import TaskId

P = ParamSpec("P")


@overload
def submit(task: Task[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> TaskId: ...
@overload
def submit(
    kind: str, /, args: Mapping[str, object] | None = None, **options: Unpack[OptionFields]
) -> TaskId: ...
def submit(task: Task[..., Any] | str, /, *args: Any, **kwargs: Any) -> TaskId:
    """Submit a task and return its id: a handler with its args, or a kind, args and options.

    For the options, see Options. Raises ArgsInvalid, BadTask, BadGraph, DatabaseUnreachable.
    """
    return perform(submission(task, *args, **kwargs))


@overload
async def submit_async(task: Task[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> TaskId: ...
@overload
async def submit_async(
    kind: str, /, args: Mapping[str, object] | None = None, **options: Unpack[OptionFields]
) -> TaskId: ...
async def submit_async(task: Task[..., Any] | str, /, *args: Any, **kwargs: Any) -> TaskId:
    """Do the same as `submit` without blocking the event loop."""
    return await perform_async(submission(task, *args, **kwargs))


@overload
def submit_in(
    target: SyncTarget, task: Task[P, Any], /, *args: P.args, **kwargs: P.kwargs
) -> TaskId: ...
@overload
def submit_in(
    target: AsyncTarget, task: Task[P, Any], /, *args: P.args, **kwargs: P.kwargs
) -> Coroutine[Any, Any, TaskId]: ...
@overload
def submit_in(
    target: SyncTarget,
    kind: str,
    /,
    args: Mapping[str, object] | None = None,
    **options: Unpack[OptionFields],
) -> TaskId: ...
@overload
def submit_in(
    target: AsyncTarget,
    kind: str,
    /,
    args: Mapping[str, object] | None = None,
    **options: Unpack[OptionFields],
) -> Coroutine[Any, Any, TaskId]: ...
def submit_in(
    target: SyncTarget | AsyncTarget, task: Task[..., Any] | str, /, *args: Any, **kwargs: Any
) -> TaskId | Coroutine[Any, Any, TaskId]:
    """Submit a task inside the target's transaction. Await the call if the target is async."""
    request = submission(task, *args, **kwargs)
    if is_async_target(target):
        return perform_in_async(target, request)
    return perform_in(target, request)
