-- A handler that returned: the task is completed.

-- Completes those tasks for which it has to wait for no other session: it leaves out tasks that are locked, and parents
-- of children that are locked. Whatever else is locked (by an application's trigger) is found by halves, until _until.
create or replace function peers._complete_unlocked(
    _peer_id uuid, _task_ids bigint[], _tokens uuid[], _results jsonb[], _now timestamptz, _until timestamptz
) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '1ms'
as $$
declare
    _children bigint[];
    _locked bigint[];
    _half constant integer := cardinality(_task_ids) / 2;
begin
    begin
        select * into _task_ids, _tokens, _results
        from peers._lock_attempts(_peer_id, _task_ids, _tokens, _results);
        _children := array(
            select distinct d.child_id from peers.dependency d
            where d.parent_id = any (_task_ids) and not d.waived order by 1
        );
        _locked := array(
            select c.id from unnest(_children) c(id)
            except all
            select t.id from (select t.id from unnest(_children) c(id) cross join lateral (
                select t.id from peers.task t where t.id = c.id for no key update skip locked) t) t
        );
        if _locked <> '{}' then
            select coalesce(array_agg(o.task_id), '{}'), array_agg(o.token), array_agg(o.result)
            into _task_ids, _tokens, _results
            from unnest(_task_ids, _tokens, _results) o(task_id, token, result)
            where not exists (
                select from peers.dependency d
                where d.child_id = any (_locked) and d.parent_id = o.task_id and not d.waived);
        end if;
        update peers.task t set state = 'completed', finished_at = _now, result = nullif(o.result, 'null')
        from unnest(_task_ids, _results) o(task_id, result)
        where t.id = o.task_id;
        perform peers._close_attempts(_tokens);
        return;
    exception when lock_not_available then null;
    end;
    if _half > 0 and clock_timestamp() < _until then
        perform peers._complete_unlocked(
            _peer_id, _task_ids[:_half], _tokens[:_half], _results[:_half], _now, _until);
        perform peers._complete_unlocked(
            _peer_id, _task_ids[_half + 1:], _tokens[_half + 1:], _results[_half + 1:], _now, _until);
    end if;
end
$$;

-- Returns tasks and their results by ascending id, so that a place among the ids finds a task's result: a join would
-- descend the index for each task. It leaves out null ids and results that exceed 1 MiB.
create or replace function peers._sort_results(inout _task_ids bigint[], inout _results jsonb)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if _task_ids = array(select o.id from unnest(_task_ids) o(id) where o.id is not null order by o.id)
       and not exists (
           select from jsonb_array_elements(_results) o(result)
           where case  -- up to 100 bytes are less than 1 MiB of text, and up to 4,096 bytes no more than 33 MiB
                     when pg_column_size(o.result) <= 100 then false
                     when pg_column_size(o.result) <= 4096 then octet_length(o.result::text) > 1048576
                     else peers._text_size(o.result) > 1048576
                 end
       )
    then
        return;
    end if;
    select coalesce(array_agg(o.task_id order by o.task_id), '{}'), jsonb_agg(o.result order by o.task_id)
    into _task_ids, _results
    from rows from (unnest(_task_ids), jsonb_array_elements(_results)) o(task_id, result)
    where o.task_id is not null and peers._text_size(o.result) <= 1048576;
end
$$;

-- Completes tasks of several leases. Returns how many.
create or replace function peers._complete_mixed(
    _peer_id uuid, _tokens uuid[], _task_ids bigint[], _results jsonb, _now timestamptz
) returns integer
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _recorded uuid[];
begin
    with recorded as (
        update peers.task t set state = 'completed', finished_at = _now, result = nullif(o.result, 'null')
        from (
            select o.task_id, o.token, o.result
            from rows from (unnest(_task_ids, _tokens), jsonb_array_elements(_results)) o(task_id, token, result)
            where case
                      when o.result is null or pg_column_size(o.result) <= 100 then true
                      when pg_column_size(o.result) <= 4096 then octet_length(o.result::text) <= 1048576
                      else peers._text_size(o.result) <= 1048576
                  end
            order by o.task_id
        ) o
        where t.id = o.task_id and t.token = o.token and t.state = 'running' and t.xmax = '0'
          and exists (select from peers.lease l where l.token = o.token and l.peer_id = _peer_id)
        returning t.token
    )
    select array_agg(r.token) into _recorded from recorded r;
    if _recorded is null then
        return 0;
    end if;
    perform peers._close_attempts(_recorded);
    return cardinality(_recorded);
end
$$;

-- Completes a batch. It updates the tasks without locking them before, and waits a moment for other sessions, such as
-- those of peers that complete siblings. If that takes too long, it completes what is not locked.
--
-- lock_timeout bounds each wait, not the call. Sessions that add edges from a task lock its row one after another in a
-- mode that they share, so that an UPDATE could wait for each of them, for ever. So the UPDATE leaves out rows that a
-- session has locked since the claim (xmax is not 0); _complete_unlocked tries those without waiting.
create or replace function peers.complete(
    peer_id uuid, tokens uuid[], task_ids bigint[], results jsonb, patient boolean default false
)
returns table (task_id bigint, token uuid, verdict text)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '50ms'
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
as $$
declare
    _now constant timestamptz := peers.now();
    _token constant uuid := case when cardinality(complete.tokens) = 1 then complete.tokens[1] end;
    _no_results constant boolean := complete.results <@ '[null]';
    _task_ids bigint[] := complete.task_ids;
    _results jsonb := complete.results;
    _recorded integer;
    _open integer;
    _fair_key bigint;
    _seconds double precision;
    _waited boolean := false;
begin
    perform peers._require_read_committed();
    if _token is null and cardinality(complete.tokens) <> cardinality(complete.task_ids)
       or jsonb_array_length(complete.results) <> cardinality(complete.task_ids) then
        raise exception 'complete: % tasks need one token or as many tokens, not %, and as many results, not %',
            cardinality(complete.task_ids), cardinality(complete.tokens), jsonb_array_length(complete.results)
            using errcode = 'PE009';
    end if;
    if complete.patient then
        perform peers._wait_for_edges();
    end if;
    begin
        if _token is not null then
            if not _no_results then
                select * into _task_ids, _results from peers._sort_results(_task_ids, _results);
            end if;
            update peers.task t
            set state = 'completed', finished_at = _now,
                result = case
                             when not _no_results
                                 then nullif(
                                     _results -> width_bucket(t.id, (select array(select unnest(_task_ids)))) - 1,
                                     'null')
                         end
            where t.id = any (_task_ids) and t.token = _token and t.state = 'running' and t.xmax = '0'
              and exists (select from peers.lease l where l.token = _token and l.peer_id = complete.peer_id);
            get diagnostics _recorded = row_count;
            delete from peers.lease l where l.token = _token and l.open = _recorded
            returning l.fair_key,
                      least(cardinality(l.task_ids), l.most_running) * extract(epoch from _now - l.claimed_at)
            into _fair_key, _seconds;
            if _fair_key is not null then
                insert into peers.limit_use (limit_key, ended_at, seconds) values (_fair_key, _now, _seconds);
                found := true;
            end if;
            if not found and _recorded > 0 then
                update peers.lease l set open = l.open - _recorded where l.token = _token returning l.open into _open;
                if _open = 0 then
                    delete from peers.lease l where l.token = _token;
                end if;
            end if;
            perform peers._forget_attempts(complete.tokens);
        else
            _recorded := peers._complete_mixed(
                complete.peer_id, complete.tokens, complete.task_ids, complete.results, _now);
        end if;
    exception when lock_not_available then
        _recorded := 0;
        _waited := true;
    end;
    -- a single task that has waited in vain is not tried again: it may lock tens of thousands of children each time
    if _recorded < cardinality(complete.task_ids) and not (_waited and cardinality(complete.task_ids) = 1) then
        perform peers._complete_unlocked(
            complete.peer_id, o.task_ids, o.tokens, o.results, _now, clock_timestamp() + interval '100 milliseconds')
        from (
            select array_agg(o.task_id) as task_ids, array_agg(coalesce(_token, o.token)) as tokens,
                   array_agg(o.result) as results
            from rows from (unnest(complete.task_ids, complete.tokens), jsonb_array_elements(complete.results))
                 o(task_id, token, result)
            where o.result is null or peers._text_size(o.result) <= 1048576
        ) o;
    end if;
    if _recorded < cardinality(complete.task_ids) then
        return query
        select o.task_id, coalesce(_token, o.token),
               case
                   when t.token is distinct from coalesce(_token, o.token) then 'stale'
                   when t.state = 'completed' then 'already'
                   when t.state <> 'running' or not exists (
                            select from peers.lease l
                            where l.token = t.token and l.peer_id = complete.peer_id) then 'stale'
                   when peers._text_size(o.result) > 1048576 then 'too large'
                   else 'busy'
               end
        from rows from (unnest(complete.task_ids, complete.tokens), jsonb_array_elements(complete.results))
             o(task_id, token, result)
        left join peers.task t on t.id = o.task_id
        where (t.token = coalesce(_token, o.token) and t.state = 'completed' and t.finished_at = _now) is not true;
    end if;
end
$$;

comment on function peers.complete is
    'Completes tasks. tokens: one for all tasks, or one for each. results: a JSON array with one element for each '
    'task; null: no task has a result. Returns only those that were not recorded, each with a verdict: stale, already, '
    'busy or too large. patient: waits up to 0.2 s for transactions that add edges, and keeps new ones waiting until '
    'the end of this transaction; for tasks that were busy several times.';
