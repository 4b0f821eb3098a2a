-- How many tasks of a limited kind wait, and how many of them may start: a part of peers.demand.

-- Returns for one kind in a queue, and for each of its limits and their keys, how many tasks wait and how many of them
-- may start now. It looks at 1,000 keys, and at 1,000 tasks that were not moved to ready_limited yet.
create or replace function peers._waiting_under_limits(_queue text, _kind text, _now timestamptz)
returns table (limit_name text, limit_key bigint, waiting bigint, room integer)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _most constant integer := 1000;
    _rules constant peers.limit_rules := (peers._limit_rules(_queue, array[_kind], _now))[1];
    _places peers.ready_limited[];
    _unmoved bigint[];
    _numbers integer[];
    _keys bigint[];
    _rooms peers.limit_room[];
begin
    _places := array(
        with recursive place as (
            (
                select y as spot, 1 as number from peers.ready_limited y
                where y.queue = _queue and y.kind = _kind and y.layout = _rules.layout
                order by y.rank, y.key limit 1
            )
            union all
            select n.spot, place.number + 1
            from place
            cross join lateral (
                select y as spot from peers.ready_limited y
                where y.queue = _queue and y.kind = _kind and y.layout = _rules.layout
                  and (y.rank, y.key) > ((place.spot).rank, (place.spot).key)
                order by y.rank, y.key limit 1
            ) n
            where place.number < _most
        )
        select place.spot from place
    );
    _unmoved := array(
        select r.task_id from peers.ready r where r.queue = _queue and r.kind = _kind
        order by r.priority, r.position limit _most
    );
    select array_agg(d.n), array_agg(d.key) into _numbers, _keys
    from (
        select l.n::integer as n, l.key
        from unnest(_places) p cross join lateral unnest(p.limit_keys) with ordinality l(key, n)
        union
        select l.n::integer, l.key
        from unnest(_unmoved) u(id)
        cross join lateral (select t.args from peers.task t where t.id = u.id offset 0) t
        cross join lateral peers._limits_of(_queue, _kind, t.args) f
        cross join lateral unnest(f.limit_keys) with ordinality l(key, n)
    ) d;
    _rooms := peers._limit_rooms(_rules, _numbers, _keys, _now);
    return query
    with room as (
        select d.n, d.key, (_rooms[d.i]).room as room
        from unnest(_numbers, _keys) with ordinality d(n, key, i)
    ), counted as (
        select p.limit_keys, c.tasks
        from unnest(_places) p
        cross join lateral (
            select min(room.room) as most
            from unnest(p.limit_keys) with ordinality l(key, n) join room on room.n = l.n and room.key = l.key
        ) r
        cross join lateral (
            select count(*) as tasks
            from (
                select from peers.ready_limited y
                cross join lateral (
                    select from peers.task t
                    where t.id = y.task_id and t.state = 'ready' and t.priority = y.priority
                      and not exists (select from peers.graph g where g.id = t.graph_id and g.paused_at is not null)
                    offset 0
                ) t
                where y.queue = _queue and y.kind = _kind and y.layout = p.layout and y.rank = p.rank and y.key = p.key
                limit least(r.most, _most)
            ) y
        ) c
        union all
        select f.limit_keys, count(*)
        from unnest(_unmoved) u(id)
        cross join lateral (
            select t.args from peers.task t
            where t.id = u.id and t.state = 'ready'
              and not exists (select from peers.graph g where g.id = t.graph_id and g.paused_at is not null)
            offset 0
        ) t
        cross join lateral peers._limits_of(_queue, _kind, t.args) f
        group by f.limit_keys
    )
    select _rules.names[room.n], room.key, sum(c.tasks)::bigint, room.room
    from counted c
    cross join lateral unnest(c.limit_keys) with ordinality l(key, n)
    join room on room.n = l.n and room.key = l.key
    group by room.n, room.key, room.room;
end
$$;
