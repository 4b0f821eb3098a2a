"""The queries that only the command line needs.

Everything else goes through the operations of the client. These do not: --json keeps every digit of
a number and shows documents that are nested deeper than Python's parser goes, so JSON comes as text
(see exact_json), which a record of the client cannot hold. Durations are by the database's clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.cli.rows import rows
from peers.client.records import task_not_found
from peers.errors import GraphNotFound

if TYPE_CHECKING:
    from datetime import datetime
    from typing import LiteralString

    from peers.cli.rows import Row
    from peers.database.connection import Connection

NEWEST_COUNTED: Final = 20_000
"""How many of the newest tasks `recent_values` reads: they are stored together, 15 ms."""


# --------------------------------------------------------------------------------------- status


def now(connection: Connection) -> datetime:
    """Return the database's time."""
    [row] = rows(connection, "select peers.now() as now")
    time: datetime = row["now"]
    return time


def peers(connection: Connection) -> list[Row]:
    """Return all peers, the live ones first."""
    return rows(
        connection,
        """
        select peer_id, host, pid, queues, kinds, running, alive, last_heartbeat,
               peers.now() - last_heartbeat as last_heartbeat_ago_seconds, joined_at, lost_at,
               version,
               case when alive then peers.now() else last_heartbeat end - joined_at as up_seconds
        from peers.peer_status order by alive desc, host, pid""",
    )


def running(connection: Connection, limit: int | None = None) -> list[Row]:
    """Return the running tasks, those that run longest first."""
    return rows(
        connection,
        """
        select task_id, kind, queue, peer_id, host, pid, attempt, max_attempts, since,
               peers.now() - since as for_seconds, lease_expires_at, times_out_at,
               progress_done, progress_total, cancel_requested
        from peers.running order by since, task_id limit %(limit)s""",
        limit=limit,
    )


def is_known_queue(connection: Connection, queue: str) -> bool:
    """Return whether a task waits in the queue or a live peer serves it."""
    query: LiteralString = """
        select from peers.queue_status
        where queue = %(queue)s and running + ready + scheduled + blocked > 0
        union all select from peers.peer_status where alive and queues ? %(queue)s"""
    return bool(rows(connection, query, queue=queue))


def is_known_kind(connection: Connection, kind: str) -> bool:
    """Return whether a peer has ever joined with a handler for the kind."""
    query: LiteralString = "select from peers.kind where kind = %(kind)s"
    return bool(rows(connection, query, kind=kind))


def is_paused(connection: Connection, queue: str) -> bool:
    """Return whether the queue is paused."""
    query: LiteralString = "select from peers.paused_queue where queue = %(queue)s"
    return bool(rows(connection, query, queue=queue))


# ---------------------------------------------------------------------------------------- tasks


def task(connection: Connection, id: int) -> Row:
    """Return all columns of a task, each as JSON."""
    found = rows(
        connection,
        """
        select column_.key as name, column_.value
        from peers.task t
        cross join lateral jsonb_each(to_jsonb(t) - 'token' - 'created_xid') as column_
        where t.id = %(id)s""",
        id=id,
    )
    return {row["name"]: row["value"] for row in found}


def failures(connection: Connection, task_id: int) -> list[Row]:
    """Return the failed attempts of a task, oldest first."""
    return rows(
        connection,
        """
        select attempt, failed_at, peers.now() - failed_at as ago_seconds, host, pid, peer_id,
               error_type, error_message, traceback, exit_signal, exit_code, retry_at
        from peers.failure where task_id = %(id)s order by id""",
        id=task_id,
    )


# --------------------------------------------------------------------------------------- limits


def recent_values(
    connection: Connection, kind: str | None, queue: str | None, path: str
) -> tuple[int, int]:
    """Return how many of the newest tasks are of a kind or queue, and how many have a value."""
    [row] = rows(
        connection,
        """
        select count(*) as tasks, count(v.value) as values
        from (
            select t.kind, t.queue, t.args from peers.task t order by t.id desc limit %(newest)s
        ) t
        cross join lateral (select t.args #>> string_to_array(%(path)s, '.') as value) v
        where t.kind = %(kind)s or t.queue = %(queue)s""",
        newest=NEWEST_COUNTED,
        kind=kind,
        queue=queue,
        path=path,
    )
    return row["tasks"], row["values"]


# --------------------------------------------------------------------------------------- graphs


def graphs(connection: Connection, name: str | None, paused: bool | None, limit: int) -> list[Row]:
    """Return the progress of the newest graphs; `total` says how many there are."""
    return rows(
        connection,
        """
        with newest as materialized (
            select g.id, count(*) over () as total from peers.graph g
            where (%(name)s::text is null or g.name = %(name)s)
              and (%(paused)s::boolean is null or (g.paused_at is not null) = %(paused)s)
            order by g.id desc limit %(limit)s
        )
        select n.total, s.*, peers.now() - s.created_at as created_ago_seconds
        from newest n
        cross join lateral (select * from peers.graph_status v where v.graph_id = n.id) s
        order by n.id desc""",
        name=name,
        paused=paused,
        limit=limit,
    )


def graph(connection: Connection, id: int) -> Row:
    """Return the progress of a graph. Raises GraphNotFound."""
    found = rows(
        connection,
        """
        select s.*, peers.now() - s.created_at as created_ago_seconds
        from peers.graph_status s where s.graph_id = %(id)s""",
        id=id,
    )
    if not found:
        raise GraphNotFound(f"there is no graph {id}", "`peers graph list` lists them.")
    return found[0]


def schedules(connection: Connection, name: str | None = None) -> list[Row]:
    """Return the schedules by name, or the one of this name."""
    return rows(
        connection,
        """
        select v.*, s.anchor, s.args, s.queue, s.priority, s.max_attempts, s.timeout, s.metadata,
               s.misfire, s.catch_up, s.overlap, s.jitter, s.expect_within, s.created_at,
               peers.now() as read_at, v.next_due_at - peers.now() as next_in_seconds,
               peers.now() - v.last_due_at as last_ago_seconds,
               exists (select from peers.peer p where p.lost_at is null
                       and p.heartbeat_at + p.lease_timeout > peers.now()) as any_peer
        from peers.schedule_status v join peers.schedule s on s.name = v.name
        where %(name)s::text is null or v.name = %(name)s
        order by v.name""",
        name=name,
    )


def alerts(connection: Connection) -> list[Row]:
    """Return the open alerts, the oldest first."""
    return rows(
        connection,
        "select alert, subject, message, details, raised_at from peers.alert order by raised_at",
    )


def schedule_counts(connection: Connection) -> Row:
    """Return how many schedules are active (not paused), and how many of them fail to fire."""
    [counts] = rows(
        connection,
        """
        select count(*) filter (where paused_at is null) as active,
               count(*) filter (where failures > 0) as failing
        from peers.schedule""",
    )
    return counts


# ----------------------------------------------------------------------------------------- logs


def running_attempt(connection: Connection, task_id: int) -> Row:
    """Return the state of a task, and its last attempt. Raises TaskNotFound."""
    found = rows(
        connection,
        "select kind, state::text as state, attempt, token from peers.task where id = %(id)s",
        id=task_id,
    )
    if not found:
        raise task_not_found(task_id)
    return found[0]


def logs(
    connection: Connection, task_id: int, token: object = None, *, texts: bool = True
) -> list[Row]:
    """Return the logs of a task, or that of one attempt, the last one last."""
    return rows(
        connection,
        """
        select attempt, token, peer_id, host, outcome, size, cut, stored_at,
               case when %(texts)s then text end as text
        from peers.task_log
        where task_id = %(id)s and (%(token)s::uuid is null or token = %(token)s::uuid)
        order by stored_at""",
        id=task_id,
        token=token,
        texts=texts,
    )


def follow_log(connection: Connection, task_id: int) -> None:
    """Ask the peer that runs a task to store its log now, and again for a while."""
    rows(connection, "select peers.follow_log(%(id)s)", id=task_id)
