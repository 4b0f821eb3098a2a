-- Firing: a peer passes the due times that it has computed, and the database submits their tasks.
--
-- All peers try, and one wins. peers.fire_schedules locks the row of the schedule and compares it with what the peer
-- has read. One transaction submits the task, writes the row in schedule_run and moves next_due_at.

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

-- Returns the unfinished tasks of a schedule, and notes which of its runs have ended. A dead task has ended.
create or replace function peers._unfinished_runs(_schedule text) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
as $$
begin
    update peers.schedule_run r set unfinished = false
    where r.schedule = _schedule and r.unfinished and not exists (
        select from peers.task t
        where t.id = r.task_id and t.state in ('blocked', 'scheduled', 'ready', 'running')
    );
    return array(
        select r.task_id from peers.schedule_run r where r.schedule = _schedule and r.unfinished order by r.task_id
    );
end
$$;

-- Applies the overlap policy. A run that is not skipped waits for the tasks in `parents`.
create or replace function peers._apply_overlap(
    _schedule peers.schedule, out skipped boolean, out parents bigint[]
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _unfinished bigint[];
begin
    skipped := false;
    parents := '{}';
    if _schedule.overlap = 'allow' then
        return;
    end if;
    _unfinished := peers._unfinished_runs(_schedule.name);
    if _schedule.overlap = 'skip' then
        skipped := _unfinished <> '{}';
    elsif _schedule.overlap = 'buffer_one' then
        skipped := exists (select from peers.task t where t.id = any (_unfinished) and t.state = 'blocked');
        parents := _unfinished;
    else
        perform peers.cancel(u.id) from unnest(_unfinished) u(id);
        parents := peers._unfinished_runs(_schedule.name);
    end if;
end
$$;

-- Returns by how much the start of a run is delayed, a part of the jitter. It is the same on every call.
create or replace function peers._jitter_of(_schedule peers.schedule, _due_at timestamptz) returns interval
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return _schedule.jitter
        * ((hashtextextended(_schedule.name, extract(epoch from _due_at)::bigint) & 65535) / 65536.0);
end
$$;

-- Submits the task of one due time and records it. The caller has locked the schedule. Null: this due time has fired
-- before, or was skipped before.
create or replace function peers._submit_run(
    _schedule peers.schedule, _due_at timestamptz, _cause text, _parents bigint[]
) returns bigint
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _task_id bigint;
begin
    if exists (
        select from peers.schedule_run r
        where r.schedule = _schedule.name and r.due_at = _due_at
          and (r.outcome = 'fired' or r.outcome = 'skipped' and _cause = 'due')
    ) then
        return null;
    end if;
    _task_id := peers.submit(
        kind => _schedule.kind, args => _schedule.args, queue => _schedule.queue, priority => _schedule.priority,
        scheduled_at => case when _cause = 'due' and _schedule.jitter > '0'
                             then _due_at + peers._jitter_of(_schedule, _due_at) end,
        max_attempts => _schedule.max_attempts, timeout => _schedule.timeout,
        depends_on => _parents, on_parent_failure => 'run',
        metadata => coalesce(_schedule.metadata, '{}') || jsonb_build_object(
            'schedule', _schedule.name, 'due_at', to_char(_due_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
    );
    insert into peers.schedule_run (schedule, due_at, outcome, task_id, cause, unfinished, recorded_at)
    values (_schedule.name, _due_at, 'fired', _task_id, _cause, true, peers.now())
    on conflict on constraint schedule_run_pkey do update
    set outcome = 'fired', reason = null, task_id = excluded.task_id, cause = excluded.cause, unfinished = true,
        recorded_at = excluded.recorded_at;
    return _task_id;
end
$$;

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

-- Records the due times that have no task because they were missed or the schedule is paused, and returns them.
create or replace function peers._skip_due_times(
    _schedule peers.schedule, _due_times timestamptz[], _latest timestamptz, _now timestamptz
) returns table (due_at timestamptz, reason text)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
#variable_conflict use_column
declare
    _skipped timestamptz[];
    _reasons text[];
begin
    select array_agg(s.due_at), array_agg(s.reason) into _skipped, _reasons
    from (
        select d.due_at,
               peers._skip_reason(_schedule, d.due_at, d.due_at is not distinct from _latest, _now) as reason
        from unnest(_due_times) d(due_at)
    ) s
    where s.reason is not null;
    perform peers._record_skipped(_schedule.name, _skipped, _reasons);
    return query select s.due_at, s.reason from unnest(_skipped, _reasons) s(due_at, reason);
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

-- Fires the due times of one schedule, which the caller has locked.
create or replace function peers._fire_schedule(
    _schedule peers.schedule, _due_times timestamptz[], _skipped_from timestamptz, _skipped_until timestamptz,
    _then_due_at timestamptz, _now timestamptz
) returns table (due_at timestamptz, outcome peers.schedule_outcome, reason text, task_id bigint)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
#variable_conflict use_variable
declare
    _latest constant timestamptz := case when coalesce(_then_due_at > _now, true)
                                         then _due_times[cardinality(_due_times)] end;
    _skipped timestamptz[] := '{}';
    _overlap record;
begin
    outcome := 'skipped';
    if _skipped_until is not null then
        due_at := _skipped_from;
        reason := case when _schedule.paused_at is null then 'misfire' else 'paused' end;
        perform peers._record_skipped(_schedule.name, array[_skipped_from], array[reason], _skipped_until);
        return next;
    end if;
    for due_at, reason in
        select s.due_at, s.reason from peers._skip_due_times(_schedule, _due_times, _latest, _now) s
    loop
        _skipped := _skipped || due_at;
        return next;
    end loop;
    foreach due_at in array _due_times loop
        continue when due_at = any (_skipped);
        outcome := 'skipped';
        reason := 'overlap';
        task_id := null;
        begin
            _overlap := peers._apply_overlap(_schedule);
            if _overlap.skipped then
                perform peers._record_skipped(_schedule.name, array[due_at], array['overlap']);
            else
                task_id := peers._submit_run(_schedule, due_at, 'due', _overlap.parents);
                continue when task_id is null;
                outcome := 'fired';
                reason := null;
            end if;
        exception when others then
            perform peers._raise_if_fatal(sqlstate, sqlerrm);
            outcome := 'failed';
            reason := sqlerrm;
            task_id := null;
            perform peers._record_failed(_schedule, due_at, sqlerrm, _now);
        end;
        return next;
        if outcome = 'failed' then
            return;  -- what follows is fired once this one succeeds
        end if;
    end loop;
    perform peers._move_schedule(_schedule, _then_due_at, _now);
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
    _fire record;
    _schedule peers.schedule;
begin
    perform peers._require_read_committed();
    for _fire in
        select f.*
        from jsonb_to_recordset(fire_schedules.fires) f(
            name text, revision uuid, next_due_at timestamptz, due_times timestamptz[], skipped_from timestamptz,
            skipped_until timestamptz, then_due_at timestamptz, error text)
    loop
        _now := peers.now();
        -- The peer that comes second finds another next_due_at, and a schedule whose times have changed has another
        -- revision. A row that another session has locked is left to that session, or to the next try.
        select s.* into _schedule from peers.schedule s
        where s.name = _fire.name and s.revision = _fire.revision
          and s.next_due_at is not distinct from _fire.next_due_at and coalesce(s.retry_at, '-infinity') <= _now
        for update skip locked;
        continue when not found;
        if _fire.error is not null then
            perform peers._record_failed(_schedule, _schedule.next_due_at, _fire.error, _now);
            return query
                select _fire.name, _schedule.next_due_at, 'failed'::peers.schedule_outcome, _fire.error, null::bigint;
            continue;
        end if;
        return query
            select _fire.name, f.due_at, f.outcome, f.reason, f.task_id
            from peers._fire_schedule(
                _schedule, coalesce(_fire.due_times, '{}'), _fire.skipped_from, _fire.skipped_until, _fire.then_due_at,
                _now) f;
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

create or replace function peers.task_due_at(task_id bigint) returns timestamptz
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return (select r.due_at from peers.schedule_run r where r.task_id = task_due_at.task_id limit 1);
end
$$;

comment on function peers.task_due_at is
    'Returns the due time of the schedule that submitted the task; null: no schedule has submitted it.';
