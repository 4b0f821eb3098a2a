"""Queries about queues that stay fast when a million tasks wait.

The view peers.queue_status reads the row of each waiting task: 2 s for a million. Up to
EXACT_MAX waiting tasks it is fast, and it is exact. With more, these queries count rows of the
narrow tables instead, which may include a few stale ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.cli.rows import rows

if TYPE_CHECKING:
    from datetime import timedelta

    from peers.cli.rows import Row
    from peers.database.connection import Connection

EXACT_MAX: Final = 10_000
"""The view takes 80 ms for so many waiting tasks."""


def queues(connection: Connection) -> list[Row]:
    """Return the number of tasks by state, for each queue with tasks or with peers.

    `is_estimate` says that the numbers of waiting tasks are not exact.
    """
    if _is_large(connection):
        return _estimated_queues(connection)
    return rows(
        connection,
        """
        select queue, ready, scheduled, running, blocked, dead,
               oldest_ready as oldest_ready_seconds, paused, ready_in_paused_graphs,
               false as is_estimate
        from peers.queue_status order by queue""",
    )


def _is_large(connection: Connection) -> bool:
    [found] = rows(
        connection,
        """
        select (select count(*) from (select from peers.ready limit %(most)s) r)
             + (select count(*) from (select from peers.ready_limited limit %(most)s) l)
             + (select count(*) from (select from peers.scheduled limit %(most)s) s)
             >= %(most)s as is_large""",
        most=EXACT_MAX,
    )
    return bool(found["is_large"])


def _estimated_queues(connection: Connection) -> list[Row]:
    """Count rows. Only a sample of `scheduled`, which does not have the queue of its tasks."""
    return rows(
        connection,
        """
        with waiting as (
            select queue, sum(tasks)::bigint as ready
            from (
                select r.queue, count(*) as tasks from peers.ready r group by r.queue
                union all
                select l.queue, count(*) from peers.ready_limited l group by l.queue
            ) w group by queue
        ), share as (
            select least(1.0, %(sample)s / greatest(c.reltuples, 1)) as of_rows
            from pg_class c where c.oid = 'peers.scheduled'::regclass
        ), later as (
            select t.queue, (count(*) / max(share.of_rows))::bigint as scheduled
            from share,
                 peers.scheduled s tablesample system ((select 100 * of_rows from share))
                 join peers.task t on t.id = s.task_id
            where t.state = 'scheduled' group by t.queue
        ), leased as (
            select t.queue, count(*) as running
            from peers.lease l
            cross join lateral unnest(l.task_ids) i(task_id)
            join peers.task t on t.id = i.task_id and t.token = l.token and t.state = 'running'
            group by t.queue
        ), held as (
            select b.queue, count(*) as blocked from peers.blocked b group by b.queue
        ), died as (
            select d.queue, count(*) as dead from peers.dead d group by d.queue
        ), name as (
            select queue from waiting union select queue from later union select queue from leased
            union select queue from held union select queue from died
            union select p.queue from peers.paused_queue p
            union select jsonb_object_keys(p.queues) from peers.peer p where p.lost_at is null
        )
        select n.queue, coalesce(w.ready, 0) as ready, coalesce(s.scheduled, 0) as scheduled,
               coalesce(r.running, 0) as running, coalesce(b.blocked, 0) as blocked,
               coalesce(d.dead, 0) as dead, null::interval as oldest_ready_seconds,
               p.queue is not null as paused, null::bigint as ready_in_paused_graphs,
               true as is_estimate
        from name n
        left join waiting w using (queue)
        left join later s using (queue)
        left join leased r using (queue)
        left join held b using (queue)
        left join died d using (queue)
        left join peers.paused_queue p using (queue)
        order by n.queue""",
        sample=EXACT_MAX,
    )


def oldest_ready(connection: Connection) -> list[Row]:
    """Return the ready task that waits longest, for each queue; the longest wait comes first.

    Rows of `ready` are in the order in which tasks became ready. So the first task of each queue,
    kind and priority is enough, and the query jumps from one to the next in the primary key.
    """
    return rows(
        connection,
        """
        with recursive place as (
            (select r.queue, r.kind, r.priority from peers.ready r
             order by r.queue, r.kind, r.priority limit 1)
            union all
            select n.queue, n.kind, n.priority
            from place p
            cross join lateral (
                select r.queue, r.kind, r.priority from peers.ready r
                where (r.queue, r.kind, r.priority) > (p.queue, p.kind, p.priority)
                order by r.queue, r.kind, r.priority limit 1
            ) n
        ), limited_place as (
            (select l.queue, l.kind, l.layout, l.rank, l.key, l.priority from peers.ready_limited l
             order by l.queue, l.kind, l.layout, l.rank, l.key, l.priority limit 1)
            union all
            select n.queue, n.kind, n.layout, n.rank, n.key, n.priority
            from limited_place p
            cross join lateral (
                select l.queue, l.kind, l.layout, l.rank, l.key, l.priority
                from peers.ready_limited l
                where (l.queue, l.kind, l.layout, l.rank, l.key, l.priority)
                      > (p.queue, p.kind, p.layout, p.rank, p.key, p.priority)
                order by l.queue, l.kind, l.layout, l.rank, l.key, l.priority limit 1
            ) n
        ), first as (
            select f.* from place p
            cross join lateral (
                select t.id, t.queue, t.kind, greatest(t.created_at, t.scheduled_at) as since
                from peers.ready r join peers.task t on t.id = r.task_id
                where r.queue = p.queue and r.kind = p.kind and r.priority = p.priority
                  and t.state = 'ready' and t.priority = r.priority
                  and not exists (select from peers.graph g
                                  where g.id = t.graph_id and g.paused_at is not null)
                order by r.position limit 1
            ) f
            union all
            select f.* from limited_place p
            cross join lateral (
                select t.id, t.queue, t.kind, greatest(t.created_at, t.scheduled_at) as since
                from peers.ready_limited l join peers.task t on t.id = l.task_id
                where l.queue = p.queue and l.kind = p.kind and l.layout = p.layout
                  and l.rank = p.rank and l.key = p.key and l.priority = p.priority
                  and t.state = 'ready' and t.priority = l.priority
                  and not exists (select from peers.graph g
                                  where g.id = t.graph_id and g.paused_at is not null)
                order by l.position limit 1
            ) f
        )
        select queue, task_id, kind, since, waits_seconds
        from (
            select distinct on (f.queue) f.queue, f.id as task_id, f.kind, f.since,
                   greatest(peers.now() - f.since, '0') as waits_seconds
            from first f where isfinite(f.since) order by f.queue, f.since
        ) o order by since""",
    )


def throughput(connection: Connection, window: timedelta) -> list[Row]:
    """Return what was completed and failed within the window, for each queue."""
    return rows(
        connection,
        """
        select queue, sum(completed)::bigint as completed, sum(failed)::bigint as failed,
               sum(completed)::float8 / extract(epoch from %(window)s::interval)::float8
                   as completed_per_second,
               sum(failed)::float8 / extract(epoch from %(window)s::interval)::float8
                   as failed_per_second
        from peers.throughput(%(window)s::interval) group by queue order by queue""",
        window=window,
    )
