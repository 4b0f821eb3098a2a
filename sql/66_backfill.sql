-- Backfills: the peers run due times of the past, step by step.

-- Returns a time in UTC, whatever the settings of the session are.
create or replace function peers._in_utc(_moment timestamptz) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set datestyle = 'ISO'
as $$
begin
    return coalesce((_moment at time zone 'UTC')::text || ' UTC', 'null');
end
$$;

-- Returns the first thing that is wrong with the times of a backfill. Null: nothing is wrong.
create or replace function peers._backfill_problem(_from_at timestamptz, _until_at timestamptz, _now timestamptz)
    returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case
        when _from_at is null or _from_at < '1970-01-01 00:00:00+00' then
            'from_at must be 1970 or later, not ' || peers._in_utc(_from_at)
        when _from_at > _now then 'from_at must be now or earlier, not ' || peers._in_utc(_from_at)
        when _until_at is null or _until_at > _now then
            'until_at must be now or earlier, not ' || peers._in_utc(_until_at)
        when _until_at < _from_at then
            'until_at must be from_at (' || peers._in_utc(_from_at) || ') or later, not ' || peers._in_utc(_until_at)
    end;
end
$$;

create or replace function peers.backfill_schedule(
    name text, from_at timestamptz, until_at timestamptz, reason text default null
) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _schedule constant peers.schedule := peers._lock_schedule(backfill_schedule.name);
    _problem constant text := peers._backfill_problem(from_at, until_at, peers.now());
    _id bigint;
begin
    if _problem is not null then
        raise exception '%', _problem using errcode = 'PE013';
    elsif until_at < _schedule.anchor then
        raise exception 'until_at is %, but the schedule has no due time before its anchor (%)',
            peers._in_utc(until_at), peers._in_utc(_schedule.anchor)
            using errcode = 'PE013', hint = 'Set the anchor of the schedule to an earlier time first.';
    end if;
    insert into peers.schedule_backfill (schedule, from_at, until_at)
    values (backfill_schedule.name, backfill_schedule.from_at, backfill_schedule.until_at)
    returning id into _id;
    perform peers._record_action(
        'backfill_schedule',
        jsonb_build_object('schedule', backfill_schedule.name, 'backfill', _id, 'from_at', backfill_schedule.from_at,
                           'until_at', backfill_schedule.until_at),
        backfill_schedule.reason);
    perform peers._notify('schedule');
    return _id;
end
$$;

comment on function peers.backfill_schedule is
    'Runs the due times of a schedule from one time until another, both included. Those that have fired before do not '
    'run again. A schedule with every has no due times before its anchor. The peers submit the tasks soon; '
    'peers.schedule_backfill shows how far they are. Unless the schedule allows overlap, the tasks run one after the '
    'other. It works while the schedule is paused. Returns the number of the backfill. It writes peers.action, with '
    'the reason.';

create or replace function peers.cancel_backfill(id bigint, reason text default null) returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _schedule text;
begin
    delete from peers.schedule_backfill b where b.id = cancel_backfill.id returning b.schedule into _schedule;
    if not found then
        return false;
    end if;
    perform peers._record_action(
        'cancel_backfill', jsonb_build_object('schedule', _schedule, 'backfill', cancel_backfill.id),
        cancel_backfill.reason);
    return true;
end
$$;

comment on function peers.cancel_backfill is
    'Ends a backfill: the peers submit no more of its tasks. Those that are submitted stay. This cancels them: SELECT '
    'peers.cancel(t.id) FROM peers.task t JOIN peers.schedule_run r ON r.task_id = t.id WHERE r.schedule = ''hourly'' '
    'AND r.cause = ''backfill'' AND t.state NOT IN (''completed'', ''cancelled'', ''dead''). Returns false if the '
    'backfill never existed, was cancelled, or all its tasks are submitted. It writes peers.action, with the reason.';

-- Records how far a backfill came before an error, and when the peers try again.
create or replace function peers._record_backfill_failed(
    _backfill peers.schedule_backfill, _done_until timestamptz, _last_task_id bigint, _fired integer, _error text
) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    update peers.schedule_backfill b
    set done_until = _done_until, last_task_id = _last_task_id, fired = b.fired + _fired, failures = b.failures + 1,
        error = left(_error, 1000),
        retry_at = peers.now() + peers._retry_wait(b.failures)
    where b.id = _backfill.id;
end
$$;

-- Submits the tasks of some due times, and moves the backfill, which the caller has locked like its schedule.
create or replace function peers._run_backfill(
    _backfill peers.schedule_backfill, _schedule peers.schedule, _due_times timestamptz[], _finished boolean
) returns table (due_at timestamptz, outcome peers.schedule_outcome, reason text, task_id bigint)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
#variable_conflict use_variable
declare
    _last bigint := _backfill.last_task_id;
    _parents bigint[];
    _fired integer := 0;
    _done timestamptz := _backfill.done_until;
begin
    foreach due_at in array _due_times loop
        outcome := 'fired';
        reason := null;
        begin
            _parents := case
                when _schedule.overlap = 'allow' or not exists (select from peers.task t where t.id = _last) then '{}'
                else array[_last]
            end;
            perform peers._lock_runs(_parents, false);
            task_id := peers._submit_run(_schedule, due_at, 'backfill', _parents);
        exception when others then
            perform peers._contain_error(sqlstate, sqlerrm);
            outcome := 'failed';
            reason := sqlerrm;
            task_id := null;
            perform peers._record_backfill_failed(_backfill, _done, _last, _fired, sqlerrm);
            return next;
            return;
        end;
        _done := due_at;
        if task_id is not null then
            _last := task_id;
            _fired := _fired + 1;
            return next;
        end if;
    end loop;
    if _finished then
        delete from peers.schedule_backfill b where b.id = _backfill.id;
    else
        update peers.schedule_backfill b
        set done_until = _done, last_task_id = _last, fired = b.fired + _fired, failures = 0, retry_at = null,
            error = null
        where b.id = _backfill.id;
    end if;
end
$$;

create or replace function peers.run_backfills(steps jsonb)
returns table (schedule text, due_at timestamptz, outcome peers.schedule_outcome, reason text, task_id bigint)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
#variable_conflict use_column
declare
    _step record;
    _schedule peers.schedule;
    _backfill peers.schedule_backfill;
begin
    perform peers._require_read_committed();
    for _step in
        select f.*
        from jsonb_to_recordset(run_backfills.steps) f(
            id bigint, name text, revision uuid, done_until timestamptz, due_times timestamptz[], finished boolean,
            error text)
    loop
        select s.* into _schedule from peers.schedule s
        where s.name = _step.name and s.revision = _step.revision for update skip locked;
        continue when not found;
        select b.* into _backfill from peers.schedule_backfill b
        where b.id = _step.id and b.done_until is not distinct from _step.done_until
          and coalesce(b.retry_at, '-infinity') <= peers.now()
        for update skip locked;
        continue when not found;
        if _step.error is not null then
            perform peers._record_backfill_failed(
                _backfill, _backfill.done_until, _backfill.last_task_id, 0, _step.error);
            return query
                select _step.name, null::timestamptz, 'failed'::peers.schedule_outcome, _step.error, null::bigint;
            continue;
        end if;
        return query
            select _step.name, r.due_at, r.outcome, r.reason, r.task_id
            from peers._run_backfill(_backfill, _schedule, coalesce(_step.due_times, '{}'), _step.finished) r;
    end loop;
end
$$;

comment on function peers.run_backfills is
    'Continues backfills. For each: {"id", "name", "revision" and "done_until" as peers.due_schedules returned them, '
    '"due_times": some that follow, in ascending order, "finished": whether there are no more, "error": the peer could '
    'not compute them}. Returns what became of the due times.';
