-- Schedules for people: the view schedule_status, and peers.explain_schedule.

create or replace view peers.schedule_status as
select s.name, s.kind, s.cron, s.every, s.timezone, s.paused_at,
       case when s.next_due_at < '9000-01-01 00:00:00+00' then s.next_due_at end as next_due_at,
       r.due_at as last_due_at, r.outcome as last_outcome, r.reason as last_reason, r.task_id as last_task_id,
       t.state as last_task_state, a.raised_at as late_since, s.failures,
       s.declared is not null as declared,
       (select count(*) from peers.peer p
        -- the same as peers._is_alive, which a reader may not call
        where s.name = any (p.schedules) and p.lost_at is null and p.heartbeat_at + p.lease_timeout > peers.now()
       ) as declaring_peers,
       -- code that declares no anchor leaves it to the INSERT, or to an operator
       coalesce(s.declared <> case when s.declared ? 'anchor' then peers.schedule_settings(s)
                                   else peers.schedule_settings(s) - 'anchor' end, false) as changed_by_operator,
       s.created_by, s.changed_at
from peers.schedule s
left join lateral (
    select l.* from peers.schedule_run l where l.schedule = s.name order by l.due_at desc limit 1
) r on true
left join peers.task t on t.id = r.task_id
left join peers.alert a on a.alert = 'schedule_late' and a.subject = s.name;

comment on view peers.schedule_status is
    'One row for each schedule: when it is due next, what became of its last due time, and whether it is as the code '
    'declares it. peers.explain_schedule(name) says it in words.';
comment on column peers.schedule_status.name is 'Its name.';
comment on column peers.schedule_status.kind is 'The kind of its tasks.';
comment on column peers.schedule_status.cron is 'When it is due, as in a crontab.';
comment on column peers.schedule_status.every is 'The time between two due times.';
comment on column peers.schedule_status.timezone is 'The time zone of cron.';
comment on column peers.schedule_status.paused_at is 'Since when it is paused; null: it is not.';
comment on column peers.schedule_status.next_due_at is 'When it is due next; null: never, or not computed yet.';
comment on column peers.schedule_status.last_due_at is 'Its last due time.';
comment on column peers.schedule_status.last_outcome is 'What became of the last due time.';
comment on column peers.schedule_status.last_reason is 'Why the last due time has no task.';
comment on column peers.schedule_status.last_task_id is 'The task of the last due time.';
comment on column peers.schedule_status.last_task_state is 'The state of that task; null: there is none, or no more.';
comment on column peers.schedule_status.late_since is 'Since when its alert in peers.alert is open; null: none is.';
comment on column peers.schedule_status.failures is 'How often in a row the database has refused its next task.';
comment on column peers.schedule_status.declared is 'Whether the code of a peer has ever declared it.';
comment on column peers.schedule_status.declaring_peers is 'How many live peers declare it.';
comment on column peers.schedule_status.changed_by_operator is
    'Whether it differs from what the code declared last: an operator has changed it with SQL.';
comment on column peers.schedule_status.created_by is 'The database role that created it.';
comment on column peers.schedule_status.changed_at is 'When it was last changed.';

-- Returns a time as the clocks of a time zone show it.
create or replace function peers._in_zone(_moment timestamptz, _timezone text) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return to_char(_moment at time zone _timezone, 'YYYY-MM-DD HH24:MI:SS') || ' ' || _timezone;
end
$$;

-- Says what became of a due time.
create or replace function peers._explain_run(_run peers.schedule_run, _timezone text) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _task peers.task;
    _due constant text := peers._in_zone(_run.due_at, _timezone);
begin
    if _run.outcome = 'failed' then
        return 'The run that was due at ' || _due || ' could not be submitted yet. The database said: '
            || rtrim(_run.reason, '.') || '.';
    elsif _run.outcome = 'skipped' then
        return 'The ' || case when _run.skipped_until is null then 'run that was due at ' || _due || ' was'
                              else 'runs that were due from ' || _due || ' until '
                                   || peers._in_zone(_run.skipped_until, _timezone) || ' were' end
            || ' skipped' || case _run.reason
                when 'overlap' then ', because an earlier run was unfinished.'
                when 'misfire' then ', because no peer was running at that time, and misfire or catch_up of the '
                    'schedule excludes it (recorded at ' || peers._in_zone(_run.recorded_at, _timezone) || ').'
                when 'paused' then ', because the schedule was paused.'
                when 'changed' then ': no peer had fired it when the times of the schedule were changed.'
                when 'deleted' then ': no peer had fired it when the schedule was deleted.'
                else ': ' || _run.reason || '.'
            end;
    end if;
    select t.* into _task from peers.task t where t.id = _run.task_id;
    return 'The run ' || case _run.cause when 'manual' then 'on demand at ' else 'that was due at ' end || _due
        || ' is task ' || _run.task_id || case when _run.cause = 'backfill' then ' of a backfill' else '' end || '. '
        || case when _task.id is null then 'That task has ended and was pruned.' else peers.explain(_task.id) end;
end
$$;

-- Says which task the skipped due time would have overlapped, and how to cancel it. Null: that task has ended.
create or replace function peers._explain_unfinished_run(_skipped peers.schedule_run) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return (
        select 'The earliest unfinished run is task ' || t.id || '. If it cannot end by itself, peers.cancel(' || t.id
               || ') cancels it, so that the next run can start.'
        from peers.schedule_run r
        join peers.task t on t.id = r.task_id
        where r.schedule = _skipped.schedule and r.unfinished and r.recorded_at <= _skipped.recorded_at
          and t.state not in ('completed', 'cancelled', 'dead')
        order by r.task_id limit 1
    );
end
$$;

-- Says whether a schedule will fire, and when.
create or replace function peers._explain_next_run(_schedule peers.schedule, _now timestamptz) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _peers bigint;
    _due text := peers._in_zone(_schedule.next_due_at, _schedule.timezone);
begin
    select count(*) into _peers from peers.peer p where peers._is_alive(p, _now);
    return case
        when _schedule.paused_at is not null then
            'It has been paused since ' || peers._in_zone(_schedule.paused_at, _schedule.timezone)
            || ': peers.resume_schedule(''' || replace(_schedule.name, '''', '''''') || ''') resumes it.'
        when _schedule.next_due_at = '9000-01-01 00:00:00+00' then 'It will never be due again.'
        when _schedule.next_due_at > _now then 'It is due next at ' || _due || '.'
        when _peers = 0 and _schedule.next_due_at is null then
            'When it is due next is not known yet, because no peer is running.'
        when _peers = 0 then 'It was due at ' || _due || ', and no peer is running.'
        when _schedule.failures > 0 then
            coalesce('It was due at ' || _due || ', but could not be fired. ', 'When it is due next is not known. ')
            || _schedule.failures || case when _schedule.failures = 1 then ' try' else ' tries' end
            || ' failed; the next one is at ' || peers._in_zone(_schedule.retry_at, _schedule.timezone)
            || '. The last error was: ' || rtrim(_schedule.error, '.') || '.'
        when _schedule.next_due_at is null then 'A peer will compute within seconds when it is due next.'
        else 'It was due at ' || _due || ' and has not fired yet: a peer will fire it within seconds, unless another '
            'session has its row locked.'
    end
    || case
        when _peers = 0 then ' Start a peer: without one, no schedule fires.'
        when not exists (
            select from peers.peer p
            where peers._is_alive(p, _now) and _schedule.kind = any (p.kinds) and p.queues ? _schedule.queue
        ) then
            ' No live peer runs kind "' || _schedule.kind || '" in queue "' || _schedule.queue
            || '", so its tasks wait until one does.'
        else ''
    end;
end
$$;

create or replace function peers.explain_schedule(name text, at timestamptz default null) returns text
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
#variable_conflict use_column
declare
    _now constant timestamptz := peers.now();
    _schedule peers.schedule;
    _run peers.schedule_run;
    _fired peers.schedule_run;
    _zone text;
begin
    select s.* into _schedule from peers.schedule s where s.name = explain_schedule.name;
    _zone := coalesce(_schedule.timezone, 'UTC');
    select r.* into _run from peers.schedule_run r
    where r.schedule = explain_schedule.name and r.due_at <= coalesce(explain_schedule.at, _now)
    order by r.due_at desc limit 1;
    select r.* into _fired from peers.schedule_run r
    where r.schedule = explain_schedule.name and r.due_at < _run.due_at and r.outcome = 'fired'
      and _run.outcome <> 'fired'
    order by r.due_at desc limit 1;
    if _schedule.name is null and _run.schedule is null then
        raise exception 'there is no schedule "%"', coalesce(left(explain_schedule.name, 200), '')
            using errcode = 'PE012', hint = 'peers.schedule_status lists them; in a shell: peers schedule list.';
    end if;
    return concat_ws(' ',
        case when _schedule.name is null then 'The schedule was deleted.'
             else peers._explain_next_run(_schedule, _now) end,
        case when _run.schedule is not null then peers._explain_run(_run, _zone)
             when explain_schedule.at is null then 'It has not been due yet.'
             when explain_schedule.at < _schedule.anchor then
                 'There is no due time until ' || peers._in_zone(explain_schedule.at, _zone)
                 || ': every counts from the anchor (' || peers._in_zone(_schedule.anchor, _zone) || ').'
             else 'There is no record of a due time until ' || peers._in_zone(explain_schedule.at, _zone)
                  || ': the schedule was created later, or the record was pruned.' end,
        case when _fired.schedule is not null then 'Before: ' || peers._explain_run(_fired, _zone) end,
        case when _run.reason = 'overlap' then peers._explain_unfinished_run(_run) end,
        (select a.message from peers.alert a where a.alert = 'schedule_late' and a.subject = explain_schedule.name),
        (select string_agg('Backfill ' || b.id || ' is in progress: ' || b.fired || ' submitted so far'
                           || coalesce(', and the database has refused the next one: ' || b.error, '') || '.',
                           ' ' order by b.id)
         from peers.schedule_backfill b where b.schedule = explain_schedule.name)
    );
end
$$;

comment on function peers.explain_schedule is
    'Says in words when a schedule is due next and what became of its last due time. at: explains the last due time '
    'until then: peers.explain_schedule(''nightly'', now() - interval ''12 hours'').';
