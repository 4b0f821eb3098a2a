-- Due times that have no task, because no peer was running or because the schedule is paused.

-- Returns why a due time has no task; null: it has one.
create or replace function peers._skip_reason(
    _schedule peers.schedule, _due_at timestamptz, _is_latest boolean, _now timestamptz
) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case
        when _schedule.paused_at is not null or _due_at < _schedule.resumed_at then 'paused'
        when _due_at >= _now - interval '10 seconds' then null
        when (_schedule.misfire = 'all' or _schedule.misfire = 'latest' and _is_latest)
             and _due_at >= _now - _schedule.catch_up then null
        else 'misfire'
    end;
end
$$;

-- Records that due times have no task, each with its reason (null: it has one). _until: the row of a due time also
-- stands for all that follow up to this time.
create or replace function peers._record_skipped(
    _schedule text, _due_times timestamptz[], _reasons text[], _until timestamptz default null
) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    insert into peers.schedule_run (schedule, due_at, outcome, reason, skipped_until, recorded_at)
    select _schedule, s.due_at, 'skipped', s.reason, case when _until > s.due_at then _until end, peers.now()
    from unnest(_due_times, _reasons) s(due_at, reason)
    where s.reason is not null
    on conflict on constraint schedule_run_pkey do update
    set outcome = excluded.outcome, reason = excluded.reason, skipped_until = excluded.skipped_until,
        recorded_at = excluded.recorded_at
    where schedule_run.outcome = 'failed';
end
$$;

-- Records which of these due times have no task, and returns the reason of each. Null: it has one.
create or replace function peers._skip_due_times(
    _schedule peers.schedule, _due_times timestamptz[], _then_due_at timestamptz, _now timestamptz
) returns text[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    -- null: later steps bring newer due times
    _latest constant timestamptz := case when coalesce(_then_due_at > _now, true)
                                         then _due_times[cardinality(_due_times)] end;
    _reasons constant text[] := array(
        select peers._skip_reason(_schedule, d.due_at, d.due_at is not distinct from _latest, _now)
        from unnest(_due_times) with ordinality d(due_at, place) order by d.place
    );
begin
    perform peers._record_skipped(_schedule.name, _due_times, _reasons);
    return _reasons;
end
$$;
