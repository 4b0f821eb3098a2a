-- What the database can tell about its present state, for monitoring. The functions stay cheap with a million ready
-- tasks: they count up to a bound, and estimate what is beyond it from some pages of the table.

-- Returns a duration in seconds. Before Postgres 17 there is no difference to infinity, and a row may have it.
create or replace function peers._seconds_between(_from timestamptz, _to timestamptz) returns double precision
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return extract(epoch from _to)::double precision - extract(epoch from _from)::double precision;
end
$$;

-- Returns which share of a table to read, in percent, so that it is about so many pages.
create or replace function peers._sample_percent(_table regclass, _pages integer) returns real
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return least(
        100, 100.0 * _pages * current_setting('block_size')::integer / greatest(pg_relation_size(_table), 1)
    );
end
$$;

-- Returns how many rows ready and ready_limited have, by queue: exact up to 1,000 rows of a queue.
create or replace function peers._count_ready() returns table (queue text, tasks double precision)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _exact constant integer := 1000;
    _pages constant integer := 100;
    _percent constant real := peers._sample_percent('peers.ready', _pages);
    _limited_percent constant real := peers._sample_percent('peers.ready_limited', _pages);
begin
    return query
    with recursive name(queue) as (
        (select r.queue from peers.ready r order by r.queue limit 1)
        union all
        select n.queue
        from name
        cross join lateral (
            select r.queue from peers.ready r where r.queue > name.queue order by r.queue limit 1
        ) n
    ), counted as materialized (
        select n.queue, e.tasks
        from name n
        cross join lateral (
            select count(*) as tasks from (
                select from peers.ready r where r.queue = n.queue limit _exact + 1) r
        ) e
    ), estimated as (
        select r.queue, count(*) * 100 / _percent as tasks
        from peers.ready r tablesample system (_percent)
        where exists (select from counted c where c.tasks > _exact)
        group by r.queue
    )
    select a.queue, sum(a.tasks)
    from (
        select c.queue, case when c.tasks > _exact then greatest(c.tasks, e.tasks) else c.tasks end as tasks
        from counted c left join estimated e on e.queue = c.queue
        union all
        select l.queue, count(*) * 100 / _limited_percent
        from peers.ready_limited l tablesample system (_limited_percent)
        group by l.queue
    ) a
    group by a.queue;
end
$$;

-- Returns since when the task that has been ready for longest has waited, by queue: of each kind and priority it reads
-- the first row. Of limited tasks it reads some pages.
create or replace function peers._oldest_ready() returns table (queue text, ready_at timestamptz)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _most constant integer := 2000;
    _percent constant real := peers._sample_percent('peers.ready_limited', 100);
begin
    return query
    with recursive place(queue, kind, priority) as (
        (select r.queue, r.kind, r.priority from peers.ready r order by r.queue, r.kind, r.priority limit 1)
        union all
        select n.queue, n.kind, n.priority
        from place
        cross join lateral (
            select r.queue, r.kind, r.priority from peers.ready r
            where (r.queue, r.kind, r.priority) > (place.queue, place.kind, place.priority)
            order by r.queue, r.kind, r.priority limit 1
        ) n
    )
    select a.queue, min(a.ready_at)
    from (
        select p.queue, f.ready_at
        from (select p.queue, p.kind, p.priority from place p limit _most) p
        cross join lateral (
            select r.ready_at
            from peers.ready r
            cross join lateral (select t.state, t.priority from peers.task t where t.id = r.task_id offset 0) t
            where r.queue = p.queue and r.kind = p.kind and r.priority = p.priority
              and t.state = 'ready' and t.priority = r.priority
            order by r.position limit 1
        ) f
        union all
        select l.queue, min(l.ready_at) from peers.ready_limited l tablesample system (_percent) group by l.queue
    ) a
    group by a.queue;
end
$$;

-- Returns how many tasks are scheduled, blocked and dead, by queue, and dead ones by kind as well.
create or replace function peers._count_waiting()
returns table (state text, queue text, kind text, tasks double precision)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _scheduled constant real := peers._sample_percent('peers.scheduled', 10);  -- the queue is read from the task
    _blocked constant real := peers._sample_percent('peers.blocked', 100);
    _dead constant real := peers._sample_percent('peers.dead', 100);
begin
    return query
    select 'scheduled', t.queue, null::text, count(*) * 100 / _scheduled
    from peers.scheduled s tablesample system (_scheduled)
    cross join lateral (select t.queue, t.state from peers.task t where t.id = s.task_id offset 0) t
    where t.state = 'scheduled'
    group by t.queue;
    return query
    select 'blocked', b.queue, null::text, count(*) * 100 / _blocked
    from peers.blocked b tablesample system (_blocked) group by b.queue;
    return query
    select 'dead', d.queue, d.kind, count(*) * 100 / _dead
    from peers.dead d tablesample system (_dead) group by d.queue, d.kind;
end
$$;

-- Returns how many tasks wait for a dead parent, by queue: of at most 1,000 dead letters, the newest first.
create or replace function peers._count_held() returns table (queue text, tasks bigint)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
as $$
begin
    return query
    select h.queue, count(*)
    from (
        select distinct b.task_id, b.queue
        from (select d.task_id from peers.dead d order by d.task_id desc limit 1000) d
        cross join lateral (
            select e.child_id from peers.dependency e
            where e.parent_id = d.task_id and e.on_parent_failure = 'hold' and not e.waived
            limit 1000
        ) e
        join peers.blocked b on b.task_id = e.child_id
        limit 10000
    ) h
    group by h.queue;
end
$$;

-- Returns how many keys of each limit have no room for another task, or 1 if it is shut. A limit without keys has one.
-- With weights, another task is one of the mean weight of those that run: the sum of weights rarely reaches the limit
-- exactly.
create or replace function peers._count_full() returns table ("limit" text, keys bigint)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _now constant timestamptz := peers.now();
begin
    return query
    with running as (
        select o.name, e.limit_keys[o.n] as key, sum(least(e.open, e.most_running)) as tasks,
               sum(coalesce(w.weight, least(e.open, e.most_running))) as used
        from (select e.* from peers.lease e where e.limit_keys is not null limit 10000) e
        cross join lateral (select t.queue, t.kind from peers.task t where t.id = e.task_ids[1] offset 0) t
        cross join lateral (
            select l.name, l.weight, l.max_running, row_number() over (order by l.name) as n from peers.limit l
            where l.kind = t.kind or l.queue = t.queue
        ) o
        cross join lateral (
            select sum(peers._weight(t.args, o.weight, o.max_running)) as weight
            from unnest(e.task_ids) i(task_id)
            cross join lateral (
                select t.args from peers.task t
                where t.id = i.task_id and t.token = e.token and t.state = 'running' offset 0
            ) t
            where o.weight is not null
        ) w
        group by 1, 2
    ), started as (
        select s.limit_key as key, l.name, sum(s.tasks) as tasks
        from peers.limit l
        join peers.limit_start s
            on s.limit_key = peers._limit_key(l.seed, l.key, '{}') and s.started_at > _now - l.per
        where l.starts is not null
        group by 1, 2
    )
    select l.name, greatest(
        case when l.shut_until > _now then 1 else 0 end,
        (
            select count(*) from running r
            where r.name = l.name and r.used + r.used / nullif(r.tasks, 0) > peers._most_now(l, _now)
        ),
        (select count(*) from started s where s.name = l.name and s.tasks >= l.starts))
    from peers.limit l
    order by l.name limit 200;
end
$$;

-- Returns the gauges of tasks.
create or replace function peers._task_gauges() returns table (name text, labels jsonb, value double precision)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _most_series constant integer := 500;
begin
    return query
    with waiting as materialized (
        select * from peers._count_waiting()
    ), found as (
        select 'ready' as state, r.queue, r.tasks from peers._count_ready() r
        union all
        select w.state, w.queue, sum(w.tasks) from waiting w group by w.state, w.queue
        union all
        select 'running', t.queue, sum(l.open)
        from peers.lease l cross join lateral (select t.queue from peers.task t where t.id = l.task_ids[1] offset 0) t
        group by t.queue
    ), queue as materialized (
        select f.queue from found f
        union
        select jsonb_object_keys(p.queues) from peers.peer p where p.lost_at is null
        order by 1 limit _most_series
    )
    select 'peers_queue_tasks', jsonb_build_object('queue', q.queue, 'state', s.state), round(coalesce(f.tasks, 0))
    from queue q
    cross join unnest(array['ready', 'scheduled', 'running', 'blocked', 'dead']) s(state)
    left join found f on f.queue = q.queue and f.state = s.state
    union all
    select 'peers_queue_oldest_ready_seconds', jsonb_build_object('queue', q.queue),
           -- ready_at is of the server's own clock
           coalesce(greatest(peers._seconds_between(o.ready_at, clock_timestamp()), 0), 0)
    from queue q left join peers._oldest_ready() o on o.queue = q.queue
    union all
    select 'peers_held_children', jsonb_build_object('queue', q.queue), coalesce(h.tasks, 0)
    from queue q left join peers._count_held() h on h.queue = q.queue
    union all
    (
        -- The kinds with most tasks by themselves, the others together: the sum is that of all.
        select k.name, jsonb_build_object('queue', k.queue, 'kind', k.kind), round(sum(k.tasks))
        from (
            select b.name, b.queue, b.tasks,
                   case when row_number() over (partition by b.name order by b.tasks desc, b.queue, b.kind)
                             <= _most_series
                        then b.kind else '(other)' end as kind
            from (
                select 'peers_dead_letters' as name, w.queue, w.kind, w.tasks from waiting w where w.state = 'dead'
                union all
                select 'peers_unrunnable_tasks', u.queue, u.kind, u.tasks from peers.unrunnable() u
            ) b
        ) k
        group by k.name, k.queue, k.kind
        order by k.name, sum(k.tasks) desc limit 4 * _most_series
    );
end
$$;

-- Returns the gauges of peers, limits and schedules, and of the server.
create or replace function peers._other_gauges() returns table (name text, labels jsonb, value double precision)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _most_series constant integer := 500;
    _now constant timestamptz := peers.now();
    _none constant jsonb := '{}';
begin
    return query
    select 'peers_limit_full', jsonb_build_object('limit', f."limit"), f.keys::double precision
    from peers._count_full() f
    union all
    (
        select 'peers_schedule_late', jsonb_build_object('schedule', s.name),
               case when exists (
                        select from peers.alert a where a.alert = 'schedule_late' and a.subject = s.name)
                        or s.paused_at is null and s.next_due_at < _now - interval '1 minute'
                    then 1 else 0 end
        from peers.schedule s order by s.name limit _most_series
    )
    union all
    (
        select 'peers_heartbeat_age_seconds', jsonb_build_object('peer_id', p.id, 'host', p.host),
               greatest(peers._seconds_between(p.heartbeat_at, _now), 0)
        from peers.peer p where p.lost_at is null order by p.heartbeat_at limit _most_series
    )
    union all
    select 'peers_connections', _none, count(*)
    from pg_stat_activity a where a.datname = current_database() and a.application_name like 'peers%'
    union all
    select 'peers_expired_leases', _none, coalesce(sum(l.open), 0)
    from peers.lease l
    where not exists (select from peers.peer p where p.id = l.peer_id and peers._is_alive(p, _now))
    union all
    select 'peers_oldest_snapshot_seconds', _none,
           coalesce(greatest(peers._seconds_between(min(o.began), clock_timestamp()), 0), 0)
    from (
        select a.xact_start as began from pg_stat_activity a
        where a.backend_xmin is not null and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
        union all
        select x.prepared from pg_prepared_xacts x
    ) o;
end
$$;

create or replace function peers.gauges() returns table (name text, labels jsonb, value double precision)
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return query select t.* from peers._task_gauges() t union all select o.* from peers._other_gauges() o;
end
$$;

comment on function peers.gauges is
    'Returns what can be measured now: the same as the gauges of the view peers.metrics. Of a queue with more than '
    '1,000 ready tasks, and of large tables, it estimates how many there are, from some of the table''s pages.';
