-- Which tasks a bulk verb acts on: the filters of retry_dead, discard_dead and cancel_tasks.

-- Reads a filter. Raises PE009 if it has an unknown key or a bad value, or if it is empty by accident.
create or replace function peers._read_filter(_filter jsonb, _keys text[]) returns peers.task_filter
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _problem text;
begin
    perform peers._require_read_committed();
    if _filter is null or jsonb_typeof(_filter) <> 'object' then
        raise exception 'the filter must be a JSON object, not %', coalesce('a JSON ' || jsonb_typeof(_filter), 'null')
            using errcode = 'PE009', hint = 'For example: {"kind": "thumbs.make"}, or {"all": true} for all tasks.';
    end if;
    select case
        when k.key <> all (_keys || '{all}') then
            '"' || left(k.key, 100) || '" is no key of this filter; the keys are ' || array_to_string(_keys, ', ')
            || ' and all'
        when jsonb_typeof(k.value) = 'null' then k.key || ' must not be null; leave it out to match all tasks'
        when k.key = 'all' and k.value <> 'true' then 'all must be true, not ' || left(k.value::text, 100)
        when k.key not in ('all', 'ids', 'graph') and jsonb_typeof(k.value) <> 'string' then
            k.key || ' must be a string, not ' || left(k.value::text, 100)
        when k.key = 'ids' and jsonb_typeof(k.value) <> 'array' then
            'ids must be an array of task ids, not ' || left(k.value::text, 100)
    end
    into _problem
    from jsonb_each(_filter) k
    order by 1 nulls last limit 1;
    if _filter = '{}' then
        raise exception 'the filter is empty: it would match every task'
            using errcode = 'PE009', hint = 'Pass {"all": true} if that is what you want.';
    elsif _problem is not null then
        raise exception 'filter: %', _problem using errcode = 'PE009';
    end if;
    return jsonb_populate_record(null::peers.task_filter, _filter - 'all');
exception when data_exception then
    raise exception 'filter: %', sqlerrm using errcode = 'PE009';
end
$$;

-- Returns whether a failure has the cause that a filter asks for.
create or replace function peers._has_cause(_failure peers.failure, _filter peers.task_filter) returns boolean
    language sql immutable
begin atomic
    select (_filter.error_type is null or _failure.error_type = _filter.error_type)
       and (_filter.error is null
            or strpos(lower(_failure.error_type || ': ' || _failure.error_message), lower(_filter.error)) > 0)
       and (_filter.frame is null or peers.innermost_frame(_failure.traceback) = _filter.frame);
end;

-- Returns the dead letters that match, in the order of their ids.
create or replace function peers._match_dead(_filter peers.task_filter) returns bigint[]
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _any_cause constant boolean := num_nonnulls(_filter.error_type, _filter.error, _filter.frame) = 0;
begin
    return array(
        select d.task_id
        from peers.dead d
        where (_filter.kind is null or d.kind = _filter.kind)
          and (_filter.queue is null or d.queue = _filter.queue)
          and (_filter.since is null or d.died_at >= _filter.since)
          and (_filter.until is null or d.died_at < _filter.until)
          and (_filter.ids is null or d.task_id = any (_filter.ids))
          and (_filter.graph is null
               or exists (select from peers.task t where t.id = d.task_id and t.graph_id = _filter.graph))
          and (_any_cause or exists (
              select from (
                  select f from peers.failure f where f.task_id = d.task_id order by f.id desc limit 1
              ) l(last)
              where peers._has_cause(l.last, _filter)
          ))
        order by d.task_id
    );
end
$$;

-- Returns the ids of the tasks that have not ended, unless the filter rules out their queue, kind or state. It reads
-- the narrow tables, whose rows may be stale. Claims drop the rows that ready has for tasks of paused graphs.
create or replace function peers._unfinished_tasks(_filter peers.task_filter) returns setof bigint
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if _filter.ids is not null then
        return query select distinct i.id from unnest(_filter.ids) i(id);
        return;
    elsif _filter.graph is not null then
        return query select t.id from peers.task t where t.graph_id = _filter.graph;
        return;
    end if;
    return query
    select r.task_id from peers.ready r
    where coalesce(_filter.state, 'ready') = 'ready'
      and (_filter.queue is null or r.queue = _filter.queue) and (_filter.kind is null or r.kind = _filter.kind)
    union
    select r.task_id from peers.ready_limited r
    where coalesce(_filter.state, 'ready') = 'ready'
      and (_filter.queue is null or r.queue = _filter.queue) and (_filter.kind is null or r.kind = _filter.kind)
    union
    select t.id from peers.graph g join peers.task t on t.graph_id = g.id
    where coalesce(_filter.state, 'ready') = 'ready' and g.paused_at is not null
    union
    select s.task_id from peers.scheduled s where coalesce(_filter.state, 'scheduled') = 'scheduled'
    union
    select b.task_id from peers.blocked b
    where coalesce(_filter.state, 'blocked') = 'blocked' and (_filter.queue is null or b.queue = _filter.queue)
    union
    select i.task_id from peers.lease l cross join lateral unnest(l.task_ids) i(task_id)
    where coalesce(_filter.state, 'running') = 'running';
end
$$;

-- Returns the tasks that match and can be cancelled, in the order of their ids: those that wait, and those that run and
-- were not asked to stop yet.
create or replace function peers._match_unfinished(_filter peers.task_filter) returns bigint[]
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _any_cause constant boolean := num_nonnulls(_filter.error_type, _filter.error, _filter.frame) = 0;
begin
    return array(
        select t.id
        from peers._unfinished_tasks(_filter) u(id)
        cross join lateral (select t.* from peers.task t where t.id = u.id offset 0) t
        where t.state in ('blocked', 'scheduled', 'ready', 'running')
          and (_filter.state is null or t.state::text = _filter.state)
          and (_filter.kind is null or t.kind = _filter.kind)
          and (_filter.queue is null or t.queue = _filter.queue)
          and (_filter.since is null or t.created_at >= _filter.since)
          and (_filter.until is null or t.created_at < _filter.until)
          and (_filter.ids is null or t.id = any (_filter.ids))
          and (_filter.graph is null or t.graph_id = _filter.graph)
          and not exists (select from peers.cancel_request r where r.token = t.token and r.task_id = t.id
                          and t.state = 'running')
          and (_any_cause or exists (
              select from (
                  select f from peers.failure f where f.task_id = t.id order by f.id desc limit 1
              ) l(last)
              where peers._has_cause(l.last, _filter)
          ))
        order by t.id
    );
end
$$;

-- Returns the first _most of these tasks (null: all) that no other session has locked, and keeps no lock. A caller that
-- locks them afterwards together with others in one order cannot deadlock.
create or replace function peers._skip_locked(_ids bigint[], _most integer) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _free bigint[];
begin
    _free := array(
        select t.id from peers.task t where t.id = any (_ids)
        order by t.id for no key update skip locked limit _most
    );
    -- an error gives the locks back
    raise exception 'no task is locked' using errcode = 'PE000';
exception when sqlstate 'PE000' then
    return _free;
end
$$;
