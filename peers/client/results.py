"""The functions `peers.result` and `result_async`: with the default client, or from a handler."""

# ruff: noqa: ASYNC109 - the sync and the async form take the same arguments

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from peers.client.checks import id_of, wait_of
from peers.client.records import not_ended, task_not_found
from peers.client.statements import OUTCOMES, Request
from peers.client.transport import perform
from peers.context import current

if TYPE_CHECKING:
    from peers.client.records import Outcome
    from peers.spans import Span

_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 1.0
_GROWTH: Final = 1.2


def result(id: int, timeout: Span | None = None) -> Any:
    """Wait until a task has ended, for at most `timeout`, and return its result as JSON.

    timeout: seconds, a timedelta or a text such as "1h30m"; 0 looks once. `some_task.result(id)`
    returns the type that the handler returns. Inside a handler this polls through the peer, and the
    handler's slot stays occupied while it waits: make the task a parent instead where you can.
    Raises TaskFailed, TaskCancelled, TaskNotFound, TimeoutError, BadArgument.
    """
    return wait(id, timeout).value()


async def result_async(id: int, timeout: Span | None = None) -> Any:
    """Do the same as `result` without blocking the event loop."""
    return (await wait_async(id, timeout)).value()


def wait(id: int, timeout: Span | None) -> Outcome:
    """Return the outcome of a task once it has ended."""
    if current() is None:
        from peers.client.default import default_client

        return default_client().wait(id, timeout)
    for pause in _pauses(id, wait_of(timeout)):
        outcome = _look(id)
        if outcome.has_ended:
            return outcome
        time.sleep(pause)
    raise AssertionError("the pauses end with an exception")


async def wait_async(id: int, timeout: Span | None) -> Outcome:
    """Await the outcome of a task."""
    if current() is None:
        from peers.client.default import default_client

        return await default_client().wait_async(id, timeout)
    for pause in _pauses(id, wait_of(timeout)):
        outcome = await asyncio.to_thread(_look, id)
        if outcome.has_ended:
            return outcome
        await asyncio.sleep(pause)
    raise AssertionError("the pauses end with an exception")


def outcomes_of(id: int) -> Request[list[Outcome]]:
    """Return the request for the outcome of one task. Raises BadArgument."""
    return Request(OUTCOMES, {"ids": [id_of(id)]})


def only_outcome(outcomes: list[Outcome], id: int) -> Outcome:
    """Return the outcome that was found. Raises TaskNotFound."""
    for outcome in outcomes:
        return outcome
    raise task_not_found(id)


def _look(id: int) -> Outcome:
    return only_outcome(perform(outcomes_of(id)), id)


def _pauses(id: int, timeout: float | None) -> Iterator[float]:
    """Yield the seconds to sleep between two polls. Raises TimeoutError when time is up."""
    give_up = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_PAUSE
    yield pause
    while give_up is None or time.monotonic() < give_up:
        pause = min(_LONGEST_PAUSE, pause * _GROWTH)
        yield pause if give_up is None else max(0.0, min(pause, give_up - time.monotonic()))
    raise not_ended(id, timeout)
