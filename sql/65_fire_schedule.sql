-- Firing: a peer passes the due times that it has computed, and the database submits their tasks.
--
-- All peers try, and one wins. peers.fire_schedules locks the row of the schedule and compares it with what the peer
-- has read. One transaction submits the task, writes the row in schedule_run and moves next_due_at.

-- Returns how long the peers wait until they try again, after so many failures before this one.
create or replace function peers._retry_wait(_failures integer) returns interval
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return least(interval '1 second' * 2 ^ least(_failures, 10), interval '5 minutes');
end
$$;

-- Records that a due time could not be fired, or that the next one could not be computed (_due_at is null), and when
-- the peers try again.
create or replace function peers._record_failed(
    _schedule peers.schedule, _due_at timestamptz, _error text, _now timestamptz
) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    update peers.schedule s
    set next_due_at = _due_at, failures = s.failures + 1, error = left(_error, 1000),
        retry_at = _now + peers._retry_wait(s.failures)
    where s.name = _schedule.name;
    insert into peers.schedule_run (schedule, due_at, outcome, reason, recorded_at)
    select _schedule.name, _due_at, 'failed', left(_error, 1000), _now
    where _due_at is not null
    on conflict on constraint schedule_run_pkey do update
    set reason = excluded.reason, recorded_at = excluded.recorded_at
    where schedule_run.outcome = 'failed';
end
$$;

-- Moves a schedule to its next due time, and notes which run is expected to complete.
create or replace function peers._move_schedule(
    _schedule peers.schedule, _then_due_at timestamptz, _now timestamptz
) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _expected timestamptz := _schedule.expected_due_at;
begin
    if _schedule.expect_within is not null and _schedule.paused_at is null and _expected is null
       and _schedule.next_due_at <= _now then
        _expected := _schedule.next_due_at;
    end if;
    update peers.schedule s
    set next_due_at = coalesce(_then_due_at, '9000-01-01 00:00:00+00'), retry_at = null, failures = 0, error = null,
        expected_due_at = _expected, expect_at = _expected + s.expect_within
    where s.name = _schedule.name;
end
$$;

-- Raises an error again if it concerns the whole call; otherwise only one schedule fails, and the others go on. If a
-- lock was not available, _lock_runs does not wait for one again in this transaction.
create or replace function peers._contain_error(_sqlstate text, _message text) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform peers._raise_if_fatal(_sqlstate, _message);
    if _sqlstate = '55P03' then
        perform set_config('peers.lock_timed_out', 'on', true);
    end if;
end
$$;

-- Fires one due time, or records why it has no task. The outcome is null if it has fired before.
create or replace function peers._fire_due_time(
    _schedule peers.schedule, _due_at timestamptz, _now timestamptz,
    out outcome peers.schedule_outcome, out reason text, out task_id bigint
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _overlap record;
begin
    _overlap := peers._apply_overlap(_schedule);
    if _overlap.skipped then
        outcome := 'skipped';
        reason := 'overlap';
        perform peers._record_skipped(_schedule.name, array[_due_at], array[reason]);
    else
        task_id := peers._submit_run(_schedule, _due_at, 'due', _overlap.parents);
        outcome := case when task_id is not null then 'fired' end;
    end if;
exception when others then
    perform peers._contain_error(sqlstate, sqlerrm);
    outcome := 'failed';
    reason := sqlerrm;
    task_id := null;
    perform peers._record_failed(_schedule, _due_at, sqlerrm, _now);
end
$$;

-- Fires what a peer has computed for one schedule, which the caller has locked. Returns what became of the due times.
create or replace function peers._fire_schedule(_schedule peers.schedule, _fire peers.schedule_fire, _now timestamptz)
returns table (due_at timestamptz, outcome peers.schedule_outcome, reason text, task_id bigint)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
#variable_conflict use_variable
declare
    _reasons text[];
begin
    if _fire.error is not null then
        perform peers._record_failed(_schedule, _schedule.next_due_at, _fire.error, _now);
        return query
            select _schedule.next_due_at, 'failed'::peers.schedule_outcome, _fire.error, null::bigint;
        return;
    elsif _fire.skipped_until is not null then
        outcome := 'skipped';
        reason := case when _schedule.paused_at is null then 'misfire' else 'paused' end;
        due_at := _fire.skipped_from;
        perform peers._record_skipped(_schedule.name, array[due_at], array[reason], _fire.skipped_until);
        return next;
    end if;
    _reasons := peers._skip_due_times(_schedule, _fire.due_times, _fire.then_due_at, _now);
    for due_at, reason in select d.due_at, d.reason from unnest(_fire.due_times, _reasons) d(due_at, reason) loop
        outcome := 'skipped';
        task_id := null;
        if reason is null then
            select f.outcome, f.reason, f.task_id into outcome, reason, task_id
            from peers._fire_due_time(_schedule, due_at, _now) f;
        end if;
        if outcome is not null then
            return next;
        end if;
        if outcome = 'failed' then
            return;  -- what follows is fired once this one succeeds
        end if;
    end loop;
    perform peers._move_schedule(_schedule, _fire.then_due_at, _now);
end
$$;

create or replace function peers.fire_schedules(fires jsonb)
returns table (schedule text, due_at timestamptz, outcome peers.schedule_outcome, reason text, task_id bigint)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
#variable_conflict use_column
declare
    _now timestamptz;
    _fire peers.schedule_fire;
    _schedule peers.schedule;
begin
    perform peers._require_read_committed();
    for _fire in select f.* from jsonb_populate_recordset(null::peers.schedule_fire, fire_schedules.fires) f loop
        _now := peers.now();
        -- The peer that comes second finds another next_due_at, and a schedule whose times have changed has another
        -- revision. A row that another session has locked is left to that session, or to the next try.
        select s.* into _schedule from peers.schedule s
        where s.name = _fire.name and s.revision = _fire.revision
          and s.next_due_at is not distinct from _fire.next_due_at and coalesce(s.retry_at, '-infinity') <= _now
        for update skip locked;
        continue when not found;
        return query
            select _fire.name, f.due_at, f.outcome, f.reason, f.task_id
            from peers._fire_schedule(_schedule, _fire, _now) f;
        if not found then
            return query
                select _fire.name, null::timestamptz, null::peers.schedule_outcome, null::text, null::bigint;
        end if;
    end loop;
end
$$;

comment on function peers.fire_schedules is
    'Fires schedules that are due. For each: {"name", "revision" and "next_due_at" as peers.due_schedules returned '
    'them, "due_times": those from next_due_at until now, in ascending order, "then_due_at": the one that follows '
    '(null: none), "skipped_from" and "skipped_until": due_times is empty, and none between these times runs, "error": '
    'the peer could not compute them}. For a schedule without next_due_at, due_times is empty or begins after '
    'computed_from. Returns what became of the due times (due_at is null if there were none), and nothing for a '
    'schedule that another peer has fired or that was changed.';
