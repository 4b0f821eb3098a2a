-- peers.explain for tasks under limits.

-- Returns up to _most tasks that run under a limit and key.
create or replace function peers._running_under(_limit_key bigint, _most integer) returns bigint[]
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return array(
        select t.id
        from peers.lease l
        cross join lateral unnest(l.task_ids) i(task_id)
        cross join lateral (
            select t.id from peers.task t where t.id = i.task_id and t.token = l.token and t.state = 'running' offset 0
        ) t
        where _limit_key = any (l.limit_keys)
        order by t.id
        limit _most
    );
end
$$;

-- Returns the sessions that hold locks of keys for longer than a claim does: some milliseconds. object: as
-- peers._lock_object returns it for the key.
create or replace function peers._key_locks() returns table (object integer, pid integer, application_name text)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
#variable_conflict use_column
declare
    _longest constant interval := '1 second';
begin
    return query
    select (case when h.objid::bigint > 2147483647 then h.objid::bigint - 4294967296
                 else h.objid::bigint end)::integer, a.pid, nullif(a.application_name, '')
    from pg_locks h
    join pg_database d on d.oid = h.database and d.datname = current_database()
    join pg_stat_activity a on a.pid = h.pid
    where h.locktype = 'advisory' and h.objsubid = 2 and h.granted and h.classid::bigint = peers._lock_class()
      and (a.xact_start > clock_timestamp() - _longest) is not true;
end
$$;

-- Returns which session keeps tasks from starting by holding the lock of one of their keys, if one does.
create or replace function peers._explain_lock(_rules peers.limit_rules, _keys bigint[], _task peers.task) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return (
        select 'limit "' || l.name || '" is locked' || peers._explain_key(l, _task) || ' by session ' || h.pid
            || coalesce(' (' || h.application_name || ')', '')
            || ', which is not claiming: no task of this key starts until it ends, or releases its advisory lock. '
            || 'SELECT pg_terminate_backend(' || h.pid || ') ends it.'
        from unnest(_rules.names, _keys) with ordinality k(name, key, n)
        join peers.limit l on l.name = k.name
        join peers._key_locks() h on h.object = peers._lock_object(k.key)
        order by k.n
        limit 1
    );
end
$$;

-- Returns which limit keeps a ready task from starting, if one does.
create or replace function peers._explain_limits(_task peers.task) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most_named constant integer := 10;
    _now constant timestamptz := peers.now();
    _rules constant peers.limit_rules := peers._count_before(
        (peers._limit_rules(_task.queue, array[_task.kind], _now))[1]
    );
    _keys bigint[];
    _rooms peers.limit_room[];
    _place record;
    _limit peers.limit;
    _found integer;
    _running bigint[];
    _ahead bigint;
    _named text;
    _locked text;
begin
    if _rules is null then
        return null;
    end if;
    _keys := array(
        select peers._limit_key(r.seed, r.path, _task.args)
        from unnest(_rules.seeds, _rules.paths) with ordinality r(seed, path, n) order by r.n
    );
    select r.rank, r.key, r.priority, r.position into _place
    from peers.ready_limited r
    where r.queue = _task.queue and r.kind = _task.kind and r.layout = _rules.layout
      and r.key = hash_array_extended(_keys, 0) and r.priority = _task.priority and r.task_id = _task.id
    order by r.position limit 1;
    if _place.key is null then
        return 'it has not been moved under its limits yet: peers do this when they claim (peers.place_limited).';
    end if;
    _ahead := (
        select count(*) from peers.ready_limited r
        where r.queue = _task.queue and r.kind = _task.kind and r.layout = _rules.layout and r.rank = _place.rank
          and r.key = _place.key and (r.priority, r.position) < (_place.priority, _place.position)
    );
    _rooms := peers._limit_rooms(_rules, array(select generate_series(1, cardinality(_keys))), _keys, _now);
    _found := (
        select n::integer from unnest(_rooms) with ordinality r(room, running, opens_at, n)
        where r.room = 0 order by r.opens_at nulls first limit 1
    );
    if _found is null then
        _locked := peers._explain_lock(_rules, _keys, _task);
        if _locked is not null then
            return _locked;
        end if;
        select string_agg('limit "' || l.name || '"' || peers._explain_key(l, _task), ' and ' order by r.n) into _named
        from unnest(_rules.names) with ordinality r(name, n) join peers.limit l on l.name = r.name;
        return case when _ahead > 0 then peers._explain_ahead(_ahead) || ' under ' || _named || '.' end;
    end if;
    select l.* into _limit from peers.limit l where l.name = _rules.names[_found];
    _running := peers._running_under(_keys[_found], _most_named);
    return 'limit "' || _limit.name || '" is '
        || case
               when _rules.opens[_found] is not null then
                   'shut until ' || coalesce(nullif(_rules.opens[_found], 'infinity')::text, 'an operator opens it')
                   || coalesce(' (' || _limit.shut_because || ')', '')
               when _rooms[_found].opens_at is not null then
                   'used up' || peers._explain_key(_limit, _task) || ': ' || _limit.starts || ' may start in '
                   || _limit.per || ', the next at ' || _rooms[_found].opens_at
               else
                   'full' || peers._explain_key(_limit, _task) || ': ' || _rooms[_found].running || ' of '
                   || _rules.most[_found] || case when _limit.weight is null then '' else ' by weight' end
                   || case when _rooms[_found].running = 1 then ' is' else ' are' end || ' running ('
                   || case when _running = '{}' then 'claimed before this limit held for them'
                           else 'tasks ' || array_to_string(_running, ', ') end
                   || case when cardinality(_running) = _most_named then ', ...' else '' end || ')'
           end
        || ', ' || peers._explain_ahead(_ahead) || '.';
end
$$;

-- Returns how many tasks start before this one, such as "3 are ahead".
create or replace function peers._explain_ahead(_ahead bigint) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case _ahead when 0 then 'none is' when 1 then '1 is' else _ahead || ' are' end || ' ahead';
end
$$;

-- Returns for which key of the limit, such as " for account_id 7".
create or replace function peers._explain_key(_limit peers.limit, _task peers.task) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return coalesce(
        ' for ' || _limit.key || ' '
        || coalesce(left(_task.args #>> string_to_array(_limit.key, '.'), 100), '(none)'), ''
    );
end
$$;
