"""The functions that a peer calls in its transactions, called one at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import WeakKeyDictionary

from peers.database import maintenance, statements
from peers.database.binary import pack_ids, pack_tokens
from peers.database.pipeline import Pipeline, Statement
from peers.database.rows import Claimed, Promoted, Reclaimed, Unrecorded
from peers.pool.claim import Claim
from peers.pool.durations import DurationEstimate
from peers.pool.local_queue import LocalQueue

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from peers.database.deadlines import BoundedConnection

_pipelines: WeakKeyDictionary[BoundedConnection, Pipeline] = WeakKeyDictionary()


def run(connection: BoundedConnection, statement: Statement) -> PGresult:
    """Execute a statement, which is prepared once for each connection."""
    if connection not in _pipelines:
        _pipelines[connection] = Pipeline(connection)
    return _pipelines[connection].run(statement)


def claim(connection: BoundedConnection, peer: UUID, queue: str, most: int) -> list[Claimed]:
    """Claim tasks, and look at each."""
    reply = statements.read_claim(
        run(connection, statements.claim(peer, queue, most, None, durable=True))
    )
    claim = Claim(reply, LocalQueue(queue, 1, DurationEstimate(), {}), 0.0)
    return [claim.lease(index).task for index in range(claim.count)]


def complete(
    connection: BoundedConnection, peer: UUID, tasks: Sequence[Claimed], result: object = None
) -> list[Unrecorded]:
    """Complete tasks, all with this result."""
    statement = statements.complete(
        peer,
        pack_tokens([task.token.bytes for task in tasks]),
        pack_ids([task.task_id for task in tasks]),
        json.dumps([result] * len(tasks)).encode(),
    )
    return statements.read_unrecorded(run(connection, statement))


def fail(
    connection: BoundedConnection, peer: UUID, failures: Sequence[Mapping[str, Any]]
) -> list[Unrecorded]:
    """Record failures, and return those that were not recorded."""
    encoding = connection.info.parameter_status("server_encoding") or "UTF8"
    verdicts = statements.read_unrecorded(
        run(connection, statements.fail(peer, failures, encoding))
    )
    return [each for each in verdicts if each.verdict in ("stale", "already", "busy")]


def release(
    connection: BoundedConnection, peer: UUID, tasks: Sequence[Claimed]
) -> list[Unrecorded]:
    """Release tasks."""
    statement = statements.release(
        peer, [task.task_id for task in tasks], [task.token.bytes for task in tasks], []
    )
    return statements.read_unrecorded(run(connection, statement))


def reconcile(connection: BoundedConnection, peer: UUID, tokens: Sequence[UUID]) -> int:
    """Release what the peer does not know."""
    statement = statements.reconcile(peer, [token.bytes for token in tokens])
    return statements.read_count(run(connection, statement))


def reclaim(connection: BoundedConnection, peer: UUID) -> list[Reclaimed]:
    """Take back the leases of lost peers."""
    return maintenance.read_reclaimed(run(connection, maintenance.reclaim(peer, 1000))).tasks


def promote(connection: BoundedConnection) -> Promoted:
    """Promote what is due."""
    return maintenance.read_promoted(run(connection, maintenance.promote(1000)))
