-- An INSERT into peers.schedule creates a schedule, UPDATE and DELETE change and remove it. Triggers check the row, and
-- notify the peers, which compute when it is due next.

-- Returns whether an interval has months or years, which have no fixed length.
create or replace function peers._has_months(_length interval) returns boolean
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return extract(year from _length) <> 0 or extract(month from _length) <> 0;
end
$$;

-- Returns the first thing that is wrong with the intervals of a schedule. Null: nothing is wrong.
create or replace function peers._schedule_interval_problem(_schedule peers.schedule) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case
        when peers._has_months(_schedule.every) then
            'every must not have months or years, which have no fixed length: for once a month, set cron to '
            '"0 0 1 * *"'
        when _schedule.every not between interval '1 second' and interval '365 days' then
            'every must be 1 second to 365 days, such as 15 minutes, not ' || _schedule.every
        when peers._has_months(_schedule.catch_up)
             or _schedule.catch_up not between interval '0' and interval '365 days' then
            'catch_up must be 0 to 365 days, without months, such as 6 hours, not ' || _schedule.catch_up
        when peers._has_months(_schedule.jitter) or _schedule.jitter not between interval '0' and interval '1 day' then
            'jitter must be 0 to 1 day, such as 30 seconds, not ' || _schedule.jitter
        when peers._has_months(_schedule.expect_within)
             or _schedule.expect_within not between interval '1 second' and interval '365 days' then
            'expect_within must be 1 second to 365 days, without months, such as 2 hours, not '
            || _schedule.expect_within
    end;
end
$$;

-- Returns the first thing that is wrong with a schedule, with its bound and an example. Null: nothing is wrong.
create or replace function peers._schedule_problem(_schedule peers.schedule) returns text
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case
        when _schedule.name is null or length(_schedule.name) not between 1 and 200 then
            'name must have 1 to 200 characters, not ' || coalesce(length(_schedule.name), 0)
        when _schedule.name ~ '[[:cntrl:]]' then 'name must not contain control characters'
        when num_nonnulls(_schedule.cron, _schedule.every) <> 1 then
            'set either cron, such as "0 2 * * *" (each night at 2), or every, such as 15 minutes, and not both'
        when _schedule.anchor is not null and _schedule.every is null then
            'anchor belongs to every; cron has none'
        when _schedule.anchor not between '1900-01-01 00:00:00+00' and '9000-01-01 00:00:00+00' then
            'anchor must be between the years 1900 and 9000, not ' || _schedule.anchor
        when _schedule.paused_at not between '1900-01-01 00:00:00+00' and '9000-01-01 00:00:00+00' then
            'paused_at must be between the years 1900 and 9000, such as now(), not ' || _schedule.paused_at
        else coalesce(
            peers._cron_problem(_schedule.cron),
            peers._timezone_problem(_schedule.timezone),
            peers._schedule_interval_problem(_schedule),
            peers._validate_task(
                _schedule.kind, _schedule.args, _schedule.queue, _schedule.max_attempts, _schedule.timeout, null,
                -- with the keys that the scheduler adds to each task
                _schedule.metadata || jsonb_build_object('schedule', _schedule.name, 'due_at', repeat('0', 32)))
        )
    end;
end
$$;

-- Returns since when a schedule may have due times that no peer has fired; null: it has none. If no peer has computed
-- the next one yet, cron may be due at each full minute.
create or replace function peers._unfired_since(_schedule peers.schedule, _now timestamptz) returns timestamptz
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case
        when _schedule.next_due_at <= _now then _schedule.next_due_at
        when _schedule.next_due_at is not null then null
        when _schedule.cron is not null and date_trunc('minute', _now) > _schedule.computed_from
            then _schedule.computed_from
        when _schedule.anchor <= _now
             and floor(extract(epoch from _now - _schedule.anchor) / extract(epoch from _schedule.every))
                 > floor(extract(epoch from _schedule.computed_from - _schedule.anchor)
                         / extract(epoch from _schedule.every))
            then _schedule.computed_from
    end;
end
$$;

-- Records the due times that no peer has fired when the schedule is changed or deleted, so that none is lost without a
-- trace.
create or replace function peers._record_unfired(
    _schedule peers.schedule, _now timestamptz, _reason text
) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _since constant timestamptz := peers._unfired_since(_schedule, _now);
begin
    if _since is not null then
        perform peers._record_skipped(
            _schedule.name, array[_since],
            array[case when _schedule.paused_at is null then _reason else 'paused' end], _now);
    end if;
end
$$;

-- Returns the first thing that is wrong with an INSERT (_old is null) or an UPDATE. Null: nothing is wrong.
create or replace function peers._schedule_write_problem(_new peers.schedule, _old peers.schedule) returns text
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return coalesce(peers._schedule_problem(_new), case
        when _new.name <> _old.name then
            'the name of a schedule cannot be changed: insert another schedule, and delete this one'
        when _old.name is null and (
            num_nonnulls(_new.next_due_at, _new.computed_from, _new.resumed_at, _new.retry_at, _new.error,
                         _new.expected_due_at, _new.expect_at) > 0 or _new.failures <> 0
        ) then
            'next_due_at, computed_from, resumed_at, failures, error, retry_at, expected_due_at and expect_at '
            'are kept by the scheduler; leave them out of the INSERT'
    end);
end
$$;

-- Before an INSERT, or an UPDATE of what users set.
create or replace function peers.check_schedule() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now constant timestamptz := peers.now();
    _problem text;
begin
    if tg_op = 'UPDATE' and new.every is null and old.every is not null and new.anchor = old.anchor then
        new.anchor := null;  -- a change to cron need not know that the INSERT has set it
    end if;
    _problem := peers._schedule_write_problem(new, case when tg_op = 'UPDATE' then old end);
    if _problem is not null then
        raise exception 'peers.schedule "%": %', left(new.name, 200), _problem using errcode = 'PE013';
    end if;
    new.changed_at := _now;
    if tg_op = 'INSERT' or (new.cron, new.every, new.anchor, new.timezone)
                           is distinct from (old.cron, old.every, old.anchor, old.timezone) then
        if tg_op = 'UPDATE' then
            perform peers._record_unfired(old, _now, 'changed');
        end if;
        if new.every is not null then
            new.anchor := coalesce(new.anchor, _now);
        end if;
        new.next_due_at := null;
        new.computed_from := _now;
        new.revision := gen_random_uuid();
        new.failures := 0;
        new.error := null;
        new.retry_at := null;
    end if;
    if tg_op = 'UPDATE' and old.paused_at is not null and new.paused_at is null then
        new.resumed_at := _now;
    end if;
    if tg_op = 'UPDATE' and new.overlap <> old.overlap then
        -- while overlap is allowed, the column unfinished is not kept up to date
        perform peers._unfinished_runs(old.name);
    end if;
    if new.expect_within is null then
        new.expected_due_at := null;
        delete from peers.alert a where a.alert = 'schedule_late' and a.subject = new.name;
    end if;
    new.expect_at := new.expected_due_at + new.expect_within;
    return new;
end
$$;

comment on function peers.check_schedule() is
    'Trigger: refuses a malformed schedule (PE013), and has its next due time computed again if its times change.';

create or replace trigger check_schedule before insert or update of name, cron, every, anchor, timezone, kind, args,
    queue, priority, max_attempts, timeout, metadata, misfire, catch_up, overlap, jitter, expect_within, paused_at
    on peers.schedule
    for each row execute function peers.check_schedule();

create or replace function peers.notify_schedule() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform peers._notify('schedule');
    return null;
end
$$;

comment on function peers.notify_schedule() is
    'Trigger: notifies the peers, which compute when the schedule is due next.';

create or replace trigger notify_schedule after insert or update of cron, every, anchor, timezone, expect_within
    on peers.schedule
    for each statement execute function peers.notify_schedule();

-- Before a DELETE.
create or replace function peers.clean_up_schedule() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now constant timestamptz := peers.now();
begin
    perform peers._record_unfired(old, _now, 'deleted');
    delete from peers.schedule_backfill b where b.schedule = old.name;
    delete from peers.alert a where a.alert = 'schedule_late' and a.subject = old.name;
    return old;
end
$$;

comment on function peers.clean_up_schedule() is
    'Trigger: deletes the backfills and the alert of a deleted schedule, and records a due time that has not fired.';

create or replace trigger clean_up_schedule before delete on peers.schedule
    for each row execute function peers.clean_up_schedule();
