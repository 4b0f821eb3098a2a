"""The verbs of the database, one typed function each: same name, same order of arguments.

The first argument is the connection. What the database refuses is raised as one of peers.errors; a
lost connection stays psycopg's error (see `is_connection_lost` of peers.database.connection). JSON
goes in and comes out as bytes, so that args and results pass through without being parsed. Times
and intervals come in binary form, which no DateStyle or IntervalStyle changes.
"""

from __future__ import annotations

import json
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, LiteralString

from peers.database.rows import (
    Claimed,
    HeartbeatReply,
    ParentResult,
    Problem,
    Pruned,
    Reclaimed,
    Unrunnable,
    Unsettled,
)
from peers.errors import translated
from peers.types import (
    CONTRACT_VERSION,
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    KindPolicy,
    ParentFailure,
    TaskState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from peers.database.connection import Connection

PROMOTE_MAX_TASKS = 1000
RECLAIM_MAX_TASKS = 1000
PRUNE_MAX_TASKS = 10_000


def _rows(
    connection: Connection, query: LiteralString, *arguments: object, binary: bool = False
) -> list[tuple[Any, ...]]:
    with translated():
        return connection.execute(query, arguments, binary=binary).fetchall()


def _value(
    connection: Connection, query: LiteralString, *arguments: object, binary: bool = False
) -> Any:
    return _rows(connection, query, *arguments, binary=binary)[0][0]


_CODECS: Final = {"WIN1256": "cp1256", "WIN866": "cp866", "KOI8R": "koi8-r", "KOI8U": "koi8-u"}
"""Where Python has another name for an encoding of Postgres that peers.schema accepts."""


def _storable(connection: Connection, value: object) -> object:
    r"""Replace what the database cannot hold of a text by escapes such as \u20ac.

    Numbers that JSON has no form for become texts, which the verbs take.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        return value
    encoding = connection.info.parameter_status("server_encoding") or "UTF8"
    codec = _CODECS.get(encoding, encoding)
    escaped = value.encode(codec, "backslashreplace").decode(codec)
    return escaped.replace("\0", "\\x00")


# ------------------------------------------------------------------------------- the peer's verbs


def join(
    connection: Connection,
    host: str,
    pid: int,
    queues: Mapping[str, int],
    kinds: Iterable[KindPolicy],
    lease_timeout: timedelta,
    contract_version: int = CONTRACT_VERSION,
) -> UUID:
    """A peer comes: its queues with their slots, its kinds with their policies. Its identity.

    Raises ContractMismatch when the database speaks another version.
    """
    identity: UUID = _value(
        connection,
        "select peers.join(%s, %s, %s::jsonb, %s::jsonb, %s, %s)",
        host,
        pid,
        json.dumps(dict(queues)),
        json.dumps([kind.as_json() for kind in kinds]),
        lease_timeout,
        contract_version,
    )
    return identity


def heartbeat(connection: Connection, peer_id: UUID) -> HeartbeatReply:
    """Renews the peer and all of its leases."""
    [(version, alive, tasks, tokens)] = _rows(
        connection, "select * from peers.heartbeat(%s)", peer_id
    )
    return HeartbeatReply(version, alive, frozenset(zip(tasks, tokens, strict=True)))


def claim(connection: Connection, peer_id: UUID, queue: str, max_tasks: int) -> list[Claimed]:
    """Leases up to max_tasks (1 to 10,000) ready tasks, in the order in which they shall start.

    Raises PeerLost when the peer's own lease has expired.
    """
    rows = _rows(
        connection,
        "select task_id, token, attempt, kind, convert_to(args::text, 'UTF8'),"
        " date_part('epoch', timeout), priority from peers.claim(%s, %s, %s)",
        peer_id,
        queue,
        max_tasks,
        binary=True,
    )
    return list(map(Claimed._make, rows))


def complete(connection: Connection, peer_id: UUID, outcomes: bytes) -> list[Unsettled]:
    """Settles the JSON array [{"task_id", "token", "result"}, …]; answers what was not settled."""
    rows = _rows(
        connection,
        "select * from peers.complete(%s, convert_from(%b, 'UTF8')::jsonb)",
        peer_id,
        outcomes,
    )
    return list(map(Unsettled._make, rows))


def fail(
    connection: Connection, peer_id: UUID, failures: Sequence[Mapping[str, object]]
) -> list[Unsettled]:
    """Settles failed attempts; answers what was not settled.

    Each has task_id and token, and what is known of error_type, error_message, traceback,
    exit_signal, exit_code, retry_in (seconds, instead of the backoff), reject (dead at once) and
    snooze (the attempt does not count).
    Characters that the database cannot hold are recorded as escapes.
    """
    storable = [
        {name: _storable(connection, value) for name, value in failure.items()}
        for failure in failures
    ]
    rows = _rows(
        connection,
        "select * from peers.fail(%s, %s::jsonb)",
        peer_id,
        json.dumps(storable, default=str),
    )
    return list(map(Unsettled._make, rows))


def release(
    connection: Connection,
    peer_id: UUID,
    task_ids: Sequence[int],
    tokens: Sequence[UUID],
    reasons: Sequence[str | None] = (),
) -> int:
    """Gives leases back, uncounted; answers how many. What is busy stays leased.

    `reasons`: why the peer stopped each of them; None: it was not started.
    """
    count: int = _value(
        connection,
        "select peers.release(%s, %s::bigint[], %s::uuid[], %s::text[])",
        peer_id,
        list(task_ids),
        list(tokens),
        list(reasons),
    )
    return count


def reconcile(connection: Connection, peer_id: UUID, tokens: Sequence[UUID]) -> int:
    """Releases the peer's leases under other tokens than these; answers how many.

    Only while no claim of this peer is under way.
    """
    count: int = _value(connection, "select peers.reconcile(%s, %s::uuid[])", peer_id, list(tokens))
    return count


def reclaim(
    connection: Connection, peer_id: UUID, max_tasks: int = RECLAIM_MAX_TASKS
) -> list[Reclaimed]:
    """Takes back the leases of peers whose heartbeat has expired."""
    rows = _rows(connection, "select * from peers.reclaim(%s, %s)", peer_id, max_tasks)
    return list(map(Reclaimed._make, rows))


def leave(connection: Connection, peer_id: UUID) -> int:
    """The peer goes; answers how many leases were released."""
    count: int = _value(connection, "select peers.leave(%s)", peer_id)
    return count


def promote(connection: Connection, max_tasks: int = PROMOTE_MAX_TASKS) -> int:
    """Moves what is due to ready; call again while it answers max_tasks."""
    count: int | None = _value(connection, "select peers.promote(%s)", max_tasks)
    return count or 0


def progress(
    connection: Connection, peer_id: UUID, task_id: int, token: UUID, done: int, total: int | None
) -> bool:
    """Notes how far a handler is; False: its lease is gone."""
    noted: bool = _value(
        connection,
        "select peers.progress(%s, %s, %s, %s, %s)",
        peer_id,
        task_id,
        token,
        done,
        total,
    )
    return noted


def hold_lease(connection: Connection, peer_id: UUID, task_id: int, token: UUID) -> str:
    """Keeps the lease until the transaction ends; the transaction's id.

    Raises PeerLost when the lease is gone.
    """
    transaction: str = _value(
        connection, "select peers.hold_lease(%s, %s, %s)::text", peer_id, task_id, token
    )
    return transaction


def start_cooldown(
    connection: Connection, name: str, duration: timedelta, reason: str | None
) -> float:
    """Keeps all peers from calling an outside system; for how many seconds from now."""
    left: timedelta = _value(
        connection,
        "select peers.start_cooldown(%s, %s, %s)",
        name,
        duration,
        _storable(connection, reason),
        binary=True,
    )
    return left.total_seconds()


def cooldown_left(connection: Connection, name: str) -> float:
    """For how many seconds an outside system is still to be left alone; 0.0: it may be called."""
    left: timedelta = _value(connection, "select peers.cooldown_left(%s)", name, binary=True)
    return left.total_seconds()


def parent_results(connection: Connection, child_id: int) -> list[ParentResult]:
    """The parents of a task with their states and results, by id."""
    rows = _rows(
        connection,
        "select parent_id, kind, state::text, convert_to(result::text, 'UTF8')"
        " from peers.parent_results(%s)",
        child_id,
        binary=True,
    )
    return [
        ParentResult(parent_id, kind, TaskState(state), result)
        for parent_id, kind, state, result in rows
    ]


# -------------------------------------------------------------------------------- submitting


def submit(
    connection: Connection,
    kind: str,
    args: bytes = b"{}",
    queue: str = DEFAULT_QUEUE,
    priority: int = DEFAULT_PRIORITY,
    scheduled_at: datetime | None = None,
    max_attempts: int | None = None,
    timeout: timedelta | None = None,
    depends_on: Sequence[int] = (),
    on_parent_failure: ParentFailure = ParentFailure.HOLD,
    idempotency_key: str | None = None,
    metadata: bytes | None = None,
) -> int:
    """Submits one task; answers its id, or that of the task with the same idempotency key."""
    task_id: int = _value(
        connection,
        "select peers.submit(%s, convert_from(%b, 'UTF8')::jsonb, %s, %s::integer, %s,"
        " %s::integer, %s, %s::bigint[], %s::text::peers.parent_failure_policy, %s,"
        " convert_from(%b, 'UTF8')::jsonb)",
        kind,
        args,
        queue,
        priority,
        scheduled_at,
        max_attempts,
        timeout,
        list(depends_on),
        on_parent_failure.value,
        idempotency_key,
        metadata,
    )
    return task_id


def submit_graph(connection: Connection, graph: bytes) -> dict[str, int]:
    """Submits the nodes of a JSON array in one transaction; answers the id of each name."""
    return dict(
        _rows(
            connection,
            "select * from peers.submit_graph(convert_from(%b, 'UTF8')::jsonb)",
            graph,
        )
    )


# ------------------------------------------------------------------------------ what operators do


def cancel(connection: Connection, id: int) -> TaskState:
    """Ends a task, or has a running one told to stop; answers the state that it is in now."""
    return TaskState(_value(connection, "select peers.cancel(%s)", id))


def change(
    connection: Connection,
    id: int,
    priority: int | None = None,
    scheduled_at: datetime | None = None,
    args: bytes | None = None,
    max_attempts: int | None = None,
    timeout: timedelta | None = None,
) -> None:
    """Changes a task that waits; None leaves a value as it is."""
    _rows(
        connection,
        "select peers.change(%s, %s::integer, %s, convert_from(%b, 'UTF8')::jsonb,"
        " %s::integer, %s)",
        id,
        priority,
        scheduled_at,
        args,
        max_attempts,
        timeout,
    )


def retry(connection: Connection, id: int, args: bytes | None = None) -> int:
    """A dead letter runs again with fresh attempts, optionally with other args."""
    task_id: int = _value(
        connection, "select peers.retry(%s, convert_from(%b, 'UTF8')::jsonb)", id, args
    )
    return task_id


def discard(connection: Connection, id: int) -> int:
    """Accepts a death: the task ends cancelled, and held descendants with it."""
    task_id: int = _value(connection, "select peers.discard(%s)", id)
    return task_id


def explain(connection: Connection, id: int) -> str:
    """Why a task is not running, or what became of it, in words."""
    text: str = _value(connection, "select peers.explain(%s)", id)
    return text


def pause(connection: Connection, queue: str) -> None:
    """Stops claims from a queue."""
    _rows(connection, "select peers.pause(%s)", queue)


def resume(connection: Connection, queue: str) -> None:
    """Allows claims from a paused queue again."""
    _rows(connection, "select peers.resume(%s)", queue)


def prune(
    connection: Connection, older_than: timedelta, max_tasks: int = PRUNE_MAX_TASKS
) -> Pruned:
    """Deletes what ended before older_than and is needed by no child; one bounded step."""
    [row] = _rows(connection, "select * from peers.prune(%s, %s)", older_than, max_tasks)
    return Pruned._make(row)


def check(connection: Connection, repair: bool = False) -> list[Problem]:
    """Recounts what the triggers keep; lists each difference, and mends it on request."""
    return list(map(Problem._make, _rows(connection, "select * from peers.check(%s)", repair)))


def unrunnable(connection: Connection) -> list[Unrunnable]:
    """The kinds with ready tasks in a queue that no live peer can run."""
    rows = _rows(connection, "select * from peers.unrunnable()", binary=True)
    return list(map(Unrunnable._make, rows))


def contract_version(connection: Connection) -> int:
    """The version of the contract that the database speaks."""
    version: int = _value(connection, "select peers.contract_version()")
    return version
