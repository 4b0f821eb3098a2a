-- What happens at a due time while earlier runs of the schedule are unfinished.

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

-- Locks earlier runs of a schedule, which the new run waits for, or (_and_cancel) cancels them with their descendants.
-- Raises 55P03 if another session keeps one of them locked: it may do so for hours, and only this schedule has to wait
-- for it. A session that records the outcome of a run needs a moment only, so this waits 25 ms; but once only, if the
-- runs of many schedules are locked.
create or replace function peers._lock_runs(_ids bigint[], _and_cancel boolean) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '25ms'
as $$
declare
    _locked bigint[];
    _missing bigint;
begin
    if _ids = '{}' then
        return;
    elsif current_setting('peers.waited_in_vain', true) = 'on' then
        perform set_config('lock_timeout', '1ms', true);
    end if;
    if _and_cancel then
        _locked := array(
            select t.id from peers.task t where t.id = any (_ids) order by t.id for no key update skip locked);
    else
        _locked := array(select t.id from peers.task t where t.id = any (_ids) order by t.id for share skip locked);
    end if;
    _missing := (select min(t.id) from peers.task t where t.id = any (_ids) and t.id <> all (_locked));
    if _missing is not null and current_setting('lock_timeout') = '1ms' then
        raise lock_not_available;
    elsif _and_cancel then
        perform peers._lock_with_descendants(_ids);
        perform peers._cancel(_ids);
    elsif _missing is not null then
        perform from peers.task t where t.id = any (_ids) order by t.id for share;
    end if;
exception when lock_not_available then
    raise exception 'another session has locked %',
        coalesce('task ' || _missing || ', an earlier run', 'a task that waits for an earlier run')
        using errcode = 'lock_not_available';
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
        if not skipped then
            perform peers._lock_runs(_unfinished, false);
            parents := _unfinished;
        end if;
    else
        perform peers._lock_runs(_unfinished, true);
        parents := peers._unfinished_runs(_schedule.name);
    end if;
end
$$;
