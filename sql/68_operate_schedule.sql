-- What operators do with schedules: pause, resume, run now, remove, and prune.

-- Locks a schedule and returns it. Raises PE012 if there is none.
create or replace function peers._lock_schedule(_name text) returns peers.schedule
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _schedule peers.schedule;
begin
    perform peers._require_read_committed();
    select s.* into _schedule from peers.schedule s where s.name = _name for update;
    if not found then
        raise exception 'there is no schedule "%"', coalesce(left(_name, 200), '')
            using errcode = 'PE012', hint = 'peers.schedule_status lists them; in a shell: peers schedule list.';
    end if;
    return _schedule;
end
$$;

create or replace function peers.pause_schedule(name text, reason text default null) returns void
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _schedule constant peers.schedule := peers._lock_schedule(pause_schedule.name);
begin
    update peers.schedule s set paused_at = peers.now() where s.name = _schedule.name and s.paused_at is null;
    if found then
        perform peers._record_action(
            'pause_schedule', jsonb_build_object('schedule', _schedule.name), pause_schedule.reason);
    end if;
end
$$;

comment on function peers.pause_schedule is
    'Pauses a schedule: its due times are recorded as skipped until peers.resume_schedule. Running tasks '
    'continue. It writes peers.action, with the reason.';

create or replace function peers.resume_schedule(name text, reason text default null) returns void
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _schedule constant peers.schedule := peers._lock_schedule(resume_schedule.name);
begin
    update peers.schedule s set paused_at = null where s.name = _schedule.name and s.paused_at is not null;
    if found then
        perform peers._record_action(
            'resume_schedule', jsonb_build_object('schedule', _schedule.name), resume_schedule.reason);
    end if;
end
$$;

comment on function peers.resume_schedule is
    'Resumes a paused schedule. It fires at its next due time; peers.backfill_schedule runs those that it has missed. '
    'It writes peers.action, with the reason.';

create or replace function peers.remove_schedule(name text, reason text default null) returns void
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _schedule constant peers.schedule := peers._lock_schedule(remove_schedule.name);
begin
    delete from peers.schedule s where s.name = _schedule.name;
    perform peers._record_action(
        'remove_schedule', jsonb_build_object('schedule', _schedule.name), remove_schedule.reason);
end
$$;

comment on function peers.remove_schedule is
    'Deletes a schedule. Its tasks stay, and its rows in peers.schedule_run stay. If the code of a peer declares it, '
    'the next peer that joins creates it again: pause it instead. It writes peers.action, with the reason.';

create or replace function peers.run_schedule(name text, reason text default null) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _schedule constant peers.schedule := peers._lock_schedule(run_schedule.name);
    _task_id bigint;
begin
    while _task_id is null loop  -- until no other run has this time
        _task_id := peers._submit_run(_schedule, peers.now(), 'manual', '{}');
    end loop;
    perform peers._record_action(
        'run_schedule', jsonb_build_object('schedule', _schedule.name), run_schedule.reason, 1,
        _task_ids => array[_task_id]);
    return _task_id;
end
$$;

comment on function peers.run_schedule is
    'Submits a task of a schedule now, also while it is paused or an earlier run is unfinished. Its due time is now. '
    'Returns the id of the task. It writes peers.action, with the reason.';

create or replace function peers.prune_schedule_runs(older_than interval, max_runs integer default 10000)
    returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set lock_timeout = '1s'
as $$
declare
    _deleted bigint;
begin
    if older_than is null or older_than < interval '0' then
        raise exception 'older_than must be an interval of 0 or more, not %', coalesce(older_than::text, 'null')
            using errcode = 'PE013', hint = 'For example: peers.prune_schedule_runs(''90 days'').';
    end if;
    delete from peers.schedule_run r
    where r.ctid = any (array(
        select o.ctid from peers.schedule_run o
        where o.recorded_at < peers.now() - least(older_than, interval '1000 years')
          -- a handler that runs, or that an operator retries, may ask for its due time
          and not exists (
              select from peers.task t where t.id = o.task_id and t.state not in ('completed', 'cancelled'))
          -- the run that expect_within waits for may have completed long before it is looked for
          and not exists (
              select from peers.schedule s
              where o.task_id is not null and s.name = o.schedule and s.expected_due_at <= o.due_at)
        order by o.recorded_at limit max_runs
        for update skip locked
    ));
    get diagnostics _deleted = row_count;
    return _deleted;
end
$$;

comment on function peers.prune_schedule_runs is
    'Deletes rows of peers.schedule_run that are older than older_than, unless their tasks are unfinished or dead, or '
    'expect_within waits for them. Returns how many; call again while that is max_runs.';
