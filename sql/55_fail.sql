-- A failed attempt: the task is retried, dies, or is cancelled. A handler can also snooze its task.

-- Never raises: a single policy with odd values must not keep a batch of failures from being recorded.
create or replace function peers.backoff(
    attempt integer, base interval, cap interval, jitter double precision default random()
) returns interval
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _longest constant double precision := 365 * 86400;
    _doublings constant integer := least(greatest(attempt, 1), 41) - 1;  -- 2 ^ 40 is beyond any cap
    _base constant double precision := least(greatest(extract(epoch from base), 0), _longest);
    _cap constant double precision := least(greatest(extract(epoch from cap), 0), _longest);
begin
    -- NaN counts as greater than every number, so it becomes the upper bound
    return least(greatest(jitter, 0), 1) * least(_cap, _base * 2.0 ^ _doublings) * interval '1 second';
end
$$;

comment on function peers.backoff is
    'Returns how long to wait after a failed attempt: a random share (jitter, 0 to 1) of base * 2^(attempt - 1), which '
    'is at most cap and 365 days. With full jitter, tasks that failed together are not retried together.';

-- Records the failures of attempts that the caller has locked, and changes the state of their tasks. A report has
-- error_type, error_message, traceback, exit_signal, exit_code, retry_in (seconds, instead of the backoff), reject
-- (dead at once) and snooze (the attempt does not count and is not a failure). Texts are shortened so that 100 failures
-- fit into one row of the view dead_letter.
--
-- How many attempts a task may have, and its backoff, are read here: from the task, or from what handlers of its kind
-- declare. So a change of these counts for attempts that are running too.
create or replace function peers._record_failures(_task_ids bigint[], _tokens uuid[], _reports jsonb[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
    _longest_wait constant integer := 365 * 86400;  -- a larger retry_in could overflow an interval
begin
    with verdict as materialized (
        select t.id as task_id, a.token, l.peer_id, t.attempt, l.claimed_at,
               r.error_type, r.error_message, r.traceback, r.exit_signal, r.exit_code,
               case
                   when c.cancelled then 'cancelled'
                   when coalesce(r.snooze, false) then 'scheduled'
                   when coalesce(r.reject, false) or t.attempt >= coalesce(t.max_attempts, k.max_attempts, 5)
                       then 'dead'
                   else 'scheduled'
               end::peers.task_state as state,
               coalesce(r.snooze, false) and not c.cancelled as snoozed,
               _now + case
                          when r.retry_in is null
                              then peers.backoff(t.attempt, coalesce(k.backoff_base, '1 second'),
                                                 coalesce(k.backoff_cap, '1 hour'))
                          else least(greatest(r.retry_in, 0), _longest_wait)::double precision * interval '1 second'
                      end as retry_at
        from unnest(_task_ids, _tokens, _reports) a(task_id, token, report)
        cross join lateral jsonb_to_record(a.report) r(
            error_type text, error_message text, traceback text, exit_signal text, exit_code integer,
            retry_in numeric, reject boolean, snooze boolean)
        cross join lateral (select t.* from peers.task t where t.id = a.task_id offset 0) t
        cross join lateral (select l.* from peers.lease l where l.token = a.token offset 0) l
        cross join lateral (select exists (
            select from peers.cancel_request c where c.token = a.token and c.task_id = a.task_id) as cancelled) c
        left join peers.kind k on k.kind = t.kind
    ), recorded as (
        insert into peers.failure (task_id, attempt, token, error_type, error_message, traceback, exit_signal,
                                   exit_code, peer_id, host, pid, started_at, failed_at, retry_at)
        select v.task_id, v.attempt, v.token, left(coalesce(v.error_type, 'unknown'), 200),
               left(coalesce(v.error_message, ''), 20000), left(v.traceback, 100000), left(v.exit_signal, 200),
               v.exit_code, v.peer_id, p.host, p.pid, v.claimed_at, _now,
               case when v.state = 'scheduled' then v.retry_at end
        from verdict v left join peers.peer p on p.id = v.peer_id
        where not v.snoozed
        order by v.task_id
    ), moved as (
        update peers.task t
        set state = case when v.state = 'scheduled' and v.retry_at <= _now then 'ready' else v.state end,
            scheduled_at = case when v.state = 'scheduled' then v.retry_at else t.scheduled_at end,
            finished_at = case when v.state = 'scheduled' then null else _now end,
            attempt = t.attempt - case when v.snoozed then 1 else 0 end,
            stopped_because = case
                when v.snoozed then 'snoozed by its handler at ' || _now || ': '
                    || left(coalesce(v.error_message, ''), 1000)
                else t.stopped_because
            end
        from verdict v
        where t.id = v.task_id and t.id = any (array(select v.task_id from verdict v))
        returning t.id, t.state, t.queue, t.kind, t.priority, t.scheduled_at
    ), died as (
        insert into peers.dead (task_id, queue, kind, died_at)
        select m.id, m.queue, m.kind, _now from moved m where m.state = 'dead'
    ), later as (
        insert into peers.scheduled (due_at, task_id)
        select m.scheduled_at, m.id from moved m where m.state = 'scheduled'
    )
    insert into peers.ready (queue, kind, priority, task_id)
    select m.queue, m.kind, m.priority, m.id from moved m where m.state = 'ready' order by m.id;
    if found then
        perform peers._notify();
    end if;
end
$$;

create or replace function peers.fail(peer_id uuid, failures jsonb, patient boolean default false)
returns table (task_id bigint, token uuid, verdict text)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _tasks bigint[];
    _tokens uuid[];
    _reports jsonb[];
    _recorded bigint[];
    _all_recorded boolean;
begin
    select array_agg((f.report ->> 'task_id')::bigint), array_agg((f.report ->> 'token')::uuid), array_agg(f.report)
    into _tasks, _tokens, _reports
    from jsonb_array_elements(fail.failures) f(report);
    if fail.patient then
        perform peers._wait_for_edges();
    end if;
    _recorded := peers._record_without_waiting(fail.peer_id, _tasks, _tokens, 'fail', _reports);
    _all_recorded := cardinality(_recorded) = cardinality(_tasks);
    return query
        select t.id, t.token,
               case
                   when t.state = 'dead' then 'dead'
                   when t.state = 'cancelled' then 'cancelled'
                   when r.report ->> 'snooze' = 'true' then 'snoozed'
                   else 'retried'
               end
        from unnest(_tasks, _tokens, _reports) r(task_id, token, report)
        cross join lateral (select t.* from peers.task t where t.id = r.task_id offset 0) t
        -- to compare each task of a batch with all of them would take a microsecond a task
        where (_all_recorded or t.id = any (_recorded)) and t.token = r.token;
    if not _all_recorded then
        return query select * from peers._why_not_recorded(fail.peer_id, _tasks, _tokens, _recorded);
    end if;
end
$$;

comment on function peers.fail is
    'Records failed attempts: [{"task_id", "token", "error_type", "error_message", "traceback", "exit_signal", '
    '"exit_code", "retry_in" (seconds, instead of the backoff), "reject" (dead at once), "snooze" (not a failure: the '
    'attempt does not count)}]. Returns a verdict for each. Recorded: retried, dead, cancelled (on request) '
    'or snoozed. Not recorded: stale, already or busy. patient: as in peers.complete.';
