"""Call the functions of the database that peers and commands need, each under its own name.

What a peer calls all the time is in `peers.database.statements` and `peers.database.maintenance`.
The first argument is the connection, and the others are the same as in SQL. An error of the
database is raised as a class of peers.errors. A lost connection stays psycopg's error (see
`is_connection_lost` of peers.database.connection). JSON is passed as bytes, so that args and
results are never parsed here.
Times and intervals are read in binary form, which no DateStyle or IntervalStyle changes.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID

from peers.database.rows import (
    HeartbeatReply,
    ParentResult,
    PeekRequest,
    Problem,
    Pruned,
    PrunedDead,
    Unrunnable,
)
from peers.database.storable import storable
from peers.errors import translated
from peers.types import (
    CONTRACT_VERSION,
    KindPolicy,
    TaskState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from peers.database.connection import Connection

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


def _encoding(connection: Connection) -> str:
    return connection.info.parameter_status("server_encoding") or "UTF8"


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

    process: `host_id`, `start` and `lock`, by which peers on the same host recognize its process,
    and the `version` of its package.
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
    [(version, alive, tasks, tokens, peeks)] = _rows(
        connection, "select * from peers.heartbeat(%s)", peer_id
    )
    return HeartbeatReply(
        version,
        alive,
        frozenset(zip(tasks, tokens, strict=True)),
        tuple(PeekRequest(p["id"], p["task_id"], UUID(p["token"])) for p in peeks or ()),
    )


def reply_to_peek(
    connection: Connection, peer_id: UUID, peek_id: int, facts: str, report: str
) -> bool:
    """Record what a peer replies to a request. Return False if there is no such request."""
    recorded: bool = _value(
        connection,
        "select peers.reply_to_peek(%s, %s, %s::jsonb, %s)",
        peer_id,
        peek_id,
        facts,
        report,
    )
    return recorded


def record_metrics(
    connection: Connection, peer_id: UUID, metrics: Sequence[Mapping[str, object]]
) -> None:
    """Add what a peer has counted since its last report. The COMMIT does not wait for the disk."""
    _rows(
        connection,
        "select peers.record_metrics(%s, %s::jsonb), set_config('synchronous_commit', 'off', true)",
        peer_id,
        json.dumps(metrics),
    )


def gauges(connection: Connection) -> list[tuple[str, dict[str, str], float]]:
    """Return what can be measured now: the name, the labels and the value of each gauge."""
    return [
        (name, labels, value)
        for name, labels, value in _rows(
            connection, "select name, labels, value from peers.gauges()"
        )
    ]


def leave(connection: Connection, peer_id: UUID) -> int:
    """Remove the peer, and return how many leases were released."""
    count: int = _value(connection, "select peers.leave(%s)", peer_id)
    return count


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
        storable(reason, _encoding(connection)),
        binary=True,
    )
    return left.total_seconds()


def shut_limit_of_task(
    connection: Connection, task_id: int, duration: timedelta, reason: str | None
) -> float:
    """Shut the only limit that a task is under, and return for how many seconds it is shut."""
    left: timedelta = _value(
        connection,
        "select peers.shut_limit_of_task(%s, %s, %s)",
        task_id,
        duration,
        storable(reason, _encoding(connection)),
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


def task_due_at(connection: Connection, task_id: int) -> datetime | None:
    """Return the due time of the schedule that submitted a task; None: no schedule has."""
    due_at: datetime | None = _value(
        connection, "select peers.task_due_at(%s)", task_id, binary=True
    )
    return None if due_at is None else due_at.astimezone(UTC)


# ----------------------------------------------------------------------- maintenance and checks


def prune(
    connection: Connection,
    older_than: timedelta,
    max_tasks: int = PRUNE_MAX_TASKS,
    *,
    dry_run: bool = False,
    reason: str | None = None,
) -> Pruned:
    """Delete tasks that ended longer ago than older_than, in one step of limited size."""
    [row] = _rows(
        connection,
        "select * from peers.prune(%s, %s, %s, %s)",
        older_than,
        max_tasks,
        dry_run,
        reason,
    )
    return Pruned._make(row)


def prune_dead(
    connection: Connection,
    older_than: timedelta,
    max_tasks: int = PRUNE_MAX_TASKS,
    *,
    dry_run: bool = False,
    reason: str | None = None,
) -> PrunedDead:
    """Delete dead letters that died longer ago than older_than, in one step of limited size."""
    [row] = _rows(
        connection,
        "select * from peers.prune_dead(%s, %s, %s, %s)",
        older_than,
        max_tasks,
        dry_run,
        reason,
    )
    return PrunedDead._make(row)


def prune_schedule_runs(
    connection: Connection, older_than: timedelta, max_runs: int = PRUNE_MAX_TASKS
) -> int:
    """Delete old runs of schedules whose tasks have ended, in one step; return how many."""
    deleted: int = _value(
        connection, "select peers.prune_schedule_runs(%s, %s)", older_than, max_runs
    )
    return deleted


def check(connection: Connection, repair: bool = False) -> list[Problem]:
    """Recount what the triggers keep. Return each difference, and repair it on request."""
    return list(map(Problem._make, _rows(connection, "select * from peers.check(%s)", repair)))


def unrunnable(connection: Connection) -> list[Unrunnable]:
    """Return the kinds with ready tasks in a queue that no live peer can run."""
    rows = _rows(connection, "select * from peers.unrunnable()", binary=True)
    return list(map(Unrunnable._make, rows))


def kind_defaults(connection: Connection, kind: str) -> dict[str, Any]:
    """Return the queue and priority that the handler of a kind declares; {}: none is known."""
    declared: dict[str, Any] = _value(connection, "select peers.kind_defaults(%s)", kind)
    return declared


def contract_version(connection: Connection) -> int:
    """Return the version of the contract that the database has."""
    version: int = _value(connection, "select peers.contract_version()")
    return version
