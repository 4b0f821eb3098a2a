-- The nodes of a graph become tasks.

-- Returns new ids for the nodes, by place. They grow in the order of the ranks; nodes without edges have no rank.
create or replace function peers._number_nodes(_ranked bigint[], _nodes integer) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _ranks integer[] := array_fill(null::integer, array[_nodes]);
begin
    for _rank in 1 .. cardinality(_ranked) loop
        _ranks[_ranked[_rank]] := _rank;
    end loop;
    return (
        with numbered as materialized (
            select r.place, nextval(pg_get_serial_sequence('peers.task', 'id')) as id
            from (
                select r.place from unnest(_ranks) with ordinality r(rank, place) order by r.rank nulls last, r.place
            ) r
        )
        select array_agg(n.id order by n.place) from numbered n
    );
end
$$;

-- Inserts the nodes that have no task yet, and returns the ids of the tasks by their idempotency_keys, with those that
-- were there before. `_shared`, `_sources` and `_starts`: see _take_node_keys; null: no node has a unique key.
--
-- Rows are inserted in the order of their keys, so that two graphs with the same keys wait for each other and do not
-- deadlock. The tasks that already have a key are locked, so that prune cannot delete them. If prune deleted one
-- just before, the key is free and the node is inserted in the next round.
create or replace function peers._insert_missing_nodes(
    _graph jsonb, _ids bigint[], _shared boolean[], _sources integer[], _starts timestamptz[], _graph_id bigint
) returns jsonb
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _keys constant text[] := array(
        select n.node ->> 'idempotency_key' from jsonb_array_elements(_graph) with ordinality n(node, place)
        where n.node ->> 'idempotency_key' is not null and _shared[n.place] is not true
    );
    _holders jsonb;
    _missing text[];
begin
    loop
        insert into peers.task (id, kind, args, queue, priority, scheduled_at, max_attempts, timeout,
                                idempotency_key, metadata, graph_id)
        overriding system value
        select _ids[n.place], n.node ->> 'kind', f.args, f.queue, f.priority, f.scheduled_at, f.max_attempts, f.timeout,
               n.node ->> 'idempotency_key', f.metadata, coalesce((n.node ->> 'graph_id')::bigint, _graph_id)
        from jsonb_array_elements(_graph) with ordinality n(node, place)
        cross join lateral peers._node_fields(
            case when _sources[n.place] is null then n.node else _graph -> (_sources[n.place] - 1) end,
            _starts[n.place]) f
        where _shared[n.place] is not true
          and (_missing is null or n.node ->> 'idempotency_key' = any (_missing))
        order by n.node ->> 'idempotency_key' collate "C" nulls last, _ids[n.place]
        on conflict (idempotency_key) do nothing;
        if _keys = '{}' then
            return '{}';
        end if;
        select coalesce(jsonb_object_agg(t.idempotency_key, t.id), '{}') into _holders
        from (
            select t.id, t.idempotency_key from peers.task t
            where t.idempotency_key = any (_keys)
            order by t.id for key share
        ) t;
        _missing := array(select k from unnest(_keys) k except select jsonb_object_keys(_holders));
        exit when _missing = '{}';
    end loop;
    return _holders;
end
$$;

-- Inserts the nodes as tasks of a graph, with ids in the order of their ranks, and returns the ids in the order of
-- the array. A node whose idempotency_key a task already has stands for that task. A node whose unique_key another task
-- holds is not inserted (shared) and stands for that task.
create or replace function peers._insert_nodes(
    _graph jsonb, _ranked bigint[], _graph_id bigint, out ids bigint[], out is_new boolean[], out shared boolean[]
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
as $$
declare
    _ids constant bigint[] := peers._number_nodes(_ranked, jsonb_array_length(_graph));
    _holders jsonb;
    _sources integer[];
    _starts timestamptz[];
    _instead jsonb;  -- the id of the task that takes the place of a new one
begin
    ids := _ids;
    if jsonb_path_exists(_graph, '$[*].unique_key ? (@ != null)') then
        select k.ids, k.shared, k.sources, k.starts into ids, shared, _sources, _starts
        from peers._take_node_keys(_graph, _ids) k;
    end if;
    _holders := peers._insert_missing_nodes(_graph, _ids, shared, _sources, _starts, _graph_id);
    if _holders = '{}' then
        is_new := array(
            select s.shared is not true from unnest(shared) with ordinality s(shared, place) order by s.place);
        return;
    end if;
    if shared is not null then
        perform peers._hand_over_keys(
            array_agg(n.node ->> 'kind'), array_agg(n.node ->> 'unique_key'), array_agg(_ids[n.place]),
            array_agg((_holders ->> (n.node ->> 'idempotency_key'))::bigint))
        from jsonb_array_elements(_graph) with ordinality n(node, place)
        where n.node ->> 'unique_key' is not null and _holders ? (n.node ->> 'idempotency_key');
        -- a node that shares the key of such a node stands for the same task
        select jsonb_object_agg(_ids[n.place], _holders -> (n.node ->> 'idempotency_key')) into _instead
        from jsonb_array_elements(_graph) with ordinality n(node, place)
        where n.node ->> 'unique_key' is not null and _holders ? (n.node ->> 'idempotency_key');
    end if;
    select array_agg(n.id order by n.place), array_agg(n.id = _ids[n.place] order by n.place) into ids, is_new
    from (
        select n.place,
               case when shared[n.place]
                    then coalesce((_instead ->> ids[n.place]::text)::bigint, ids[n.place])
                    else coalesce((_holders ->> (n.node ->> 'idempotency_key'))::bigint, _ids[n.place]) end as id
        from jsonb_array_elements(_graph) with ordinality n(node, place)
    ) n;
    perform peers._check_key_owner(ids, 'idempotency_key');
end
$$;
