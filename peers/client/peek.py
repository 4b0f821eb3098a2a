"""Ask what the handler of a running task does, and wait for the reply of its peer."""

# ruff: noqa: ASYNC109 - the sync and the async form take the same arguments

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from peers.client.checks import id_of, wait_of
from peers.client.statements import Request, Statement
from peers.errors import NotRunning
from peers.spans import Span
from peers.types import TaskId

T = TypeVar("T")
Perform: TypeAlias = Callable[[Request[Any]], Any]

PEEK_TIMEOUT: Final = 15.0
"""Seconds. A peer that misses the notification replies after its next heartbeat, within 10 s."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
_GROWTH: Final = 1.2


@dataclass(frozen=True, slots=True)
class Peek:
    """What the handler of a running task does, as its peer replied."""

    task_id: TaskId
    phase: str
    """Whether the handler is "running", is "waiting" in its peer to start, or has "ended"."""
    report: str
    """Everything as text: where the task runs, memory, CPU, and the stacks."""
    facts: dict[str, Any]
    """The same as JSON, without the stacks. "innermost" is where the handler is."""


def peek(id: int, timeout: Span | None = None) -> Peek:
    """Return what the handler of a running task does, without stopping it.

    timeout: how long to wait for the peer's reply, 15 s by default: seconds, a timedelta or a text
    such as "30s". It needs the role peers_operator. Raises TaskNotFound, NotRunning, BadArgument,
    and TimeoutError when the peer does not reply.
    """
    from peers.client.default import default_client

    return ask(lambda request: default_client().perform(request), id, timeout)


async def peek_async(id: int, timeout: Span | None = None) -> Peek:
    """Do the same as `peek` without blocking the event loop."""
    from peers.client.default import default_client

    return await ask_async(lambda request: default_client().perform_async(request), id, timeout)


def ask(perform: Perform, id: int, timeout: Span | None) -> Peek:
    """Ask for a peek with this function, and wait for the reply."""
    request, wait = _request(id), _wait(timeout)
    number = perform(request)
    for pause in _pauses(wait):
        reply: Peek | None = perform(_reply(number))
        if reply is not None:
            return reply
        time.sleep(pause)
    raise _no_reply(id, perform(_silence(number)))


async def ask_async(
    perform: Callable[[Request[Any]], Awaitable[Any]], id: int, timeout: Span | None
) -> Peek:
    """Do the same as `ask` without blocking the event loop."""
    request, wait = _request(id), _wait(timeout)
    number = await perform(request)
    for pause in _pauses(wait):
        reply: Peek | None = await perform(_reply(number))
        if reply is not None:
            return reply
        await asyncio.sleep(pause)
    raise _no_reply(id, await perform(_silence(number)))


def _wait(timeout: Span | None) -> float:
    wait = wait_of(timeout)
    return PEEK_TIMEOUT if wait is None else wait


def _request(id: int) -> Request[int]:
    return Request(_REQUEST, {"id": id_of(id)})


def _reply(number: int) -> Request[Peek | None]:
    return Request(_REPLY, {"id": number})


def _silence(number: int) -> Request[dict[str, Any]]:
    return Request(_SILENCE, {"id": number})


def _pauses(wait: float) -> Iterator[float]:
    give_up = time.monotonic() + wait
    pause = _FIRST_PAUSE
    while True:
        yield pause
        if time.monotonic() >= give_up:
            return
        pause = min(_LONGEST_PAUSE, pause * _GROWTH)


def _no_reply(id: int, silence: dict[str, Any]) -> Exception:
    """Return the error for a peer that has not replied."""
    if silence["explanation"] is not None:
        return NotRunning(f"task {id} is not running any more. {silence['explanation']}")
    ago = silence["heartbeat_ago"]
    if ago is None:
        return NotRunning(f"the peer that ran task {id} has left or is lost")
    where = f"its peer on host {silence['host']}, pid {silence['pid']},"
    return TimeoutError(
        f"no reply about task {id}: {where} sent its last heartbeat {ago:.0f} s ago, and replies "
        "after a heartbeat. It may hang, or run an older version of Peers that cannot reply"
    )


def _peek(row: Any) -> Peek | None:
    if row is None:
        return None
    return Peek(row["task_id"], row["facts"]["phase"], row["report"], row["facts"])


_REQUEST: Final[Statement[int]] = Statement(
    "request_peek",
    "select to_json(peers.request_peek((cast(:document as jsonb) ->> 'id')::bigint))::text",
    int,
)
_REPLY: Final = Statement(
    "peek_reply",
    """
    select coalesce((
        select json_build_object('task_id', p.task_id, 'facts', p.facts, 'report', p.report)
        from peers.peek p
        where p.id = (cast(:document as jsonb) ->> 'id')::bigint and p.replied_at is not null),
        'null')::text
    """,
    _peek,
    is_read_only=True,
)
_SILENCE: Final[Statement[dict[str, Any]]] = Statement(
    "peek_silence",
    """
    select json_build_object(
        'host', p.host, 'pid', p.pid,
        'heartbeat_ago', extract(epoch from peers.now() - p.heartbeat_at),
        'explanation', case when t.state <> 'running' or t.token <> k.token
                            then peers.explain(k.task_id) end)::text
    from peers.peek k
    left join peers.task t on t.id = k.task_id
    left join peers.peer p on p.id = k.peer_id and p.lost_at is null
    where k.id = (cast(:document as jsonb) ->> 'id')::bigint
    """,
    dict,
    is_read_only=True,
)
