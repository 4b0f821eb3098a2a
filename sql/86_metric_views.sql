-- The same figures as on the /metrics page of a peer, for everybody who has psql.

-- Returns one counter or histogram of each queue and kind, over all peers and all time.
create or replace function peers.counters() returns table (name text, labels jsonb, value double precision)
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _bounds constant double precision[] := peers.metric_bounds();
begin
    return query
    with total as materialized (
        select jsonb_build_object('queue', m.queue, 'kind', m.kind) as labels, sum(m.completed) as completed,
               sum(m.failed) as failed, sum(m.retried) as retried, sum(m.dead) as dead,
               sum(m.reclaimed) as reclaimed, sum(m.refused) as refused, sum(m.stale) as stale,
               sum(m.run_seconds) as run_seconds, peers._sum_buckets(m.run_buckets) as run_buckets,
               sum(m.wait_seconds) as wait_seconds, peers._sum_buckets(m.wait_buckets) as wait_buckets
        from peers.metric m where m.queue <> '' group by m.queue, m.kind
    ), histogram as (
        select 'peers_task_run_seconds' as name, t.labels, t.run_seconds as seconds, t.run_buckets as buckets
        from total t where t.run_buckets <> '{}'
        union all
        select 'peers_task_wait_seconds', t.labels, t.wait_seconds, t.wait_buckets
        from total t where t.wait_buckets <> '{}'
    )
    select c.name, t.labels, c.value::double precision
    from total t
    cross join lateral (
        values ('peers_tasks_completed_total', t.completed), ('peers_attempts_failed_total', t.failed),
               ('peers_tasks_retried_total', t.retried), ('peers_tasks_dead_total', t.dead),
               ('peers_tasks_reclaimed_total', t.reclaimed), ('peers_outcomes_refused_total', t.refused),
               ('peers_tasks_stale_total', t.stale)
    ) c(name, value)
    union all
    select h.name || '_bucket', h.labels || jsonb_build_object('le', coalesce(b.bound::text, '+Inf')),
           (select coalesce(sum(n), 0) from unnest(h.buckets[:b.number]) n)::double precision
    from histogram h
    cross join (
        select b.bound, b.number::integer from unnest(array_append(_bounds, null)) with ordinality b(bound, number)
    ) b
    union all
    select h.name || '_sum', h.labels, h.seconds from histogram h
    union all
    select h.name || '_count', h.labels, (select sum(n) from unnest(h.buckets) n)::double precision from histogram h
    union all
    select 'peers_peers_fenced_total', '{}', coalesce(sum(m.fenced), 0)::double precision from peers.metric m;
end
$$;

comment on function peers.counters is
    'Returns what all peers have counted since the database was made: the same as the counters and histograms of the '
    'view peers.metrics.';

create or replace view peers.metrics as
select c.name, c.labels, c.value from peers.counters() c
union all
select g.name, g.labels, g.value from peers.gauges() g;

comment on view peers.metrics is
    'All metrics by the names that Prometheus has for them. Counters (_total) and histograms (_bucket, _sum, _count) '
    'are those of all peers together, and never fall. docs/metrics.md explains each of them.';
comment on column peers.metrics.name is 'The metric''s name.';
comment on column peers.metrics.labels is 'What tells its series apart, such as {"queue": "default"}.';
comment on column peers.metrics.value is 'The value. Durations are in seconds.';

create or replace function peers.histogram(metric text, "window" interval default '5 minutes')
returns table (queue text, kind text, up_to text, tasks bigint, share text)
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _since constant timestamptz := peers._window_start("window");
begin
    if metric not in ('run', 'wait') or metric is null then
        raise exception 'metric must be run or wait, not %', coalesce(metric, 'null') using errcode = 'PE009';
    end if;
    return query
    select b.queue, b.kind, b.up_to, b.tasks,
           rpad(repeat('#', round(30.0 * b.tasks / max(b.tasks) over w)::integer), 30)
    from (
        select s.queue, s.kind, u.n,
               coalesce((make_interval(secs => (peers.metric_bounds())[u.n]))::text, 'longer') as up_to, u.tasks
        from (
            select m.queue, m.kind,
                   peers._sum_buckets(case histogram.metric when 'run' then m.run_buckets else m.wait_buckets end)
                       as buckets
            from peers.metric m
            where m.minute > _since - interval '1 minute' and m.queue <> ''
            group by m.queue, m.kind
        ) s
        cross join lateral unnest(s.buckets) with ordinality u(tasks, n)
    ) b
    where b.tasks > 0
    window w as (partition by b.queue, b.kind)
    order by b.queue, b.kind, b.n;
end
$$;

comment on function peers.histogram is
    'Shows how long tasks ran (run) or waited until they were claimed (wait) in the last minutes, up to an hour: how '
    'many took up to each bound and longer than the one before. For psql; programs read the view peers.metrics.';
