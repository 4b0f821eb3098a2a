-- Settling. An outcome is taken only with the lease that it belongs to: (task, token, peer). Each function
-- takes a batch and answers what it did not settle, and why:
--   stale    the lease is gone; the outcome is void
--   already  this very outcome was recorded before (a commit whose answer got lost)
--   busy     somebody else has the task or one of its children locked; ask again in a moment
--   too large  the result exceeds 1 MiB; fail the task instead

create or replace function peers.backoff(
    attempt integer, base interval, cap interval, luck double precision default random()
) returns interval
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most_doublings constant integer := 40;  -- beyond any cap, and within what an interval can hold
begin
    return luck * least(
        extract(epoch from cap), extract(epoch from base) * 2.0 ^ least(attempt - 1, _most_doublings)
    ) * interval '1 second';
end
$$;

comment on function peers.backoff is
    'How long to wait after a failed attempt: a random part (luck, 0 to 1) of base * 2^(attempt - 1), at most '
    'of cap. Full jitter, so that tasks that failed together do not come back together.';

-- What an end touches below must be locked too. Peers that settle siblings meet here and wait for one
-- another, which is short; an application that sits on a child is waited for no longer than this.
create or replace function peers._lock_patiently(_ids bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '200ms'
as $$
begin
    perform from peers.task t where t.id = any (_ids) order by t.id for no key update;
end
$$;

-- Answers those of the given locked tasks for which all that their end touches could be locked as well. A
-- completion touches the children; a death or cancellation whatever it dooms; all others nothing.
create or replace function peers._settleable(_ids bigint[], _completing boolean, _dying bigint[]) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _touched bigint[] := '{}';
    _free bigint[];
begin
    if _completing then
        _touched := array(
            select distinct d.child_id from peers.dependency d where d.parent_id = any (_ids) and not d.spent
        );
    elsif _dying <> '{}' then
        _touched := array(select distinct t.id from peers._touched('{}', _dying, _dying) t);
    end if;
    if _touched <> '{}' then
        perform peers._lock_patiently(_touched);
    end if;
    return _ids;
exception when lock_not_available then
    _free := array(
        select t.id from peers.task t where t.id = any (_touched) for no key update skip locked
    );
    return array(
        select i.id from unnest(_ids) i(id)
        where not exists (
            select from peers._touched(
                case when _completing then array[i.id] else '{}' end,
                case when i.id = any (_dying) then array[i.id] else '{}' end,
                case when i.id = any (_dying) then array[i.id] else '{}' end
            ) t
            where t.id <> all (_free)
        )
    );
end
$$;

-- Locks the given tasks and takes their leases, if the peer holds them under just these tokens; answers the
-- leases that it took. What is busy keeps its lease. `_ending` says what comes of it: complete, fail (then
-- `_rejected` says which have no attempt left whatever their number) or release.
create or replace function peers._take_leases(
    _peer_id uuid, _task_ids bigint[], _tokens uuid[], _ending text, _rejected bigint[] default '{}'
) returns setof peers.lease
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _locked bigint[];
    _dying bigint[] := '{}';
    _settleable bigint[];
begin
    perform peers._require_read_committed();
    select array_agg(t.id), array_agg(o.token) into _task_ids, _tokens
    from unnest(_task_ids, _tokens) o(task_id, token)
    cross join lateral (
        select t.id from peers.task t where t.id = o.task_id for no key update skip locked
    ) t;
    _locked := coalesce(_task_ids, '{}');
    if _ending <> 'complete' then
        _dying := array(
            select l.task_id from peers.lease l
            where l.task_id = any (_locked)
              and (l.cancel_requested
                   or _ending = 'fail' and (l.attempt >= l.max_attempts or l.task_id = any (_rejected)))
        );
    end if;
    _settleable := peers._settleable(_locked, _ending = 'complete', _dying);
    if cardinality(_settleable) < cardinality(_locked) then
        select array_agg(o.task_id), array_agg(o.token) into _task_ids, _tokens
        from unnest(_task_ids, _tokens) o(task_id, token)
        where o.task_id = any (_settleable);
    end if;
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

-- Says of the given outcomes that were not settled why. A settled one is known by the task's last token.
create or replace function peers._verdicts(
    _peer_id uuid, _task_ids bigint[], _tokens uuid[], _settled bigint[], _completing boolean
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
    where o.task_id <> all (_settled) or o.token <> t.token;
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
    _now timestamptz := peers.now();
    _tasks bigint[];
    _tokens uuid[];
    _results jsonb;
    _too_large boolean;
    _settled bigint[];
begin
    -- a result of more than 1 MiB of text takes more than a sixth of that as jsonb
    select array_agg(o.task_id), array_agg(o.token), jsonb_object_agg(o.task_id || ' ' || o.token, o.result),
           bool_or(pg_column_size(o.result) > 1048576 / 6 and octet_length(o.result::text) > 1048576)
    into _tasks, _tokens, _results, _too_large
    from jsonb_to_recordset(complete.outcomes) o(task_id bigint, token uuid, result jsonb)
    where o.task_id is not null and o.token is not null;

    if _too_large then
        return query
            select o.task_id, o.token, 'too large'
            from unnest(_tasks, _tokens) o(task_id, token)
            where octet_length((_results -> (o.task_id || ' ' || o.token))::text) > 1048576;
        select array_agg(o.task_id), array_agg(o.token) into _tasks, _tokens
        from unnest(_tasks, _tokens) o(task_id, token)
        where octet_length((_results -> (o.task_id || ' ' || o.token))::text) <= 1048576;
    end if;

    _settled := array(select l.task_id from peers._take_leases(complete.peer_id, _tasks, _tokens, 'complete') l);
    -- the results come from a map, not from a join, which leaves the planner one way only
    update peers.task t
    set state = 'completed', finished_at = _now, result = nullif(_results -> (t.id || ' ' || t.token), 'null')
    where t.id = any (_settled);
    if cardinality(_settled) < cardinality(_tasks) then
        return query select * from peers._verdicts(complete.peer_id, _tasks, _tokens, _settled, true);
    end if;
end
$$;

comment on function peers.complete is
    'Settles outcomes [{"task_id", "token", "result"}]. Answers only those that were not settled, each with its '
    'verdict: stale, already, busy or too large.';
