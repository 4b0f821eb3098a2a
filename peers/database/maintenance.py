"""Maintain the database and take tasks over: its functions as statements for a pipeline.

Every result is in binary form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from psycopg.pq.abc import PGresult

from peers.database.binary import pack_integers, pack_tokens, read_float, read_integer
from peers.database.pipeline import Statement
from peers.database.rows import (
    DeclaredLimit,
    DueSchedules,
    LostPeer,
    Promoted,
    Pruned,
    Reclaimed,
    Reclaims,
    ScheduleRun,
    Sibling,
    Unrunnable,
    UnstartedTasks,
)

_PROMOTE: Final = (
    b"select peers.promote($1::integer), date_part('epoch', peers.now()),"
    b" date_part('epoch', peers.next_due())"
)
_RECLAIM: Final = (
    b"select task_id, kind, attempt, token, lost_peer_id, host, queue, outcome,"
    b" null::double precision"
    b" from peers.reclaim($1::uuid, $2::integer)"
    b" union all select null, null, null, null, null, null, null, null,"
    b" peers.next_reclaim($1::uuid)"
)
_SIBLINGS: Final = (
    b"select sibling_id, pid, process_start, liveness_lock from peers.siblings($1::uuid)"
)
_DECLARE_LOST: Final = (
    b"select lost_peer_id, host, released"
    b" from peers.declare_lost($1::uuid, $2::uuid[], $3::uuid[], $4::integer[], $5::integer[])"
)
_APPLY_RETENTION: Final = (
    b"select looked_at, deleted, finished"
    b" from peers.apply_retention(make_interval(secs => $1::double precision),"
    b" make_interval(secs => $2::double precision), $3::integer)"
)
_PLACE_LIMITED: Final = b"select peers.place_limited($1::integer)"
_DECLARE_LIMITS: Final = (
    b"select limit_name, change, error from peers.declare_limits($1::uuid, $2::jsonb)"
)
_UNRUNNABLE: Final = (
    b"select queue, kind, tasks, date_part('epoch', oldest_ready_at) from peers.unrunnable()"
)
_DUE_SCHEDULES: Final = b"select peers.due_schedules($1::integer, $2::boolean)::text"
_FIRE_SCHEDULES: Final = (
    b"select schedule, date_part('epoch', due_at), outcome::text, reason, task_id"
    b" from peers.fire_schedules($1::jsonb)"
    b" union all select schedule, date_part('epoch', due_at), outcome::text, reason, task_id"
    b" from peers.run_backfills($2::jsonb)"
)
_DECLARE_SCHEDULES: Final = (
    b"select schedule, change from peers.declare_schedules($1::uuid, $2::jsonb)"
)
_PRUNE_SCHEDULE_RUNS: Final = (
    b"select peers.prune_schedule_runs(make_interval(secs => $1::double precision), $2::integer)"
)
_DELETE_PEEKS: Final = b"select peers.delete_peeks()"
_TRUE: Final = b"\1"


def promote(max_tasks: int) -> Statement:
    """Make scheduled tasks that are due ready, and ask when the next ones are due."""
    return Statement(_PROMOTE, (b"%d" % max_tasks,), (0,))


def read_promoted(result: PGresult) -> Promoted:
    """Return the reply to `promote`."""
    promoted, now, due_at = (result.get_value(0, column) for column in range(3))
    return Promoted(
        read_integer(promoted),
        read_float(now),
        float("inf") if due_at is None else read_float(due_at),
    )


def reclaim(peer_id: UUID, max_tasks: int) -> Statement:
    """Take back the leases of lost peers, and ask when there may be more."""
    return Statement(_RECLAIM, (peer_id.bytes, b"%d" % max_tasks), (1, 0))


def read_reclaimed(result: PGresult) -> Reclaims:
    """Return the reply to `reclaim`."""
    tasks, seconds = [], float("inf")
    for row in range(result.ntuples):
        task_id, kind, attempt, token, peer_id, host, queue, outcome, wait = (
            result.get_value(row, n) for n in range(9)
        )
        if task_id is not None:
            tasks.append(
                Reclaimed(
                    read_integer(task_id), _text(kind), read_integer(attempt),
                    UUID(bytes=token), UUID(bytes=peer_id),
                    None if host is None else host.decode(), _text(queue), _text(outcome),
                )
            )  # fmt: skip
        elif wait is not None:
            seconds = read_float(wait)
    return Reclaims(tasks, seconds)


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode()


def siblings(peer_id: UUID) -> Statement:
    """Return the other peers on this peer's host that are not lost."""
    return Statement(_SIBLINGS, (peer_id.bytes,), (1,))


def read_siblings(result: PGresult) -> list[Sibling]:
    """Return these peers."""
    return [
        Sibling(
            UUID(bytes=result.get_value(row, 0)),
            read_integer(result.get_value(row, 1)),
            read_integer(result.get_value(row, 2)),
            (result.get_value(row, 3) or b"").decode(),
        )
        for row in range(result.ntuples)
    ]


def declare_lost(
    peer_id: UUID, lost_peer_ids: Sequence[UUID], unstarted: Sequence[UnstartedTasks]
) -> Statement:
    """Declare peers of this host lost whose processes have ended.

    Release their tasks that no handler has started.
    """
    parameters = (
        peer_id.bytes,
        pack_tokens([lost.bytes for lost in lost_peer_ids]),
        pack_tokens([each.token for each in unstarted]),
        pack_integers([each.first for each in unstarted]),
        pack_integers([each.number for each in unstarted]),
    )
    return Statement(_DECLARE_LOST, parameters, (1,) * len(parameters))


def read_lost(result: PGresult) -> list[LostPeer]:
    """Return which of these peers are lost now."""
    return [
        LostPeer(
            UUID(bytes=result.get_value(row, 0)),
            None if (host := result.get_value(row, 1)) is None else host.decode(),
            read_integer(result.get_value(row, 2)),
        )
        for row in range(result.ntuples)
    ]


def apply_retention(
    keep_completed: timedelta | None, keep_dead: timedelta | None, max_tasks: int
) -> Statement:
    """Delete tasks that ended longer ago than this, in one step of limited size; None: never."""
    ages = [
        None if age is None else b"%f" % age.total_seconds() for age in (keep_completed, keep_dead)
    ]
    return Statement(_APPLY_RETENTION, (*ages, b"%d" % max_tasks), (0, 0, 0))


def read_pruned(result: PGresult) -> Pruned:
    """Return the result of one step."""
    looked_at, deleted, finished = (result.get_value(0, column) for column in range(3))
    return Pruned(read_integer(looked_at), read_integer(deleted), finished == _TRUE)


def place_limited(max_tasks: int) -> Statement:
    """Move tasks to where they wait under the limits of now, in one step of limited size."""
    return Statement(_PLACE_LIMITED, (b"%d" % max_tasks,), (0,))


def read_placed(result: PGresult) -> int:
    """Return how many rows were moved. Call again until it is 0."""
    return read_integer(result.get_value(0, 0))


def declare_limits(peer_id: UUID, limits: Sequence[Mapping[str, Any]]) -> Statement:
    """Create and change limits as the app of this peer declares them."""
    return Statement(_DECLARE_LIMITS, (peer_id.bytes, json.dumps(limits).encode()), (1, 0))


def read_declared_limits(result: PGresult) -> list[DeclaredLimit]:
    """Return the limits that were created, changed or refused."""
    return [
        DeclaredLimit(
            (result.get_value(row, 0) or b"").decode(),
            (result.get_value(row, 1) or b"").decode(),
            (result.get_value(row, 2) or b"").decode(),
        )
        for row in range(result.ntuples)
    ]


def unrunnable() -> Statement:
    """Find the kinds with ready tasks in a queue that no live peer can run."""
    return Statement(_UNRUNNABLE)


def read_unrunnable(result: PGresult) -> list[Unrunnable]:
    """Return these kinds."""
    return [
        Unrunnable(
            (result.get_value(row, 0) or b"").decode(),
            (result.get_value(row, 1) or b"").decode(),
            read_integer(result.get_value(row, 2)),
            datetime.fromtimestamp(read_float(result.get_value(row, 3)), UTC),
        )
        for row in range(result.ntuples)
    ]


def due_schedules(max_schedules: int, *, unlocked: bool) -> Statement:
    """Ask which schedules are due (unlocked: and not locked), and when to ask again."""
    return Statement(_DUE_SCHEDULES, (b"%d" % max_schedules, b"t" if unlocked else b"f"), (0, 0))


def read_due_schedules(result: PGresult) -> DueSchedules:
    """Return the reply to `due_schedules`."""
    reply = json.loads(result.get_value(0, 0) or b"{}")
    next_at, then_at = (
        float("inf") if reply[name] is None else reply[name] for name in ("next", "then")
    )
    return DueSchedules(
        reply["schedules"], reply["backfills"], reply["late"], reply["now"], next_at, then_at
    )


def fire_schedules(
    fires: Sequence[Mapping[str, Any]], backfills: Sequence[Mapping[str, Any]]
) -> Statement:
    """Fire schedules that are due, and continue backfills."""
    documents = [json.dumps(each).encode() for each in (fires, backfills)]
    return Statement(_FIRE_SCHEDULES, documents, (0, 0))


def read_fired(result: PGresult) -> list[ScheduleRun]:
    """Return what became of the due times."""
    return [
        ScheduleRun(
            (result.get_value(row, 0) or b"").decode(),
            None if (due_at := result.get_value(row, 1)) is None
            else datetime.fromtimestamp(read_float(due_at), UTC),
            (result.get_value(row, 2) or b"").decode(),
            None if (reason := result.get_value(row, 3)) is None else reason.decode(),
            None if (task_id := result.get_value(row, 4)) is None else read_integer(task_id),
        )
        for row in range(result.ntuples)
    ]  # fmt: skip


def declare_schedules(peer_id: UUID, schedules: Sequence[Mapping[str, Any]]) -> Statement:
    """Create and change schedules as the app of this peer declares them."""
    document = json.dumps(schedules).encode()
    return Statement(_DECLARE_SCHEDULES, (peer_id.bytes, document), (1, 0))


def read_declared(result: PGresult) -> list[tuple[str, str]]:
    """Return the schedules that were created or changed, and which of both."""
    return [
        ((result.get_value(row, 0) or b"").decode(), (result.get_value(row, 1) or b"").decode())
        for row in range(result.ntuples)
    ]


def prune_schedule_runs(older_than: timedelta, max_runs: int) -> Statement:
    """Delete old rows of the ledger of the schedules, in one step of limited size."""
    seconds = b"%f" % older_than.total_seconds()
    return Statement(_PRUNE_SCHEDULE_RUNS, (seconds, b"%d" % max_runs), (0, 0))


def read_count(result: PGresult) -> int:
    """Return the number that a function has returned."""
    return read_integer(result.get_value(0, 0))


def delete_peeks() -> Statement:
    """Delete what operators asked about running tasks some minutes ago, with the replies."""
    return Statement(_DELETE_PEEKS)
