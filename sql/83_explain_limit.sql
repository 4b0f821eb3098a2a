-- What limits do now, for people.

create or replace function peers.limit_most_now(_limit peers.limit) returns integer
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return peers._most_now(_limit, peers.now());
end
$$;

comment on function peers.limit_most_now is
    'Returns how many tasks of each key of a limit may run now: less than max_running for a while after a cooldown, if '
    'it learns. The view peers.limit_status calls it.';

create or replace view peers.limit_status as
select l.name, l.kind, l.queue, l.key, l.max_running, l.starts, l.per, l.weight, l.fair,
       coalesce(r.running, 0) as running, coalesce(w.waiting, 0) as waiting,
       case when l.shut_until > c.now then l.shut_until end as shut_until, l.shut_because,
       l.declared is not null as declared_in_code, l.learns, peers.limit_most_now(l) as most_now,
       (
           select count(*) from peers.peer p
           -- the same as peers._is_alive, which a reader may not call
           where p.lost_at is null and p.heartbeat_at + p.lease_timeout > c.now and l.name = any (p.limits)
       ) as declaring_peers,
       coalesce(peers.limit_settings(l) <> l.declared, false) as changed_by_operator, l.changed_at
from peers.limit l
cross join (select peers.now() as now) c
left join lateral (
    select count(*) as running from peers.lease e
    cross join lateral unnest(e.task_ids) i(task_id)
    join peers.task t on t.id = i.task_id and t.token = e.token and t.state = 'running'
    where t.kind = l.kind or t.queue = l.queue
) r on true
left join lateral (
    select count(*) as waiting from peers.ready_limited y where y.kind = l.kind or y.queue = l.queue
) w on true;

comment on view peers.limit_status is 'One row for each limit: what it says, and how many tasks run and wait.';
comment on column peers.limit_status.name is 'The limit''s name.';
comment on column peers.limit_status.kind is 'The kind that it limits.';
comment on column peers.limit_status.queue is 'The queue that it limits.';
comment on column peers.limit_status.key is 'The path into args that tells its keys apart.';
comment on column peers.limit_status.max_running is 'How many tasks of each key may run at once.';
comment on column peers.limit_status.starts is 'How many tasks of each key may start in a period.';
comment on column peers.limit_status.per is 'The length of that period.';
comment on column peers.limit_status.weight is 'The path into args to a task''s weight.';
comment on column peers.limit_status.fair is 'Whether keys take turns.';
comment on column peers.limit_status.running is 'How many of its tasks peers have claimed.';
comment on column peers.limit_status.waiting is 'How many of its ready tasks wait for it or for a peer.';
comment on column peers.limit_status.shut_until is 'No task starts before. Null: it is open.';
comment on column peers.limit_status.shut_because is 'Why it was last shut.';
comment on column peers.limit_status.declared_in_code is 'A peer''s code has declared it.';
comment on column peers.limit_status.learns is 'Whether a cooldown halves how many tasks may run.';
comment on column peers.limit_status.most_now is
    'How many tasks of each key may run now: less than max_running for a while after a cooldown, if it learns.';
comment on column peers.limit_status.declaring_peers is 'How many live peers declare it.';
comment on column peers.limit_status.changed_by_operator is 'Whether it differs from what code declared last.';
comment on column peers.limit_status.changed_at is 'When its row was last changed.';

create or replace function peers.limit_keys(name text, most integer default 10)
returns table (key text, running bigint, waiting bigint, weight numeric, started bigint)
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
#variable_conflict use_column
declare
    _most_read constant integer := 100000;
    _now constant timestamptz := peers.now();
    _limit peers.limit;
begin
    select l.* into _limit from peers.limit l where l.name = limit_keys.name;
    if not found then
        raise exception 'there is no limit "%"', coalesce(left(limit_keys.name, 200), '')
            using errcode = 'PE015', hint = 'peers.limit_status lists them.';
    end if;
    return query
    with places as materialized (
        -- where the limit is among the keys of each row
        select y.queue, y.kind, y.layout, (
            select count(*)::integer from peers.limit o
            where (o.kind = y.kind or o.queue = y.queue) and o.name <= _limit.name
        ) as number
        from peers._limited_layouts() y
        where (y.kind = _limit.kind or y.queue = _limit.queue) and y.layout = peers._layout(y.queue, y.kind)
    ), waiting as (
        select r.limit_key, count(*) as waiting, min(r.task_id) as sample
        from (
            select y.limit_keys[p.number] as limit_key, y.task_id
            from places p
            join peers.ready_limited y on y.queue = p.queue and y.kind = p.kind and y.layout = p.layout
            limit _most_read
        ) r
        group by r.limit_key
    ), running as (
        select peers._limit_key(_limit.seed, _limit.key, t.args) as limit_key, count(*) as running,
               sum(peers._weight(t.args, _limit.weight, _limit.max_running)) as weight, min(t.id) as sample
        from peers.lease e
        cross join lateral unnest(e.task_ids) i(task_id)
        cross join lateral (
            select t.* from peers.task t where t.id = i.task_id and t.token = e.token and t.state = 'running' offset 0
        ) t
        where t.kind = _limit.kind or t.queue = _limit.queue
        group by 1
    ), top as (
        select coalesce(w.limit_key, r.limit_key) as limit_key, coalesce(r.running, 0) as running,
               coalesce(w.waiting, 0) as waiting, coalesce(r.weight, 0) as weight,
               coalesce(r.sample, w.sample) as sample
        from waiting w full join running r on r.limit_key = w.limit_key
        order by 3 desc, 2 desc, 1
        limit limit_keys.most
    )
    select (
               select t.args #>> string_to_array(_limit.key, '.') from peers.task t where t.id = o.sample
           ), o.running, o.waiting, case when _limit.weight is not null then o.weight end,
           case when _limit.starts is not null then (
               select coalesce(sum(s.tasks), 0)::bigint from peers.limit_start s
               where s.limit_key = o.limit_key and s.started_at > _now - _limit.per
           ) end
    from top o
    order by o.waiting desc, o.running desc, 1;
end
$$;

comment on function peers.limit_keys is
    'Returns the keys of a limit that have the most waiting tasks: how many of their tasks run and wait, how much the '
    'running ones weigh, and how many started in the last period. A limit without a key has one row. It reads 100000 '
    'waiting tasks at most. Raises PE015 if there is no such limit.';

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
