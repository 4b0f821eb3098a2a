-- What peers count, and what the database can tell about itself. peers.metrics (86_metric_views.sql) has it all.

create or replace function peers.metric_bounds() returns double precision[]
    language sql immutable parallel safe
    set search_path = pg_catalog, peers, pg_temp
as $$
    select array[
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800,
        3600, 14400, 86400
    ]::double precision[]
$$;

comment on function peers.metric_bounds() is 'Returns the upper bounds of the buckets of all histograms, in seconds.';

-- Adds histograms. An empty one has no elements.
create or replace function peers._add_buckets(_one bigint[], _other bigint[]) returns bigint[]
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if _other = '{}' then
        return _one;
    elsif _one = '{}' then
        return _other;
    end if;
    return array(
        select coalesce(b.one, 0) + coalesce(b.other, 0)
        from unnest(_one, _other) with ordinality b(one, other, n) order by b.n
    );
end
$$;

do $$
begin
    create aggregate peers._sum_buckets(bigint[]) (sfunc = peers._add_buckets, stype = bigint[], initcond = '{}');
exception when duplicate_function then null;
end
$$;

-- Returns the kind under which to count: the kind itself, or (other) once 500 pairs of queue and kind are known. So
-- neither the table nor what Prometheus stores grows without bound.
create or replace function peers._counted_kind(_queue text, _kind text) returns text
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most constant integer := 500;
begin
    if exists (
        select from peers.metric m where m.minute = '-infinity' and m.queue = _queue and m.kind = _kind
    ) then
        return _kind;
    end if;
    if (select count(*) from peers.metric m where m.minute = '-infinity') >= _most then
        return '(other)';
    end if;
    insert into peers.metric (minute, queue, kind) values ('-infinity', _queue, _kind) on conflict do nothing;
    return _kind;
end
$$;

-- Adds rows to those of the table, all sessions in the same order, so that they cannot deadlock.
create or replace function peers._add_metrics(_rows peers.metric[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    insert into peers.metric as m
    select r.minute, r.queue, r.kind, sum(r.completed), sum(r.failed), sum(r.retried), sum(r.dead), sum(r.reclaimed),
           sum(r.refused), sum(r.stale), sum(r.fenced), sum(r.run_seconds), peers._sum_buckets(r.run_buckets),
           sum(r.wait_seconds), peers._sum_buckets(r.wait_buckets)
    from unnest(_rows) r
    group by r.minute, r.queue, r.kind
    order by r.minute, r.queue, r.kind
    on conflict on constraint metric_pkey do update
    set completed = m.completed + excluded.completed, failed = m.failed + excluded.failed,
        retried = m.retried + excluded.retried, dead = m.dead + excluded.dead,
        reclaimed = m.reclaimed + excluded.reclaimed, refused = m.refused + excluded.refused,
        stale = m.stale + excluded.stale, fenced = m.fenced + excluded.fenced,
        run_seconds = m.run_seconds + excluded.run_seconds,
        run_buckets = peers._add_buckets(m.run_buckets, excluded.run_buckets),
        wait_seconds = m.wait_seconds + excluded.wait_seconds,
        wait_buckets = peers._add_buckets(m.wait_buckets, excluded.wait_buckets);
end
$$;

-- Adds the counts of earlier minutes to the totals.
create or replace function peers._fold_metrics(_before timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _folded peers.metric[];
begin
    if not exists (select from peers.metric m where m.minute > '-infinity' and m.minute < _before)
       or not pg_try_advisory_xact_lock(hashtextextended('peers._fold_metrics', 0)) then  -- another session does it
        return;
    end if;
    with folded as (
        delete from peers.metric m where m.minute > '-infinity' and m.minute < _before returning m.*
    )
    select array_agg(row('-infinity', f.queue, f.kind, f.completed, f.failed, f.retried, f.dead, f.reclaimed,
                         f.refused, f.stale, f.fenced, f.run_seconds, f.run_buckets, f.wait_seconds, f.wait_buckets
                     )::peers.metric)
    into _folded
    from folded f;
    perform peers._add_metrics(_folded);
end
$$;

create or replace function peers.record_metrics(peer_id uuid, metrics jsonb) returns void
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '200ms'
as $$
declare
    _buckets constant integer := cardinality(peers.metric_bounds()) + 1;
    _minute constant timestamptz := date_trunc('minute', peers.now());
begin
    if not exists (select from peers.peer p where p.id = record_metrics.peer_id) then
        raise exception 'peer % is unknown', record_metrics.peer_id using errcode = 'PE010', hint = 'Join again.';
    end if;
    if jsonb_typeof(metrics) is distinct from 'array'
       or jsonb_path_exists(metrics, '$[*].** ? (@.type() == "number" && @ < 0)') then
        raise exception 'metrics must be a JSON array of objects whose numbers are 0 or more'
            using errcode = 'PE009', hint = 'Such as [{"queue": "default", "kind": "thumbs.make", "completed": 3}].';
    end if;
    perform peers._add_metrics(array(
        select row(_minute, r.queue, peers._counted_kind(r.queue, r.kind), coalesce(r.completed, 0),
                   coalesce(r.failed, 0), coalesce(r.retried, 0), coalesce(r.dead, 0), coalesce(r.reclaimed, 0),
                   coalesce(r.refused, 0), coalesce(r.stale, 0), coalesce(r.fenced, 0), coalesce(r.run_seconds, 0),
                   coalesce(r.run_buckets[:_buckets], '{}'), coalesce(r.wait_seconds, 0),
                   coalesce(r.wait_buckets[:_buckets], '{}'))::peers.metric
        from (
            select left(coalesce(m.queue, ''), 200) as queue, left(coalesce(m.kind, ''), 200) as kind, m.completed,
                   m.failed, m.retried, m.dead, m.reclaimed, m.refused, m.stale, m.fenced, m.run_seconds,
                   m.run_buckets, m.wait_seconds, m.wait_buckets
            from jsonb_to_recordset(record_metrics.metrics) m(
                queue text, kind text, completed bigint, failed bigint, retried bigint, dead bigint,
                reclaimed bigint, refused bigint, stale bigint, fenced bigint, run_seconds double precision,
                run_buckets bigint[], wait_seconds double precision, wait_buckets bigint[])
            order by 1, 2
        ) r
    ));
    perform peers._fold_metrics(_minute - interval '1 hour');
end
$$;

comment on function peers.record_metrics is
    'Adds what a peer has counted since its last report: [{"queue", "kind", "completed", "failed", "retried", "dead", '
    '"reclaimed", "refused", "stale", "fenced", "run_seconds", "run_buckets", "wait_seconds", "wait_buckets"}], where '
    'what is 0 may be left out. The columns of peers.metric explain them.';

-- Returns the value below which a share of the observations of a histogram lies, as Prometheus'' histogram_quantile
-- does: evenly distributed within a bucket. Null: there are no observations.
create or replace function peers._quantile(_buckets double precision[], _share double precision)
returns double precision
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _bounds constant double precision[] := peers.metric_bounds();
    _wanted constant double precision := _share * (select sum(b) from unnest(_buckets) b);
    _before double precision := 0;
begin
    if coalesce(_wanted, 0) = 0 then
        return null;
    end if;
    for _n in 1 .. cardinality(_bounds) loop
        if _before + coalesce(_buckets[_n], 0) >= _wanted then
            return coalesce(_bounds[_n - 1], 0)
                + (_bounds[_n] - coalesce(_bounds[_n - 1], 0)) * (_wanted - _before) / _buckets[_n];
        end if;
        _before := _before + coalesce(_buckets[_n], 0);
    end loop;
    return _bounds[cardinality(_bounds)];
end
$$;

-- Adds a histogram, whose counts are multiplied by a weight.
create or replace function peers._add_weighted(_sum double precision[], _buckets bigint[], _weight double precision)
returns double precision[]
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return array(
        select coalesce(b.total, 0) + coalesce(b.added, 0) * _weight
        from unnest(_sum, _buckets) with ordinality b(total, added, n) order by b.n
    );
end
$$;

do $$
begin
    create aggregate peers._sum_weighted(bigint[], double precision) (
        sfunc = peers._add_weighted, stype = double precision[], initcond = '{}');
exception when duplicate_function then null;
end
$$;

-- Returns when a window that ends now begins. Raises PE009.
create or replace function peers._window_start(_window interval) returns timestamptz
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if _window is null or _window not between interval '1 minute' and interval '1 hour' then
        raise exception 'window must be 1 minute to 1 hour, not %', coalesce(_window::text, 'null')
            using errcode = 'PE009', hint = 'Older figures are only kept as totals: see the view peers.metrics.';
    end if;
    return peers.now() - _window;
end
$$;

create or replace function peers.throughput("window" interval default '5 minutes')
returns table (
    queue text, kind text, completed bigint, failed bigint, p50_run double precision, p95_run double precision,
    p50_wait double precision, p95_wait double precision
)
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _since constant timestamptz := peers._window_start("window");
begin
    return query
    select s.queue, s.kind, s.completed, s.failed, peers._quantile(s.run, 0.5), peers._quantile(s.run, 0.95),
           peers._quantile(s.wait, 0.5), peers._quantile(s.wait, 0.95)
    from (
        select m.queue, m.kind, round(sum(m.completed * m.share))::bigint as completed,
               round(sum(m.failed * m.share))::bigint as failed,
               peers._sum_weighted(m.run_buckets, m.share) as run, peers._sum_weighted(m.wait_buckets, m.share) as wait
        from (
            -- of the minute in which the window begins, as much as lies within it
            select m.*, least(extract(epoch from m.minute + interval '1 minute' - _since) / 60, 1)::double precision
                       as share
            from peers.metric m
            where m.minute > _since - interval '1 minute' and m.queue <> ''
        ) m
        group by m.queue, m.kind
    ) s
    order by s.queue, s.kind;
end
$$;

comment on function peers.throughput is
    'Returns what the peers did in the last minutes (up to an hour), by queue and kind: how many tasks were completed, '
    'how many attempts failed, and of the run times and the waiting times the median and the 95th percentile, in '
    'seconds. Peers report every 10 seconds, so the last of them may be missing.';
