"""Call the functions of the database that peers and commands need, each under its own name.

The first argument is the connection, and the others are the same as in SQL. An error of the
database is raised as a class of peers.errors. A lost connection stays psycopg's error (see
`is_connection_lost` of peers.database.connection). JSON is passed as bytes, so that args and
results are never parsed here. Times and intervals are read in binary form, which no DateStyle or
IntervalStyle changes.
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
    Sibling,
    Unrecorded,
    Unrunnable,
)
from peers.errors import translated
from peers.types import (
    CONTRACT_VERSION,
    KindPolicy,
    TaskState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
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
"""Python's names for those encodings of Postgres that it calls otherwise."""


def _storable(connection: Connection, value: object) -> object:
    r"""Replace the characters of a text that the database cannot store by escapes such as \u20ac.

    Numbers that JSON cannot express become texts, which the functions accept.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        return value
    encoding = connection.info.parameter_status("server_encoding") or "UTF8"
    codec = _CODECS.get(encoding, encoding)
    escaped = value.encode(codec, "backslashreplace").decode(codec)
    return escaped.replace("\0", "\\x00")


# ------------------------------------------------------------------------------ what peers call


def join(
    connection: Connection,
    host: str,
    pid: int,
    queues: Mapping[str, int],
    kinds: Iterable[KindPolicy],
    lease_timeout: timedelta,
    contract_version: int = CONTRACT_VERSION,
    process: Mapping[str, object] | None = None,
) -> UUID:
    """Add a peer, with the slots of its queues and the policies of its kinds, and return its id.

    process: `host_id`, `start` and `lock`, by which peers on the same host recognize its process.
    Raises ContractMismatch if the database has another version of the contract.
    """
    identity: UUID = _value(
        connection,
        "select peers.join(%s, %s, %s::jsonb, %s::jsonb, %s, %s, %s::jsonb)",
        host,
        pid,
        json.dumps(dict(queues)),
        json.dumps([kind.as_json() for kind in kinds]),
        lease_timeout,
        contract_version,
        None if process is None else json.dumps(process),
    )
    return identity


def heartbeat(connection: Connection, peer_id: UUID) -> HeartbeatReply:
    """Renew the peer and all of its leases."""
    [(version, alive, tasks, tokens)] = _rows(
        connection, "select * from peers.heartbeat(%s)", peer_id
    )
    return HeartbeatReply(version, alive, frozenset(zip(tasks, tokens, strict=True)))


def claim(connection: Connection, peer_id: UUID, queue: str, max_tasks: int) -> list[Claimed]:
    """Lease up to max_tasks (1 to 10,000) ready tasks, in the order in which they are to start.

    Raises PeerLost if the peer's heartbeat has expired.
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


def complete(connection: Connection, peer_id: UUID, outcomes: bytes) -> list[Unrecorded]:
    """Complete tasks, given as a JSON array [{"task_id", "token", "result"}, …].

    Returns the outcomes that were not recorded.
    """
    rows = _rows(
        connection,
        "select * from peers.complete(%s, convert_from(%b, 'UTF8')::jsonb)",
        peer_id,
        outcomes,
    )
    return list(map(Unrecorded._make, rows))


def fail(
    connection: Connection, peer_id: UUID, failures: Sequence[Mapping[str, object]]
) -> list[Unrecorded]:
    """Record failed attempts, and return those that were not recorded.

    Each has task_id, token and, if known, error_type, error_message, traceback, exit_signal,
    exit_code, retry_in (seconds, instead of the backoff), reject (dead at once) and snooze (the
    attempt does not count). Characters that the database cannot store are recorded as escapes.
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
    return list(map(Unrecorded._make, rows))


def release(
    connection: Connection,
    peer_id: UUID,
    task_ids: Sequence[int],
    tokens: Sequence[UUID],
    reasons: Sequence[str | None] = (),
) -> int:
    """Give leases back and return how many. The attempts do not count; locked tasks stay leased.

    reasons: why the peer stopped each of them; None: it was not started.
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
    """Release the peer's leases under other tokens than these, and return how many.

    Call it only while no claim of this peer is in progress.
    """
    count: int = _value(connection, "select peers.reconcile(%s, %s::uuid[])", peer_id, list(tokens))
    return count


def reclaim(
    connection: Connection, peer_id: UUID, max_tasks: int = RECLAIM_MAX_TASKS
) -> list[Reclaimed]:
    """Take back the leases of lost peers. Call again while it returns max_tasks."""
    rows = _rows(connection, "select * from peers.reclaim(%s, %s)", peer_id, max_tasks)
    return list(map(Reclaimed._make, rows))


def next_reclaim(connection: Connection, peer_id: UUID) -> float | None:
    """Return in how many seconds there may be something to reclaim; None: no other peer exists."""
    seconds: float | None = _value(connection, "select peers.next_reclaim(%s)", peer_id)
    return seconds


def siblings(connection: Connection, peer_id: UUID) -> list[Sibling]:
    """Return the other peers on this peer's host that are not lost."""
    rows = _rows(connection, "select * from peers.siblings(%s)", peer_id)
    return list(map(Sibling._make, rows))


def declare_lost(
    connection: Connection, peer_id: UUID, lost_peer_ids: Sequence[UUID]
) -> list[UUID]:
    """Declare peers of this host lost whose processes have ended. Return those that are lost."""
    lost: list[UUID] = _value(
        connection, "select peers.declare_lost(%s, %s::uuid[])", peer_id, list(lost_peer_ids)
    )
    return lost


def leave(connection: Connection, peer_id: UUID) -> int:
    """Remove the peer, and return how many leases were released."""
    count: int = _value(connection, "select peers.leave(%s)", peer_id)
    return count


def promote(connection: Connection, max_tasks: int = PROMOTE_MAX_TASKS) -> int:
    """Make scheduled tasks that are due ready. Call again while it returns max_tasks."""
    count: int | None = _value(connection, "select peers.promote(%s)", max_tasks)
    return count or 0


def progress(
    connection: Connection, peer_id: UUID, task_id: int, token: UUID, done: int, total: int | None
) -> bool:
    """Record how far a handler is. Return False if its lease is gone or locked."""
    recorded: bool = _value(
        connection,
        "select peers.progress(%s, %s, %s, %s, %s)",
        peer_id,
        task_id,
        token,
        done,
        total,
    )
    return recorded


def hold_lease(connection: Connection, peer_id: UUID, task_id: int, token: UUID) -> str:
    """Keep the lease until the transaction ends, and return the transaction's id.

    Raises PeerLost if the lease is gone.
    """
    transaction: str = _value(
        connection, "select peers.hold_lease(%s, %s, %s)::text", peer_id, task_id, token
    )
    return transaction


def start_cooldown(
    connection: Connection, name: str, duration: timedelta, reason: str | None
) -> float:
    """Stop calls of an external system, and return how many seconds the cooldown lasts."""
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
    """Return for how many seconds no handler may call an external system; 0.0: it may call."""
    left: timedelta = _value(connection, "select peers.cooldown_left(%s)", name, binary=True)
    return left.total_seconds()


def parent_results(connection: Connection, child_id: int) -> list[ParentResult]:
    """Return the parents of a task with their states and results, ordered by id."""
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


# ----------------------------------------------------------------------- maintenance and checks


def prune(
    connection: Connection, older_than: timedelta, max_tasks: int = PRUNE_MAX_TASKS
) -> Pruned:
    """Delete tasks that ended longer ago than older_than, in one step of limited size."""
    [row] = _rows(connection, "select * from peers.prune(%s, %s)", older_than, max_tasks)
    return Pruned._make(row)


def check(connection: Connection, repair: bool = False) -> list[Problem]:
    """Recount what the triggers keep. Return each difference, and repair it on request."""
    return list(map(Problem._make, _rows(connection, "select * from peers.check(%s)", repair)))


def unrunnable(connection: Connection) -> list[Unrunnable]:
    """Return the kinds with ready tasks in a queue that no live peer can run."""
    rows = _rows(connection, "select * from peers.unrunnable()", binary=True)
    return list(map(Unrunnable._make, rows))


def contract_version(connection: Connection) -> int:
    """Return the version of the contract that the database has."""
    version: int = _value(connection, "select peers.contract_version()")
    return version
