-- What peers.submit_graph does with the unique keys of its nodes.

-- Returns the fields that a node replaces in a task that waits.
create or replace function peers._node_fields(_node jsonb, _start_at timestamptz) returns peers.task_fields
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return row(
        coalesce(nullif(_node -> 'args', 'null'), '{}'), coalesce(_node ->> 'queue', 'default'),
        coalesce((_node ->> 'priority')::smallint, 100),
        coalesce(_start_at, (_node ->> 'scheduled_at')::timestamptz, pg_catalog.now()),
        (_node ->> 'max_attempts')::smallint, (_node ->> 'timeout')::interval, nullif(_node -> 'metadata', 'null')
    )::peers.task_fields;
end
$$;

-- Takes the unique keys of a graph's nodes, and changes the tasks that wait to what the nodes say. `_ids`: the ids of
-- the tasks that it may create, by place, in the order of the ranks. All results are by place. shared: the node stands
-- for the task of another submission. sources: the node whose fields its task has, if that is another one. A node whose
-- idempotency_key a task already has takes no unique key.
create or replace function peers._take_node_keys(
    _graph jsonb, _ids bigint[],
    out ids bigint[], out shared boolean[], out sources integer[], out starts timestamptz[]
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _places bigint[];
    _kinds text[];
    _keys text[];
    _rules peers.unique_rule[];
    _decision record;
    _old bigint[];
    _fields peers.task_fields[];
begin
    perform peers._require_read_committed();
    ids := _ids;
    shared := array_fill(false, array[cardinality(_ids)]);
    select array_agg(n.place order by _ids[n.place]), array_agg(n.node ->> 'kind' order by _ids[n.place]),
           array_agg(n.node ->> 'unique_key' order by _ids[n.place]),
           array_agg(peers._unique_rule(n.node ->> 'unique_while', n.node ->> 'on_duplicate',
                                        (n.node ->> 'wait')::interval, (n.node ->> 'max_wait')::interval)
                     order by _ids[n.place])
    into _places, _kinds, _keys, _rules
    from jsonb_array_elements(_graph) with ordinality n(node, place)
    where n.node ->> 'unique_key' is not null
      and not exists (select from peers.task t where t.idempotency_key = n.node ->> 'idempotency_key');
    if _places is null then
        return;
    end if;
    for _decision in
        select _places[a.place] as place, a.task_id, a.is_new, a.start_at,
               max(_places[a.place]) filter (where a.is_new or a.replaced) over (partition by a.task_id) as source,
               min(_places[a.place]) filter (where a.is_new) over (partition by a.task_id) as creator
        from unnest(peers._take_unique_keys(
            _kinds, _keys, _rules, array(select _ids[p] from unnest(_places) with ordinality u(p, n) order by u.n))) a
    loop
        ids[_decision.place] := _decision.task_id;
        shared[_decision.place] := not _decision.is_new;
        if _decision.is_new then
            sources[_decision.place] := nullif(_decision.source, _decision.place);
            starts[_decision.place] := _decision.start_at;
        elsif _decision.creator is null and _decision.place = _decision.source then
            _old := _old || _decision.task_id;
            _fields := _fields || peers._node_fields(_graph -> (_decision.place - 1)::integer, _decision.start_at);
        end if;
    end loop;
    if _old is not null then
        perform peers._replace_waiting(_old, _fields);
    end if;
end
$$;
