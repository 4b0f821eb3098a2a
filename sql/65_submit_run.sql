-- A run of a schedule: the task of one due time, and its row in schedule_run.

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
