-- How many slots the tasks of each queue could use now, for a program that starts and stops peers.
--
-- All counts are bounded, so that a million ready tasks cost no more than some ten thousand: they need no more peers
-- than those. Claims are exact; this is an estimate for people and for programs that scale.

-- Returns how many ready tasks of each queue could start now if there were slots.
create or replace function peers._startable(_now timestamptz) returns table (queue text, tasks bigint)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _most_of_kind constant integer := 10000;
    _most_in_all constant integer := 100000;
    _queues text[];
    _kinds text[];
    _limited boolean[];
    _most integer;
begin
    select array_agg(k.queue), array_agg(k.kind),
           array_agg(exists (select from peers.limit l where l.kind = k.kind or l.queue = k.queue))
    into _queues, _kinds, _limited
    from (
        select r.queue, r.kind from peers._ready_kinds() r
        union
        select l.queue, l.kind from peers._ready_limited_kinds() l
    ) k
    where not exists (select from peers.paused_queue p where p.queue = k.queue);
    _most := greatest(10, least(_most_of_kind, _most_in_all / greatest(cardinality(_kinds), 1)));
    return query
    with free as (
        select k.queue, r.tasks
        from unnest(_queues, _kinds, _limited) k(queue, kind, limited)
        cross join lateral (
            select count(*) as tasks
            from (
                select from peers.ready y
                cross join lateral (
                    select from peers.task t
                    where t.id = y.task_id and t.state = 'ready' and t.priority = y.priority
                      and not exists (select from peers.graph g where g.id = t.graph_id and g.paused_at is not null)
                    offset 0
                ) t
                where y.queue = k.queue and y.kind = k.kind
                limit _most
            ) y
        ) r
        where not k.limited
    ), waiting as (
        select k.queue, k.kind, w.*
        from unnest(_queues, _kinds, _limited) k(queue, kind, limited)
        cross join lateral peers._waiting_under_limits(k.queue, k.kind, _now) w
        where k.limited
    ), of_limit as (
        select w.queue, w.kind, w.limit_name, sum(least(w.waiting, w.room)) as tasks
        from waiting w group by w.queue, w.kind, w.limit_name
    ), of_kind as (
        -- a task is under all limits of its kind
        select o.queue, o.kind, min(o.tasks) as tasks from of_limit o group by o.queue, o.kind
    ), of_queue as (
        -- a limit on the queue holds for all its kinds together
        select k.queue, least(sum(k.tasks), (
            select min(s.tasks)
            from (
                select sum(least(w.waiting, w.room)) as tasks
                from (
                    select w.limit_name, w.limit_key, sum(w.waiting) as waiting, min(w.room) as room
                    from waiting w join peers.limit l on l.name = w.limit_name and l.queue = w.queue
                    where w.queue = k.queue
                    group by w.limit_name, w.limit_key
                ) w
                group by w.limit_name
            ) s
        )) as tasks
        from of_kind k group by k.queue
    )
    select u.queue, sum(u.tasks)::bigint
    from (select f.queue, f.tasks from free f union all select o.queue, o.tasks from of_queue o) u
    group by u.queue;
end
$$;

create or replace function peers.queue_demand()
returns table (
    queue text, wanted bigint, running bigint, startable bigint, due_soon bigint, slots bigint, peers bigint,
    paused boolean
)
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _most_scheduled constant integer := 10000;
    _now constant timestamptz := peers.now();
begin
    return query
    with running as (
        select t.queue, sum(least(l.open, l.most_running))::bigint as tasks
        from peers.lease l
        cross join lateral (select t.queue from peers.task t where t.id = any (l.task_ids) limit 1) t
        group by t.queue
    ), startable as (
        select s.queue, s.tasks from peers._startable(_now) s
    ), soon as (
        select t.queue, count(*) as tasks
        from (
            select s.task_id from peers.scheduled s
            where s.due_at <= _now + interval '1 minute' order by s.due_at limit _most_scheduled
        ) s
        cross join lateral (
            select t.queue from peers.task t where t.id = s.task_id and t.state = 'scheduled' offset 0
        ) t
        group by t.queue
    ), served as (
        select q.name as queue, sum(q.slots::bigint)::bigint as slots, count(*) as peers
        from peers.peer p cross join lateral jsonb_each_text(p.queues) q(name, slots)
        where peers._is_alive(p, _now)
        group by q.name
    ), name as (
        select r.queue collate "C" as queue from running r
        union select s.queue from startable s
        union select d.queue from soon d
        union select v.queue from served v
        union select p.queue from peers.paused_queue p
    )
    select n.queue::text, coalesce(r.tasks, 0) + coalesce(s.tasks, 0), coalesce(r.tasks, 0), coalesce(s.tasks, 0),
           coalesce(d.tasks, 0), coalesce(v.slots, 0), coalesce(v.peers, 0), p.queue is not null
    from name n
    left join running r on r.queue = n.queue
    left join startable s on s.queue = n.queue
    left join soon d on d.queue = n.queue
    left join served v on v.queue = n.queue
    left join peers.paused_queue p on p.queue = n.queue
    order by n.queue;
end
$$;

comment on function peers.queue_demand is 'What the view peers.demand shows, which has the documentation.';

create or replace view peers.demand as
select d.queue, d.wanted, d.running, d.startable, d.due_soon, d.slots, d.peers, d.paused from peers.queue_demand() d;

comment on view peers.demand is
    'How many slots each queue can use now, for a program that starts and stops peers: SELECT wanted FROM peers.demand '
    'WHERE queue = ''default''. A queue without tasks and peers has no row. Counts are bounded: at most 10,000 ready '
    'tasks of each kind, and 1,000 keys of each limited kind.';
comment on column peers.demand.queue is 'The queue.';
comment on column peers.demand.wanted is
    'The slots that are of use now: running and startable. Tasks that a paused queue, a paused graph or a limit keeps '
    'from starting do not count.';
comment on column peers.demand.running is 'How many tasks peers have claimed.';
comment on column peers.demand.startable is 'How many ready tasks could start now if there were slots.';
comment on column peers.demand.due_soon is
    'How many scheduled tasks are due within a minute. They are not part of wanted.';
comment on column peers.demand.slots is 'How many slots live peers have for this queue.';
comment on column peers.demand.peers is 'How many live peers serve it.';
comment on column peers.demand.paused is 'The queue is paused.';
