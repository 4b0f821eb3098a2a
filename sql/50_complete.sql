-- Outcomes. An outcome is recorded only for the lease that it belongs to: (task, token, peer). Each function takes a
-- batch and returns what it did not record, with a verdict:
--   stale      the lease is gone; the outcome is void
--   already    this outcome was recorded before (the reply to that commit was lost)
--   busy       another session has the task or one of its children locked; try again in a moment
--   too large  the result exceeds 1 MiB; fail the task instead

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

-- Locks the given tasks, and deletes and returns their leases if the peer holds them under these tokens. A task that
-- another session has locked keeps its lease.
create or replace function peers._take_leases(_peer_id uuid, _task_ids bigint[], _tokens uuid[])
returns setof peers.lease
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    select array_agg(t.id), array_agg(o.token) into _task_ids, _tokens
    from unnest(_task_ids, _tokens) o(task_id, token)
    cross join lateral (
        select t.id from peers.task t where t.id = o.task_id for no key update skip locked
    ) t;
    return query
        delete from peers.lease l
        where l.ctid = any (array(
            select l.spot
            from unnest(_task_ids, _tokens) o(task_id, token)
            cross join lateral (
                select l.ctid as spot from peers.lease l
                where l.task_id = o.task_id and l.token = o.token and l.peer_id = _peer_id
                offset 0
            ) l
        ))
        returning l.*;
end
$$;

-- Records a batch of outcomes of one sort and returns the tasks for which it did. `_outcome` is complete (`_details`
-- maps "task token" to the result), fail (`_details` are the reports) or release (`_details` maps "task token" to why
-- it was stopped).
create or replace function peers._record_outcomes(
    _peer_id uuid, _task_ids bigint[], _tokens uuid[], _outcome text, _details jsonb
) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
    _leases peers.lease[];
    _recorded bigint[];
begin
    if _outcome = 'complete' then
        _recorded := array(select l.task_id from peers._take_leases(_peer_id, _task_ids, _tokens) l);
        -- the results come from a map instead of a join, so that the planner has only one choice
        update peers.task t
        set state = 'completed', finished_at = _now,
            result = nullif(_details -> (t.id || ' ' || t.token), 'null')
        where t.id = any (_recorded);
        return _recorded;
    end if;
    _leases := array(select l from peers._take_leases(_peer_id, _task_ids, _tokens) l);
    if _outcome = 'fail' then
        perform peers._record_failures(_leases, _details);
    else
        perform peers._release_leases(_leases, _details);
    end if;
    return array(select l.task_id from unnest(_leases) l);
end
$$;

-- Records the outcomes that can be recorded without a long wait. An outcome locks more than its own task: the children,
-- the descendants that a death cancels, the lease. Peers that record outcomes of siblings wait there for each other,
-- for a short time. An application may keep such a row locked for much longer. So the batch waits once, up to this
-- lock_timeout; after that each outcome is recorded by itself, and those that would have to wait are left out.
-- `_skip_errors`: outcomes that raise, such as in an application's trigger, are left out as well.
create or replace function peers._record_without_waiting(
    _peer_id uuid, _task_ids bigint[], _tokens uuid[], _outcome text, _details jsonb, _skip_errors boolean default false
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
                || peers._record_outcomes(_peer_id, _task_ids[i:i], _tokens[i:i], _outcome, _details);
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
    _peer_id uuid, _task_ids bigint[], _tokens uuid[], _recorded bigint[], _completing boolean
) returns table (task_id bigint, token uuid, verdict text)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return query
    select o.task_id, o.token,
           case
               when exists (select from peers.lease l
                            where l.task_id = o.task_id and l.token = o.token and l.peer_id = _peer_id) then 'busy'
               when _completing and t.token = o.token and t.state = 'completed' then 'already'
               when not _completing and exists (
                        select from peers.failure f
                        where f.task_id = o.task_id and f.token = o.token and f.error_type <> 'lost') then 'already'
               else 'stale'
           end
    from unnest(_task_ids, _tokens) o(task_id, token)
    left join peers.task t on t.id = o.task_id
    where o.task_id <> all (_recorded) or o.token <> t.token;
end
$$;

create or replace function peers.complete(peer_id uuid, outcomes jsonb)
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
    _tasks bigint[];
    _tokens uuid[];
    _results jsonb;
    _too_large text[];
    _recorded bigint[];
begin
    -- up to 100 bytes of jsonb are less than 1 MiB of text, and up to 4,096 bytes no more than 33 MiB
    select array_agg(o.task_id), array_agg(o.token), jsonb_object_agg(o.task_id || ' ' || o.token, o.result),
           array_agg(o.task_id || ' ' || o.token) filter (where case
               when o.result is null or pg_column_size(o.result) <= 100 then false
               when pg_column_size(o.result) <= 4096 then octet_length(o.result::text) > 1048576
               else peers._text_size(o.result) > 1048576
           end)
    into _tasks, _tokens, _results, _too_large
    from jsonb_to_recordset(complete.outcomes) o(task_id bigint, token uuid, result jsonb)
    where o.task_id is not null and o.token is not null;

    if _too_large is not null then
        return query
            select o.task_id, o.token, 'too large'
            from unnest(_tasks, _tokens) o(task_id, token)
            where o.task_id || ' ' || o.token = any (_too_large);
        select array_agg(o.task_id), array_agg(o.token) into _tasks, _tokens
        from unnest(_tasks, _tokens) o(task_id, token)
        where o.task_id || ' ' || o.token <> all (_too_large);
    end if;

    _recorded := peers._record_without_waiting(complete.peer_id, _tasks, _tokens, 'complete', _results);
    if cardinality(_recorded) < cardinality(_tasks) then
        return query select * from peers._why_not_recorded(complete.peer_id, _tasks, _tokens, _recorded, true);
    end if;
end
$$;

comment on function peers.complete is
    'Completes tasks: [{"task_id", "token", "result"}]. Returns only those that were not recorded, each with a '
    'verdict: stale, already, busy or too large.';
