-- Where ready tasks wait that are under a limit, and how they are moved there.

-- Inserts rows, which the caller has deleted, where their tasks wait now: into ready_limited if the task is under a
-- limit, otherwise into ready. It leaves out tasks that are no longer ready as the row says. Whoever makes a task ready
-- later inserts a new row. Returns how many rows it was given.
create or replace function peers._place_rows(_rows peers.ready[]) returns integer
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
as $$
begin
    with placed as materialized (
        select t.queue, t.kind, t.priority, r.position, t.id, r.ready_at, l.layout, l.fair, l.limit_keys
        from unnest(_rows) r
        cross join lateral (
            select t.* from peers.task t
            where t.id = r.task_id and t.state = 'ready' and t.queue = r.queue and t.kind = r.kind
              and t.priority = r.priority
            offset 0
        ) t
        cross join lateral peers._limits_of(t.queue, t.kind, t.args) l
    ), unlimited as (
        insert into peers.ready (queue, kind, priority, position, task_id, ready_at)
        overriding system value
        select p.queue, p.kind, p.priority, p.position, p.id, p.ready_at from placed p where p.limit_keys is null
    )
    insert into peers.ready_limited (queue, kind, layout, rank, key, priority, position, task_id, ready_at, limit_keys)
    select p.queue, p.kind, p.layout, case when p.fair then 0 else p.priority end, hash_array_extended(p.limit_keys, 0),
           p.priority, p.position, p.id, p.ready_at, p.limit_keys
    from placed p where p.limit_keys is not null;
    return coalesce(cardinality(_rows), 0);
end
$$;

-- Moves up to _most rows of these kinds from ready to ready_limited. Returns how many rows it took out.
create or replace function peers._move_to_limited(_queue text, _kinds text[], _most integer) returns integer
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _rows peers.ready[];
begin
    with moved as (
        delete from peers.ready r
        where r.ctid = any (array(
            select first.spot
            from unnest(_kinds) k(kind)
            cross join lateral (
                select r.ctid as spot from peers.ready r
                where r.queue = _queue and r.kind = k.kind
                order by r.priority, r.position
                limit _most
                for update skip locked
            ) first
            limit _most
        ))
        returning r.queue, r.kind, r.priority, r.position, r.task_id, r.ready_at
    )
    select array_agg(row(m.queue, m.kind, m.priority, m.position, m.task_id, m.ready_at)::peers.ready) into _rows
    from moved m;
    return peers._place_rows(_rows);
end
$$;

-- Moves up to _most rows of ready_limited that have this layout, which no longer holds. Returns how many rows it took
-- out.
create or replace function peers._move_from_layout(_queue text, _kind text, _layout bigint, _most integer)
returns integer
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _rows peers.ready[];
begin
    with moved as (
        delete from peers.ready_limited r
        where r.ctid = any (array(
            select r.ctid from peers.ready_limited r
            where r.queue = _queue and r.kind = _kind and r.layout = _layout
            order by r.rank, r.key, r.priority, r.position
            limit _most
            for update skip locked
        ))
        returning r.queue, r.kind, r.priority, r.position, r.task_id, r.ready_at
    )
    select array_agg(row(m.queue, m.kind, m.priority, m.position, m.task_id, m.ready_at)::peers.ready) into _rows
    from moved m;
    return peers._place_rows(_rows);
end
$$;

-- Returns the layouts that ready_limited has rows of. It jumps from one to the next in the primary key.
create or replace function peers._limited_layouts() returns table (queue text, kind text, layout bigint)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return query
    with recursive found as (
        (select r.queue, r.kind, r.layout from peers.ready_limited r order by r.queue, r.kind, r.layout limit 1)
        union all
        select n.queue, n.kind, n.layout
        from found
        cross join lateral (
            select r.queue, r.kind, r.layout from peers.ready_limited r
            where (r.queue, r.kind, r.layout) > (found.queue, found.kind, found.layout)
            order by r.queue, r.kind, r.layout limit 1
        ) n
    )
    select found.queue, found.kind, found.layout from found;
end
$$;

-- Merges the rows of limit_use that a key has many of, which changes nothing: a merged row counts as much as they do.
-- It deletes those that count nothing any more.
create or replace function peers._merge_limit_use(_now timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most_rows constant integer := 20;
begin
    delete from peers.limit_use u
    where u.ctid = any (array(
        select u.ctid from peers.limit_use u where u.ended_at < _now - interval '1 hour' for update skip locked
    ));
    with merged as (
        delete from peers.limit_use u
        where u.ctid = any (array(
            select u.ctid from peers.limit_use u
            where u.limit_key in (
                select m.limit_key from peers.limit_use m group by m.limit_key having count(*) > _most_rows
            )
            for update skip locked
        ))
        returning u.limit_key, u.ended_at, u.seconds
    )
    insert into peers.limit_use (limit_key, ended_at, seconds)
    select m.limit_key, l.ended_at, sum(m.seconds * exp(-extract(epoch from l.ended_at - m.ended_at)::float8 / 300))
    from merged m
    cross join lateral (select max(o.ended_at) as ended_at from merged o where o.limit_key = m.limit_key) l
    group by m.limit_key, l.ended_at;
end
$$;

-- Moves the tasks of limits that were added or changed, and cleans up. Every peer calls it. It may be stopped at any
-- time and be called again. A task that was not moved yet waits: no claim looks for it at its old place.
create or replace function peers.place_limited(max_tasks integer default 10000) returns integer
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set lock_timeout = '1s'
as $$
declare
    _grace constant interval := '1 minute';  -- longer than a claim lasts that does not know of the limit yet
    _now timestamptz := peers.now();
    _moved integer := 0;
    _place record;
begin
    perform peers._require_read_committed();
    if not exists (select from peers.limit) and not exists (select from peers.ready_limited) then
        return 0;
    end if;
    for _place in
        select k.queue, k.kind from peers._ready_kinds() k
        where exists (select from peers.limit l where l.kind = k.kind or l.queue = k.queue)
    loop
        exit when _moved >= place_limited.max_tasks;
        _moved := _moved + peers._move_to_limited(_place.queue, array[_place.kind], place_limited.max_tasks - _moved);
    end loop;
    for _place in
        select y.* from peers._limited_layouts() y
        where y.layout is distinct from peers._layout(y.queue, y.kind)
    loop
        exit when _moved >= place_limited.max_tasks;
        _moved := _moved + peers._move_from_layout(
            _place.queue, _place.kind, _place.layout, place_limited.max_tasks - _moved
        );
    end loop;
    if _moved > 0 then
        perform peers._notify();
        return _moved;
    end if;
    update peers.limit l set counts_tasks = false
    where l.name = any (array(
        select c.name from peers.limit c
        where c.counts_tasks and c.changed_at < _now - _grace
          and not exists (select from peers.lease e where e.claimed_at < c.changed_at + _grace)
        for update skip locked
    ));
    delete from peers.limit_start s
    where s.ctid = any (array(
        select s.ctid from peers.limit_start s
        where s.started_at < _now - coalesce((select max(l.per) from peers.limit l), '0') - _grace
        for update skip locked
    ));
    perform peers._merge_limit_use(_now);
    return 0;
end
$$;

comment on function peers.place_limited is
    'Moves ready tasks to where they wait under the limits that hold now, after a limit was added, removed or given '
    'another key. Returns how many rows it moved; call again until that is 0. Peers do this by themselves.';
