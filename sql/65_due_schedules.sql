-- A peer asks which schedules are due and when to ask again. It computes their due times: the database cannot.

-- Returns the names of the schedules that a peer has to look at, and what it needs to compute their due times. With
-- `_unlocked` it leaves out those that a session has locked. A transaction that stays open may have locked
-- hundreds, and these must not keep the others from firing. Such a look locks rows itself. So a peer asks for it only
-- when it could fire nothing of what was due.
create or replace function peers._schedules_to_fire(_now timestamptz, _max_schedules integer, _unlocked boolean)
    returns jsonb
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
as $$
declare
    -- at random from so many times more, because other peers do the same
    _spread constant integer := 10;
    _names text[];
begin
    if _unlocked then
        _names := array(
            select s.name from peers.schedule s
            where s.look_at <= _now and coalesce(greatest(s.next_due_at, s.retry_at), '-infinity') <= _now
            order by s.look_at limit _max_schedules for share skip locked
        );
    else
        _names := array(
            select f.name
            from (
                select s.name from peers.schedule s
                where s.look_at <= _now and coalesce(greatest(s.next_due_at, s.retry_at), '-infinity') <= _now
                order by s.look_at limit _spread * _max_schedules
            ) f
            order by random() limit _max_schedules
        );
    end if;
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'name', d.name, 'revision', d.revision, 'cron', d.cron,
            'every', extract(epoch from d.every), 'anchor', d.anchor, 'timezone', d.timezone,
            'next_due_at', d.next_due_at, 'computed_from', d.computed_from, 'all', d.misfire = 'all',
            'catch_up', extract(epoch from d.catch_up))), '[]')
        from peers.schedule d
        where d.name = any (_names)
    );
end
$$;

-- Returns the backfills that a peer has to continue, with what it needs to compute their due times.
create or replace function peers._backfills_to_run(_now timestamptz) returns jsonb
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'id', b.id, 'name', b.schedule, 'revision', s.revision, 'cron', s.cron,
            'every', extract(epoch from s.every), 'anchor', s.anchor, 'timezone', s.timezone,
            'from_at', b.from_at, 'until_at', b.until_at, 'done_until', b.done_until)), '[]')
        from (
            select b.* from peers.schedule_backfill b
            where coalesce(b.retry_at, '-infinity') <= _now
            order by random() limit 1
        ) b
        join peers.schedule s on s.name = b.schedule
    );
end
$$;

-- Returns when a peer has to look at the schedules next. The year 1970: now. The year 9000 or null: never.
create or replace function peers._next_look() returns timestamptz
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set enable_seqscan = off
    set jit = off
as $$
begin
    return least(
        (select s.look_at from peers.schedule s order by s.look_at limit 1),
        (select min(coalesce(b.retry_at, '1970-01-01 00:00:00+00')) from peers.schedule_backfill b)
    );
end
$$;

create or replace function peers.due_schedules(max_schedules integer default 50, unlocked boolean default false)
    returns jsonb
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
as $$
declare
    _now constant timestamptz := peers.now();
    _late jsonb;
    _next timestamptz;
begin
    perform peers._require_read_committed();
    _late := peers._check_expected_runs(_now);
    -- in a new statement, which sees what the first one has changed
    _next := peers._next_look();
    return jsonb_build_object(
        'late', _late,
        'schedules', peers._schedules_to_fire(_now, max_schedules, unlocked),
        'backfills', peers._backfills_to_run(_now),
        'now', extract(epoch from _now),
        'next', extract(epoch from _next),
        'then', extract(epoch from (
            select s.look_at from peers.schedule s where s.look_at > _now order by s.look_at limit 1))
    );
end
$$;

comment on function peers.due_schedules is
    'What a peer calls when a schedule is due. Returns {"schedules": those that are due or whose next due time is '
    'unknown, "backfills": those in progress, "late": the alerts that it has raised, "now", "next": when to call '
    'again, and "then": when the first one is due of those that are not yet (in seconds since 1970; null: never)}. '
    'The peer computes the due times and passes them to peers.fire_schedules and peers.run_backfills. unlocked: leaves '
    'out the schedules whose rows a session has locked. A peer asks for this when it could fire nothing of what was '
    'due.';
