"""Execute the requests of handlers."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

import psycopg

from peers.client.transport import perform_for_handler
from peers.database import functions
from peers.database.connection import Connection, is_connection_lost
from peers.database.rows import Claimed
from peers.errors import BadTask, DatabaseUnreachable

if TYPE_CHECKING:
    from peers.client.transaction import LazyConnection

T = TypeVar("T")

BODY_MAX_BYTES: Final = 256 << 20
"""The largest request: jsonb holds no more in one array."""
_LIMIT_EXCEEDED: Final = "54"  # a class of SQLSTATEs
_TOO_LARGE: Final = (
    "Submit it in several parts. Tasks of a part can depend on tasks of an earlier part."
)


def execute(
    connection: LazyConnection, peer_id: UUID, task: Claimed, verb: str, body: bytes
) -> bytes:
    """Execute a request of the handler of `task`. `body` and the reply are JSON.

    parents: null → [{"id", "kind", "state", "result"}, …]
    due_at: null → the due time of the task's schedule, or null
    progress: {"done", "total"} → bool
    start_cooldown: {"name", "seconds", "reason"} → seconds; name null: of the task's only limit
    cooldown_left: {"name"} → seconds
    Any statement of the client: what the client sends → what it expects, at most once, and only
    while the lease of `task` holds.

    Raises what the database refuses, `BadTask` for a malformed request (a handler may send
    anything, and the peer must survive it), and `DatabaseUnreachable` for errors that may pass.
    """
    try:
        return _execute(connection, peer_id, task, verb, body)
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise BadTask(f"{verb}: the request is malformed ({error!r})") from error
    except psycopg.errors.LockNotAvailable as error:
        raise DatabaseUnreachable(
            f"{verb}: another session has locked a row that this needs", "Try again later."
        ) from error
    except psycopg.Error as error:
        if is_connection_lost(error) or connection.is_broken:
            connection.close()
        elif (error.sqlstate or "").startswith(_LIMIT_EXCEEDED):
            raise BadTask(f"{verb}: {error}", _TOO_LARGE) from error
        elif not isinstance(error, psycopg.OperationalError):
            raise BadTask(f"{verb}: {error}") from error
        # such as a deadlock, a full disk, a statement that took too long
        raise DatabaseUnreachable(f"{verb}: {error}", "Try again later.") from error


def _execute(
    connection: LazyConnection, peer_id: UUID, task: Claimed, verb: str, body: bytes
) -> bytes:
    if len(body) > BODY_MAX_BYTES:
        raise BadTask(
            f"{verb}: {len(body)} bytes of JSON exceed the limit of {BODY_MAX_BYTES}", _TOO_LARGE
        )
    match verb:
        case "parents":
            return _parents(connection, task)
        case "due_at":
            due_at = _repeatably(connection, lambda c: functions.task_due_at(c, task.task_id))
            return json.dumps(None if due_at is None else due_at.isoformat()).encode()
        case "progress":
            given = json.loads(body)
            done, total = given["done"], given["total"]
            recorded = _repeatably(
                connection,
                lambda c: functions.progress(c, peer_id, task.task_id, task.token, done, total),
            )
            return json.dumps(recorded).encode()
        case "start_cooldown":
            given = json.loads(body)
            name, reason = given["name"], given["reason"]
            duration = timedelta(seconds=given["seconds"])
            seconds = _repeatably(
                connection,
                lambda c: (
                    functions.shut_limit_of_task(c, task.task_id, duration, reason)
                    if name is None
                    else functions.start_cooldown(c, name, duration, reason)
                ),
            )
            return json.dumps(seconds).encode()
        case "cooldown_left":
            name = json.loads(body)["name"]
            seconds = _repeatably(connection, lambda c: functions.cooldown_left(c, name))
            return json.dumps(seconds).encode()
        case _:
            return perform_for_handler(
                connection,
                lambda c: functions.hold_lease(c, peer_id, task.task_id, task.token),
                verb,
                body,
            )


def _parents(connection: LazyConnection, task: Claimed) -> bytes:
    parents = _repeatably(connection, lambda c: functions.parent_results(c, task.task_id))
    return b"[" + b",".join(
        b'{"id":%d,"kind":%s,"state":"%s","result":%s}'
        % (p.parent_id, json.dumps(p.kind).encode(), p.state.encode(), p.result or b"null")
        for p in parents
    ) + b"]"  # fmt: skip


def _repeatably(connection: LazyConnection, work: Callable[[Connection], T]) -> T:
    """Do idempotent work, on a new connection if this one was lost while it was idle."""
    try:
        return work(connection.get())
    except psycopg.Error as error:
        if not is_connection_lost(error) or connection.was_cut:
            raise
        connection.close()
        return work(connection.get())
