-- Sort a graph, or find a cycle in it.
--
-- Both functions walk over arrays, in time that is linear in the number of edges. They use no joins: a plan that was
-- kept from a small graph, or made where the caller has hash joins off, would compare each node with each edge. That
-- took 35 s for 16,000 edges instead of 0.1 s.

-- Kahn's algorithm over edges from _parents[i] to _children[i]. Returns the nodes that have an edge, parents before
-- children. If there is a cycle, it returns one instead: [a, b, c, a].
create or replace function peers._topological_sort(
    _parents bigint[], _children bigint[], out ranked bigint[], out cycle bigint[]
)
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _nodes bigint[];
    _sources integer[];   -- where each edge begins and ends, as places in _nodes
    _targets integer[];
    _first integer[];     -- the first edge of each node
    _next integer[];      -- after each edge, the next edge of the same node
    _waiting integer[];   -- how many parents of a node are not ranked yet
    _queue integer[] := '{}';
    _head integer := 1;
    _edge integer;
    _target integer;
begin
    select array_agg(distinct e.id order by e.id),
           array_agg(e.place order by e.edge) filter (where e.is_parent),
           array_agg(e.place order by e.edge) filter (where not e.is_parent)
    into _nodes, _sources, _targets
    from (
        select n.id, n.edge, n.is_parent, dense_rank() over (order by n.id) as place
        from (
            select p.id, p.edge, true as is_parent from unnest(_parents) with ordinality p(id, edge)
            union all
            select c.id, c.edge, false from unnest(_children) with ordinality c(id, edge)
        ) n
    ) e;
    if _nodes is null then
        ranked := '{}';
        return;
    end if;

    _first := array_fill(0, array[cardinality(_nodes)]);
    _next := array_fill(0, array[cardinality(_sources)]);
    _waiting := _first;
    for _edge in reverse cardinality(_sources) .. 1 loop
        _next[_edge] := _first[_sources[_edge]];
        _first[_sources[_edge]] := _edge;
        _waiting[_targets[_edge]] := _waiting[_targets[_edge]] + 1;
    end loop;

    for _node in 1 .. cardinality(_nodes) loop
        if _waiting[_node] = 0 then
            _queue[cardinality(_queue) + 1] := _node;
        end if;
    end loop;
    while _head <= cardinality(_queue) loop
        _edge := _first[_queue[_head]];
        while _edge > 0 loop
            _target := _targets[_edge];
            _waiting[_target] := _waiting[_target] - 1;
            if _waiting[_target] = 0 then
                _queue[cardinality(_queue) + 1] := _target;
            end if;
            _edge := _next[_edge];
        end loop;
        _head := _head + 1;
    end loop;

    if cardinality(_queue) = cardinality(_nodes) then
        ranked := array(select _nodes[q.place] from unnest(_queue) with ordinality q(place, rank) order by q.rank);
    else
        cycle := array(
            select _nodes[c.place]
            from unnest(peers._find_cycle(_sources, _targets, _waiting)) with ordinality c(place, step) order by c.step
        );
    end if;
end
$$;

-- Every node that Kahn's algorithm could not rank has a parent that it could not rank either. So a walk from parent
-- to parent must come back to a node that it has visited.
create or replace function peers._find_cycle(_sources integer[], _targets integer[], _waiting integer[])
returns integer[]
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _parent integer[] := array_fill(0, array[cardinality(_waiting)]);
    _step integer[] := array_fill(0, array[cardinality(_waiting)]);
    _visited integer[] := '{}';
    _node integer;
begin
    for _edge in 1 .. cardinality(_sources) loop
        if _waiting[_sources[_edge]] > 0 then
            _parent[_targets[_edge]] := _sources[_edge];
        end if;
        if _waiting[_targets[_edge]] > 0 then
            _node := _targets[_edge];
        end if;
    end loop;
    while _step[_node] = 0 loop
        _visited[cardinality(_visited) + 1] := _node;
        _step[_node] := cardinality(_visited);
        _node := _parent[_node];
    end loop;
    return array(
        select p.node from unnest(_visited[_step[_node]:] || _node) with ordinality p(node, step) order by p.step desc
    );
end
$$;

-- Returns a cycle as text. Of a long cycle only the first and last few steps: 5,000 tasks would be 45 kB.
create or replace function peers._describe_path(_steps text[]) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _ends constant integer := 5;
    _between constant integer := cardinality(_steps) - 2 * _ends;
begin
    if _between > 2 then
        _steps := _steps[:_ends] || ('(' || _between || ' more)') || _steps[cardinality(_steps) - _ends + 1:];
    end if;
    return (select string_agg(left(s.step, 200), ' -> ' order by s.place)
            from unnest(_steps) with ordinality s(step, place));
end
$$;
