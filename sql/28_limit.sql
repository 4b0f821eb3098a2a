-- Limits as operators and code write them: what a row of peers.limit may say, and which keys a task has.

-- Returns the first thing that is wrong with a limit, with an example. Null: nothing is wrong.
create or replace function peers._limit_problem(_limit peers.limit) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    -- Refuses the operators -> and ->> and the $ of a JSON path: a path that no args have would be one key for all.
    _path constant text := '^(?!\$\.|.*->)[^.[:cntrl:]]{1,100}(\.[^.[:cntrl:]]{1,100}){0,9}$';
begin
    return case
        when _limit.name is null or length(_limit.name) not between 1 and 200 or _limit.name ~ '[[:cntrl:]]' then
            'name must have 1 to 200 characters, without control characters, such as ''stripe'''
        when num_nonnulls(_limit.kind, _limit.queue) <> 1 then
            'give either a kind or a queue, such as kind = ''invoice.charge''; this limit has '
            || case when _limit.kind is null then 'none' else 'both' end
        when length(_limit.kind) not between 1 and 200 or length(_limit.queue) not between 1 and 200 then
            'kind and queue must have 1 to 200 characters'
        when _limit.key !~ _path then
            'key must be a path into args, such as ''account_id'' or ''customer.id'', not ''' || left(_limit.key, 200)
            || ''''
        when _limit.weight !~ _path then
            'weight must be a path into args, such as ''tokens'' or ''image.megabytes'', not '''
            || left(_limit.weight, 200) || ''''
        when _limit.max_running not between 1 and 1000000 then
            'max_running must be 1 to 1000000, not ' || _limit.max_running
            || '; shut_until = ''infinity'' stops all of its tasks'
        when num_nonnulls(_limit.starts, _limit.per) = 1 then
            'starts and per belong together, such as starts = 10, per = ''1 second'''
        when _limit.starts not between 1 and 1000000 then
            'starts must be 1 to 1000000, not ' || _limit.starts
        when _limit.per not between interval '10 milliseconds' and interval '30 days'
             or extract(year from _limit.per) <> 0 or extract(month from _limit.per) <> 0 then
            'per must be 10 milliseconds to 30 days, without months, such as ''1 second'', not ' || _limit.per
        when _limit.weight is not null and _limit.max_running is null then
            'weight needs max_running, which bounds the sum of the weights, such as max_running = 100'
        when _limit.fair and _limit.key is null then
            'fair needs a key: the next task comes from another value of it, such as key = ''account_id'''
        when _limit.learns and _limit.max_running is null then
            'learns needs max_running, the most that it may rise to, such as max_running = 20'
        when num_nonnulls(_limit.max_running, _limit.starts, _limit.shut_until) = 0 and not _limit.fair then
            'a limit needs max_running, or starts and per, or fair, such as max_running = 4'
    end;
end
$$;

-- Returns the values that decide where the tasks of a limit wait. When they change, these tasks are moved.
create or replace function peers._limit_place(_limit peers.limit) returns jsonb
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return jsonb_build_array(_limit.name, _limit.queue, _limit.kind, _limit.key, _limit.fair);
end
$$;

-- Before a row of peers.limit is written: refuses what is malformed, and keeps the columns that are the scheduler's.
create or replace function peers.check_limit() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most_together constant integer := 4;
    _problem text := peers._limit_problem(new);
begin
    if _problem is null and _most_together <= (
        select count(*) filter (where l.kind = new.kind or l.queue = new.queue) + (
            select coalesce(max(o.limits), 0)
            from (
                select count(*) as limits from peers.limit o
                where o.name <> new.name and num_nonnulls(o.kind, new.kind) = 1 group by o.kind, o.queue
            ) o
        )
        from peers.limit l where l.name <> new.name
    ) then
        _problem := 'at most ' || _most_together || ' limits may hold for one task, those of its kind and those of '
                    'its queue: delete one that peers.limit_status lists';
    end if;
    if _problem is not null then
        raise exception 'peers.limit: %', _problem using errcode = 'PE014',
            hint = 'For example: INSERT INTO peers.limit (name, kind, key, max_running) '
                   'VALUES (''stripe'', ''invoice.charge'', ''account_id'', 8);';
    end if;
    if tg_op = 'INSERT' or to_jsonb(new) - 'counts_tasks' <> to_jsonb(old) - 'counts_tasks' then
        new.changed_at := peers.now();
    end if;
    if tg_op = 'INSERT' or peers._limit_place(new) <> peers._limit_place(old) then
        new.seed := (random() * 18e18 - 9e18)::bigint;
        new.counts_tasks := true;
    end if;
    return new;
end
$$;

comment on function peers.check_limit() is 'Trigger: refuses malformed limits, with an example (PE014).';

create or replace trigger check_limit before insert or update on peers.limit
    for each row execute function peers.check_limit();

-- After a change of peers.limit: notifies the peers, which move tasks to where they wait now, and claim.
create or replace function peers.limits_changed() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if tg_op = 'UPDATE' and to_jsonb(new) - 'counts_tasks' = to_jsonb(old) - 'counts_tasks' then
        return null;
    end if;
    perform peers._notify('limits');
    return null;
end
$$;

comment on function peers.limits_changed() is 'Trigger: notifies the peers that limits have changed.';

create or replace trigger limits_changed after insert or update or delete on peers.limit
    for each row execute function peers.limits_changed();

create or replace function peers.limit_settings(_limit peers.limit) returns jsonb
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return jsonb_strip_nulls(jsonb_build_object(
        'name', _limit.name, 'kind', _limit.kind, 'queue', _limit.queue, 'key', _limit.key,
        'max_running', _limit.max_running, 'starts', _limit.starts, 'per', extract(epoch from _limit.per),
        'weight', _limit.weight, 'fair', _limit.fair, 'learns', _limit.learns
    ));
end
$$;

comment on function peers.limit_settings is
    'Returns what users set in a limit, in a form that can be compared. The view peers.limit_status calls it.';

-- Returns a limit with these columns, which a JSON object describes, and otherwise those of _base.
create or replace function peers._limit_from_json(_base peers.limit, _columns jsonb) returns peers.limit
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _unknown text;
begin
    select string_agg(k.key, ', ') into _unknown
    from jsonb_object_keys(_columns) k(key)
    where k.key not in ('name', 'kind', 'queue', 'key', 'max_running', 'starts', 'per', 'weight', 'fair', 'learns');
    if _unknown is not null then
        raise exception 'a limit has no field %', _unknown using errcode = 'PE014';
    end if;
    return jsonb_populate_record(_base, '{"fair": false, "learns": false}' || _columns);
end
$$;

-- Writes what users set in a limit. Returns whether it is new.
create or replace function peers._write_limit(_new peers.limit) returns boolean
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    update peers.limit l
    set queue = _new.queue, kind = _new.kind, key = _new.key, max_running = _new.max_running, starts = _new.starts,
        per = _new.per, weight = _new.weight, fair = _new.fair, learns = _new.learns
    where l.name = _new.name;
    if found then
        return false;
    end if;
    insert into peers.limit (name, queue, kind, key, max_running, starts, per, weight, fair, learns)
    values (_new.name, _new.queue, _new.kind, _new.key, _new.max_running, _new.starts, _new.per, _new.weight, _new.fair,
            _new.learns)
    on conflict (name) do update  -- another session has created it just now
    set queue = excluded.queue, kind = excluded.kind, key = excluded.key, max_running = excluded.max_running,
        starts = excluded.starts, per = excluded.per, weight = excluded.weight, fair = excluded.fair,
        learns = excluded.learns;
    return true;
end
$$;

create or replace function peers.declare_limits(peer_id uuid, limits jsonb)
returns table (limit_name text, change text, error text)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '5s'
as $$
declare
    _declaration jsonb;
    _new peers.limit;
    _settings jsonb;
begin
    perform peers._require_read_committed();
    update peers.peer p
    set limits = array(
        select d.value ->> 'name' from jsonb_array_elements(declare_limits.limits) d order by 1)
    where p.id = declare_limits.peer_id;
    for _declaration in
        select d.value from jsonb_array_elements(declare_limits.limits) d order by d.value ->> 'name' collate "C"
    loop
        limit_name := _declaration ->> 'name';
        error := null;
        -- one that is refused does not keep the others from being declared
        begin
            _new := peers._limit_from_json(null, _declaration);
            _settings := peers.limit_settings(_new);
            -- What an operator has changed since is kept for as long as the code declares the same. Nothing is written
            -- then, so that peers that start together do not wait for each other.
            continue when exists (
                select from peers.limit l where l.name = _new.name and l.declared = _settings
            );
            change := case when peers._write_limit(_new) then 'created' else 'changed' end;
            update peers.limit l set declared = _settings where l.name = _new.name;
        exception when sqlstate 'PE014' then
            change := 'refused';
            error := sqlerrm;
        end;
        return next;
    end loop;
end
$$;

comment on function peers.declare_limits is
    'What a peer calls when it has joined: the limits that its code declares, each an object with name, kind or queue, '
    'key, max_running, starts, per, weight, fair and learns. A declaration that is new or has changed overwrites the '
    'limit; one that has not changed leaves it as it is, with the changes of operators. Returns the limits that were '
    'created, changed or refused.';

-- Returns the hash of a limit and of the value that its key has in args. Null stands for a missing value.
create or replace function peers._limit_key(_limit_seed bigint, _key text, _args jsonb) returns bigint
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return hashtextextended(coalesce('=' || (_args #>> string_to_array(_key, '.')), ''), _limit_seed);
end
$$;

-- Inserts rows for ready tasks where they wait now: into ready_limited if they are under a limit, else into ready. It
-- leaves out tasks that are no longer ready as the row says. Whoever makes a task ready later inserts a new row.
create or replace function peers._place_rows(
    _queues text[], _kinds text[], _priorities smallint[], _positions bigint[], _ids bigint[]
) returns void
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
        select t.queue, t.kind, t.priority, r.position, t.id, l.layout, l.fair, l.keys
        from unnest(_queues, _kinds, _priorities, _positions, _ids) r(queue, kind, priority, position, id)
        cross join lateral (
            select t.* from peers.task t
            where t.id = r.id and t.state = 'ready' and t.queue = r.queue and t.kind = r.kind
              and t.priority = r.priority
            offset 0
        ) t
        cross join lateral (
            -- the same expressions as in enqueue, _drop_ready_rows, _limit_rules and _find_problems
            select hashtextextended(string_agg(l.seed::text, ',' order by l.name), 0) as layout,
                   bool_or(l.fair) as fair,
                   array_agg(hashtextextended(coalesce('=' || (t.args #>> string_to_array(l.key, '.')), ''), l.seed)
                             order by l.name) as keys
            from peers.limit l where l.kind = t.kind or l.queue = t.queue
        ) l
    ), unlimited as (
        insert into peers.ready (queue, kind, priority, position, task_id)
        overriding system value
        select p.queue, p.kind, p.priority, p.position, p.id from placed p where p.keys is null
    )
    insert into peers.ready_limited (queue, kind, layout, rank, key, priority, position, task_id, limit_keys)
    select p.queue, p.kind, p.layout, case when p.fair then 0 else p.priority end, hash_array_extended(p.keys, 0),
           p.priority, p.position, p.id, p.keys
    from placed p where p.keys is not null;
end
$$;

-- Moves up to _most rows of these kinds from ready to ready_limited. Returns how many rows it took out.
create or replace function peers._move_to_limited(_queue text, _kinds text[], _most integer) returns integer
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _rows record;
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
        returning r.queue, r.kind, r.priority, r.position, r.task_id
    )
    select array_agg(m.queue) as queues, array_agg(m.kind) as kinds, array_agg(m.priority) as priorities,
           array_agg(m.position) as positions, array_agg(m.task_id) as ids
    into _rows
    from moved m;
    if _rows.ids is null then
        return 0;
    end if;
    perform peers._place_rows(_rows.queues, _rows.kinds, _rows.priorities, _rows.positions, _rows.ids);
    return cardinality(_rows.ids);
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
    _rows record;
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
        returning r.queue, r.kind, r.priority, r.position, r.task_id
    )
    select array_agg(m.queue) as queues, array_agg(m.kind) as kinds, array_agg(m.priority) as priorities,
           array_agg(m.position) as positions, array_agg(m.task_id) as ids
    into _rows
    from moved m;
    if _rows.ids is null then
        return 0;
    end if;
    perform peers._place_rows(_rows.queues, _rows.kinds, _rows.priorities, _rows.positions, _rows.ids);
    return cardinality(_rows.ids);
end
$$;

-- Returns the layout of the limits that hold for the tasks of a kind in a queue. Null: none does.
create or replace function peers._layout(_queue text, _kind text) returns bigint
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return (
        select hashtextextended(string_agg(l.seed::text, ',' order by l.name), 0)
        from peers.limit l where l.kind = _kind or l.queue = _queue
    );
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
