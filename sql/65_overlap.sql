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

-- Locks earlier runs of a schedule, so that the new run can wait for them. _and_cancel: also cancels them, with their
-- descendants. Raises 55P03 if another session keeps one of them locked, which may last for hours: then this schedule
-- fails, and the others fire. A session that records an outcome needs its lock for a moment only, so this waits for
-- 25 ms. After one such wait without success it no longer waits in this transaction, because another session may have
-- locked the runs of hundreds of schedules.
create or replace function peers._lock_runs(_ids bigint[], _and_cancel boolean) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '25ms'
as $$
declare
    _may_wait constant boolean := current_setting('peers.lock_timed_out', true) is distinct from 'on';
    _locked bigint[];
    _missing bigint;
begin
    if _ids = '{}' then
        return;
    elsif not _may_wait then
        perform set_config('lock_timeout', '1ms', true);
    end if;
    if _and_cancel then
        _locked := array(
            select t.id from peers.task t where t.id = any (_ids) order by t.id for no key update skip locked);
    else
        _locked := array(select t.id from peers.task t where t.id = any (_ids) order by t.id for share skip locked);
    end if;
    _missing := (select min(t.id) from peers.task t where t.id = any (_ids) and t.id <> all (_locked));
    if _missing is not null and not _may_wait then
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
