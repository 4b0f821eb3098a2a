-- How a claim starts limited tasks when something stands in the way.

-- Returns the hash of a task's keys, as ready_limited.key has it.
create or replace function peers._keys_hash(_rules peers.limit_rules, _args jsonb) returns bigint
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return hash_array_extended(array(
        select peers._limit_key(r.seed, r.path, _args)
        from unnest(_rules.paths, _rules.seeds) with ordinality r(path, seed, n)
        order by r.n
    ), 0);
end
$$;

-- Locks those of the rows of ready_limited that no other session has locked or deleted, and returns them.
create or replace function peers._lock_limited_rows(_rows peers.claim_row[]) returns peers.claim_row[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return array(
        select r
        from unnest(_rows) r
        cross join lateral (
            select from peers.ready_limited y
            where y.ctid = r.spot and y.task_id = r.task_id and y.position = r.position
            for update skip locked
        ) y
    );
end
$$;

-- Returns the first of the rows, whose tasks the claim has locked, that fit under the weights of their limits.
create or replace function peers._fit_weights(
    _rules peers.limit_rules, _key peers.limited_key, _rows peers.claim_row[], _now timestamptz
) returns peers.claim_row[]
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _numbers constant integer[] := array(select generate_series(1, cardinality(_rules.names)));
    _rooms constant peers.limit_room[] := peers._limit_rooms(_rules, _numbers, _key.limit_keys, _now);
    _used numeric[] := array(select r.running from unnest(_rooms) r);
    _args jsonb;
    _n integer;
begin
    if array_remove(_rules.weights, null) = '{}' then
        return _rows;
    end if;
    for _i in 1 .. cardinality(_rows) loop
        _args := (select t.args from peers.task t where t.id = _rows[_i].task_id);
        foreach _n in array _numbers loop
            continue when _rules.most[_n] is null;
            _used[_n] := _used[_n] + case
                when _rules.weights[_n] is null then 1
                else peers._weight(_args, _rules.weights[_n], _rules.most[_n])
            end;
            if _used[_n] > _rules.most[_n] then
                return _rows[:_i - 1];
            end if;
        end loop;
    end loop;
    return _rows;
end
$$;

-- Starts up to _wanted of the tasks of these rows of one key. changed: rows whose tasks have another key now took the
-- place of others, so that the same rows have to be read again. full: there is no room for more tasks.
create or replace function peers._start_rows(
    _call peers.claim_call, _rules peers.limit_rules, _key peers.limited_key, _rows peers.claim_row[],
    _wanted integer, _room bigint,
    out tasks peers.claim_tasks, out refused integer, out changed boolean, out "full" boolean
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _sorted constant record := peers._examine_rows(_call, _rows);
    _locked peers.claim_row[] := peers._lock_tasks(_sorted.valid, _wanted);
    _changed peers.claim_row[];
    _spots tid[];
    _measured record;
    _result record;
    _deleted record;
begin
    -- args may have changed before the lock
    select coalesce(array_agg(l) filter (where k.same), '{}'), array_agg(l) filter (where not k.same)
    into _locked, _changed
    from unnest(_locked) l
    cross join lateral (
        select peers._keys_hash(_rules, t.args) = _key.key as same from peers.task t where t.id = l.task_id
    ) k;
    _spots := array(select r.spot from unnest(peers._lock_limited_rows(_sorted.stale || _changed)) r);
    _locked := peers._fit_weights(_rules, _key, _locked, _call.claimed_at);
    _measured := peers._measure_args(_locked, _room);
    _result := peers._start_or_reject(
        _call, peers._lock_limited_rows(_measured.fitting), peers._lock_limited_rows(_measured.oversized)
    );
    tasks := _result.tasks;
    refused := _result.refused;
    _spots := _spots || _result.ended;
    with deleted as (
        delete from peers.ready_limited r where r.ctid = any (_spots) returning r.task_id, r.ready_at
    )
    select array_agg(d.task_id) as ids, array_agg(d.ready_at) as times into _deleted from deleted d;
    tasks.ready_at := peers._ready_times(tasks.ids, _deleted.ids, _deleted.times);
    changed := _changed is not null and _result.ended = '{}';
    "full" := not _measured.all_fit or array_remove(_rules.weights, null) <> '{}' and _result.ended <> '{}';
end
$$;

-- Starts tasks of one key, and gets past what stops _start_keys_at_once: stale rows, locked tasks, large args, tasks
-- whose start a trigger refuses, and weights. refused: how many tasks a trigger has refused. unfinished: it ran out of
-- time before it had tried all rows.
create or replace function peers._start_key_carefully(
    _call peers.claim_call, _rules peers.limit_rules, _key peers.limited_key, _depth integer, _room bigint,
    out lease peers.limited_lease, out refused integer, out unfinished boolean
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _wanted constant integer := _key.share * _depth;
    _size constant integer := least(1000, greatest(100, _wanted));
    _after_priority smallint := _key.priority;
    _after_position bigint := _key.position - 1;
    _rows peers.claim_row[];
    _step record;
    _tasks peers.claim_tasks;
begin
    refused := 0;
    unfinished := false;
    _call.token := gen_random_uuid();
    loop
        _rows := array(
            select row(r.ctid, r.task_id, r.kind, r.priority, r.position)::peers.claim_row
            from peers.ready_limited r
            where r.queue = _call.queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = _key.rank
              and r.key = _key.key and (r.priority, r.position) > (_after_priority, _after_position)
            order by r.priority, r.position
            limit _size
        );
        exit when _rows = '{}';
        _step := peers._start_rows(
            _call, _rules, _key, _rows, _wanted - coalesce(cardinality(_tasks.ids), 0), _room
        );
        _tasks := peers._merge_tasks(_tasks, _step.tasks);
        refused := refused + _step.refused;
        continue when _step.changed and clock_timestamp() < _call.until;
        exit when cardinality(_tasks.ids) >= _key.share or _step.full;
        -- without time it tries rows until one of them starts, and leaves the others
        unfinished := clock_timestamp() > _call.until
            and (_step.changed or _tasks.ids is not null or cardinality(_rows) = _size);
        exit when unfinished or cardinality(_rows) < _size;
        _after_priority := _rows[_size].priority;
        _after_position := _rows[_size].position;
    end loop;
    if _tasks.ids is not null then
        lease := row(_call.token, _key.limit_keys, _tasks, _key.share, peers._start_at(_call, _rules));
    end if;
end
$$;
