-- Alerts: a run of a schedule with expect_within has not completed in time.

-- Raises the alert of a schedule, unless it is raised already. Returns it if it is new.
create or replace function peers._raise_late(_schedule peers.schedule, _now timestamptz) returns jsonb
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _due_at constant timestamptz := _schedule.expected_due_at;
    _details constant jsonb := jsonb_build_object(
        'schedule', _schedule.name, 'due_at', _due_at, 'expect_within', _schedule.expect_within);
begin
    -- an INSERT alone would wait for a session that has deleted the row and is not committed
    if exists (select from peers.alert a where a.alert = 'schedule_late' and a.subject = _schedule.name) then
        return null;
    end if;
    insert into peers.alert (alert, subject, message, details, raised_at)
    values ('schedule_late', _schedule.name,
            'No run of schedule "' || _schedule.name || '" has completed since it was due at ' || _due_at
            || ', within ' || _schedule.expect_within || '.',
            _details, _now);
    return _details;
end
$$;

-- Deletes the alert of a schedule. Returns false if a session has locked it.
create or replace function peers._end_late(_schedule text) returns boolean
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if not exists (select from peers.alert a where a.alert = 'schedule_late' and a.subject = _schedule) then
        return true;
    end if;
    perform from peers.alert a where a.alert = 'schedule_late' and a.subject = _schedule for update skip locked;
    if not found then
        return false;
    end if;
    delete from peers.alert a where a.alert = 'schedule_late' and a.subject = _schedule;
    return true;
end
$$;

-- Checks one schedule, which the caller has locked. Returns the alert that it has raised, or null.
create or replace function peers._check_expected_run(_schedule peers.schedule, _now timestamptz) returns jsonb
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _completed timestamptz;
    _expected timestamptz;
    _raised jsonb;
begin
    -- a task that is gone has ended and was pruned
    select max(r.due_at) into _completed
    from peers.schedule_run r left join peers.task t on t.id = r.task_id
    where r.schedule = _schedule.name and r.due_at >= _schedule.expected_due_at and r.outcome = 'fired'
      and coalesce(t.state = 'completed', true);
    if _completed is null and _schedule.paused_at is null then
        _raised := peers._raise_late(_schedule, _now);
    elsif peers._end_late(_schedule.name) then
        select min(r.due_at) into _expected
        from peers.schedule_run r
        where _schedule.paused_at is null and r.schedule = _schedule.name and r.due_at > _completed and r.cause = 'due'
          and r.reason is distinct from 'paused';
        update peers.schedule s set expected_due_at = _expected, expect_at = _expected + s.expect_within
        where s.name = _schedule.name;
        return null;
    end if;
    update peers.schedule s set expect_at = _now + interval '30 seconds' where s.name = _schedule.name;
    return _raised;
end
$$;

-- Checks the schedules whose run should have completed by now. Returns the alerts that it has raised.
create or replace function peers._check_expected_runs(_now timestamptz) returns jsonb
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
as $$
declare
    _schedule peers.schedule;
    _alert jsonb;
    _raised jsonb := '[]';
begin
    for _schedule in
        select s.* from peers.schedule s
        where s.look_at <= _now and s.expect_at <= _now
        limit 50
        for update skip locked
    loop
        _alert := peers._check_expected_run(_schedule, _now);
        if _alert is not null then
            _raised := _raised || _alert;
        end if;
    end loop;
    return _raised;
end
$$;
