-- peers.submit_graph: a whole graph in one call. It checks the nodes and sorts them with Kahn's algorithm before it
-- inserts them. Ids then grow from parent to child, which proves to the trigger on edges that there is no cycle.

-- Returns the ids that the nodes of a known graph got when it was submitted under its idempotency_key.
create or replace function peers._known_nodes(_graph_id bigint, _nodes jsonb, _names text[])
returns setof peers.submitted_node
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _unknown text;
begin
    select n.name into _unknown
    from unnest(_names) with ordinality n(name, place)
    where _nodes is null or not _nodes ? n.name
    order by n.place limit 1;
    if _unknown is not null then
        raise exception 'bad graph: graph % was submitted under the idempotency_key "%" without a node "%"',
            _graph_id, (select g.idempotency_key from peers.graph g where g.id = _graph_id), left(_unknown, 200)
            using errcode = 'PE007',
            hint = format('Submit other nodes under another key, or add tasks with graph_id => %s.', _graph_id);
    end if;
    return query select n.name, (_nodes ->> n.name)::bigint, _graph_id, false from unnest(_names) n(name);
end
$$;

create or replace function peers.submit_graph(
    graph jsonb, name text default null, idempotency_key text default null, metadata jsonb default null
) returns setof peers.submitted_node
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _names text[];
    _policies peers.parent_failure_policy[];
    _graph_ids bigint[];
    _edges record;
    _ranked bigint[];
    _created record;
    _nodes record;
begin
    perform peers._validate_nodes(submit_graph.graph);
    select array_agg(n.node ->> 'name' order by n.place),
           array_agg(coalesce(n.node ->> 'on_parent_failure', 'hold') order by n.place),
           array_agg((n.node ->> 'graph_id')::bigint order by n.place)
    into _names, _policies, _graph_ids
    from jsonb_array_elements(submit_graph.graph) with ordinality n(node, place);
    _edges := peers._node_edges(submit_graph.graph);
    _ranked := peers._rank_nodes(_names, _edges.parents, _edges.children);

    select null::bigint as id, false as known, null::jsonb as nodes into _created;
    if _graph_ids is null or array_position(_graph_ids, null) is not null then
        select c.id, c.known, c.nodes into _created
        from peers._create_graph(submit_graph.name, submit_graph.idempotency_key, submit_graph.metadata) c;
    end if;  -- no graph is created for nodes that all join existing ones
    if _created.known then
        return query select * from peers._known_nodes(_created.id, _created.nodes, _names);
        return;
    end if;
    _nodes := peers._insert_nodes(submit_graph.graph, _ranked, _created.id);
    if _created.id is not null and submit_graph.idempotency_key is not null then
        update peers.graph g
        set nodes = (select coalesce(jsonb_object_agg(n.name, n.id), '{}') from unnest(_names, _nodes.ids) n(name, id))
        where g.id = _created.id;
    end if;
    perform peers._link_nodes(
        submit_graph.graph, _edges.parents, _edges.children, _policies, _nodes.ids, _nodes.is_new, _nodes.shared);

    return query select n.name, n.id, coalesce(n.graph_id, _created.id), coalesce(n.is_new, true)
        from unnest(_names, _nodes.ids, _graph_ids, _nodes.is_new) n(name, id, graph_id, is_new);
end
$$;

comment on function peers.submit_graph is
    'Submits a whole graph: an array of nodes {"name", "kind", "after": [names], ...}. The other fields are those '
    'of peers.submit; on_parent_failure applies to all edges into the node. A node with a graph_id joins that graph '
    'instead of the new one. A node whose idempotency_key a task of the caller already has stands for that task. If '
    'that task has started, it gets no more parents, and the node''s children wait for it and for the parents of the '
    'node. The same holds for a node whose unique_key another task holds (see peers.submit_unique), also if that task '
    'has not started. name, idempotency_key and metadata are those of the graph. If the caller already has a graph '
    'with this idempotency_key, nothing is inserted and the ids of that graph are returned. Returns for each node its '
    'name, its task_id, the graph_id and whether the task is new.';
