-- Outcomes. An outcome is recorded only for the attempt that it belongs to: the lease with this token is the peer's, and
-- the task is running under this token. Each function takes a batch and returns what it did not record, with a verdict:
--   stale      the attempt is over or is another peer's; the outcome is void
--   already    this outcome was recorded before (the reply to that commit was lost)
--   busy       another session has the task or one of its children locked; try again in a moment
--   too large  the result exceeds 1 MiB; fail the task instead
--
-- Order of locks. Complete, fail, release, reclaim, reconcile, leave, cancel and hold_lease take their locks in this order,
-- so that no two of them wait for each other in a circle:
--   1. the peer's row: claim, reclaim and leave; none of them waits for it
--   2. task rows: running tasks before tasks that wait, and each of the two by ascending id
--   3. leases by ascending token, after all tasks of the batch
-- Rows of cancel_request and task_progress are written only while their task is locked. A peer also gives up a lock
-- that it does not get soon (lock_timeout), because an application may lock task rows in any order and for any time.

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

-- Locks and returns those of the given attempts that the peer still holds, by ascending task. It leaves out tasks that
-- another session has locked. `_details`: one element for each attempt, or null.
create or replace function peers._lock_attempts(
    _peer_id uuid, inout _task_ids bigint[], inout _tokens uuid[], inout _details jsonb[]
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    select coalesce(array_agg(t.id), '{}'), array_agg(t.token), array_agg(o.detail)
    into _task_ids, _tokens, _details
    from (
        select distinct on (o.task_id, o.token) o.task_id, o.token, o.detail
        from unnest(_task_ids, _tokens, _details) o(task_id, token, detail)
        where exists (select from peers.lease l where l.token = o.token and l.peer_id = _peer_id)
        order by o.task_id, o.token
    ) o
    cross join lateral (
        select t.id, t.token from peers.task t
        where t.id = o.task_id and t.token = o.token and t.state = 'running'
        for no key update skip locked
    ) t;
end
$$;

-- Deletes the cancel requests and the progress of attempts that have just ended.
create or replace function peers._forget_attempts(_task_ids bigint[], _tokens uuid[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    delete from peers.cancel_request r using unnest(_task_ids, _tokens) e(task_id, token)
    where r.token = e.token and r.task_id = e.task_id;
    delete from peers.task_progress p using unnest(_task_ids, _tokens) e(task_id, token)
    where p.token = e.token and p.task_id = e.task_id;
end
$$;

-- Takes attempts that have just ended off their leases, and deletes the leases that have no running task left. `_tokens`
-- has one element for each attempt.
create or replace function peers._close_attempts(_task_ids bigint[], _tokens uuid[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform from peers.lease l where l.token = any (_tokens) order by l.token for update;
    update peers.lease l set open = l.open - e.ended
    from (select o.token, count(*)::integer as ended from unnest(_tokens) o(token) group by o.token) e
    where l.token = e.token;
    delete from peers.lease l where l.token = any (_tokens) and l.open = 0;
    if exists (select from peers.cancel_request) or exists (select from peers.task_progress) then
        perform peers._forget_attempts(_task_ids, _tokens);
    end if;
end
$$;

-- Records a batch of outcomes of one sort and returns the tasks for which it did. `_outcome` is complete (`_details` are
-- the results), fail (the reports) or release (why the peer stopped each handler).
create or replace function peers._record_outcomes(
    _peer_id uuid, _task_ids bigint[], _tokens uuid[], _outcome text, _details jsonb[]
) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
begin
    select * into _task_ids, _tokens, _details
    from peers._lock_attempts(_peer_id, _task_ids, _tokens, _details);
    if _task_ids = '{}' then
        return _task_ids;
    elsif _outcome = 'complete' then
        update peers.task t set state = 'completed', finished_at = _now, result = nullif(o.result, 'null')
        from unnest(_task_ids, _details) o(task_id, result)
        where t.id = o.task_id;
    elsif _outcome = 'fail' then
        perform peers._record_failures(_task_ids, _tokens, _details);
    else
        perform peers._release_attempts(_task_ids, _tokens, _details);
    end if;
    perform peers._close_attempts(_task_ids, _tokens);
    return _task_ids;
end
$$;

-- Records the outcomes that can be recorded without a long wait. An outcome locks more than its own task: the children,
-- the descendants that a death cancels, the lease. Peers that record outcomes of siblings wait there for each other,
-- for a short time. An application may keep such a row locked for much longer. So the batch waits once, up to this
-- lock_timeout; after that each outcome is recorded by itself, and those that would have to wait are left out.
-- `_skip_errors`: outcomes that raise, such as in an application's trigger, are left out as well.
create or replace function peers._record_without_waiting(
    _peer_id uuid, _task_ids bigint[], _tokens uuid[], _outcome text, _details jsonb[],
    _skip_errors boolean default false
) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '200ms'
as $$
declare
    _recorded bigint[] := '{}';
begin
    perform peers._require_read_committed();
    begin
        return peers._record_outcomes(_peer_id, _task_ids, _tokens, _outcome, _details);
    exception when others then
        if sqlstate <> '55P03' and not _skip_errors then
            raise;
        end if;
    end;
    perform set_config('lock_timeout', '1ms', true);
    for i in 1 .. cardinality(_task_ids) loop
        begin
            _recorded := _recorded
                || peers._record_outcomes(_peer_id, _task_ids[i:i], _tokens[i:i], _outcome, _details[i:i]);
        exception when others then
            if sqlstate <> '55P03' then
                if not _skip_errors then
                    raise;
                end if;
                raise warning 'the outcome of task % (%) could not be recorded: %', _task_ids[i], _outcome, sqlerrm;
            end if;
        end;
    end loop;
    return _recorded;
end
$$;

-- Returns why outcomes were not recorded. The task's last token tells whether an outcome was recorded before.
create or replace function peers._why_not_recorded(
    _peer_id uuid, _task_ids bigint[], _tokens uuid[], _recorded bigint[], _outcome text
) returns table (task_id bigint, token uuid, verdict text)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return query
    select o.task_id, o.token,
           case
               when t.token = o.token and t.state = 'running' and exists (
                        select from peers.lease l where l.token = o.token and l.peer_id = _peer_id) then 'busy'
               when _outcome = 'complete' and t.token = o.token and t.state = 'completed' then 'already'
               when _outcome = 'fail' and exists (
                        select from peers.failure f
                        where f.task_id = o.task_id and f.token = o.token and f.error_type <> 'lost') then 'already'
               else 'stale'
           end
    from unnest(_task_ids, _tokens) o(task_id, token)
    left join peers.task t on t.id = o.task_id
    where o.task_id is not null and (o.task_id <> all (_recorded) or o.token is distinct from t.token);
end
$$;

create or replace function peers.complete(peer_id uuid, tokens uuid[], task_ids bigint[], results jsonb)
returns table (task_id bigint, token uuid, verdict text)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
as $$
declare
    _tokens uuid[] := case when cardinality(complete.tokens) = 1
                           then array_fill(complete.tokens[1], array[cardinality(complete.task_ids)])
                           else complete.tokens end;
    _results jsonb[];
    _too_large bigint[];
    _recorded bigint[];
begin
    _results := array(select r.result from jsonb_array_elements(complete.results) r(result));
    _too_large := array(
        select o.task_id from unnest(complete.task_ids, _results) o(task_id, result)
        where case
            when o.result is null or pg_column_size(o.result) <= 100 then false
            when pg_column_size(o.result) <= 4096 then octet_length(o.result::text) > 1048576
            else peers._text_size(o.result) > 1048576
        end
    );
    if _too_large <> '{}' then
        return query
            select o.task_id, o.token, 'too large'
            from unnest(complete.task_ids, _tokens) o(task_id, token)
            where o.task_id = any (_too_large);
    end if;
    select array_agg(o.task_id), array_agg(o.token), array_agg(o.result) into complete.task_ids, _tokens, _results
    from unnest(complete.task_ids, _tokens, _results) o(task_id, token, result)
    where o.task_id <> all (_too_large);
    _recorded := peers._record_without_waiting(complete.peer_id, complete.task_ids, _tokens, 'complete', _results);
    if cardinality(_recorded) < cardinality(complete.task_ids) then
        return query
            select * from peers._why_not_recorded(complete.peer_id, complete.task_ids, _tokens, _recorded, 'complete');
    end if;
end
$$;

comment on function peers.complete is
    'Completes tasks. tokens: one for all tasks, or one for each. results: a JSON array with one element for each task; '
    'null: no task has a result. Returns only those that were not recorded, each with a verdict: stale, already, busy or '
    'too large.';
