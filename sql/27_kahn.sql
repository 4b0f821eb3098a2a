-- Sorting a graph, and finding the way round it when it cannot be sorted.

-- Kahn's algorithm over edges from _parents[i] to _children[i]. Answers the nodes that have an edge, parents
-- before children; or else, by a walk in depth from what could not be ranked, one cycle [a, b, c, a].
-- The work is linear in the number of edges; arrays, because each step needs the one before it.
create or replace function peers._kahn(
    _parents bigint[], _children bigint[], out ranked bigint[], out cycle bigint[]
)
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _nodes bigint[];
    _sources integer[];   -- the edges between places in _nodes, in the order of their parents
    _targets integer[];
    _first integer[];     -- where a node's edges begin; one element more, so that they end where the next begin
    _waiting integer[];   -- how many parents of a node are not ranked yet
    _queue integer[];
    _head integer := 1;
begin
    _nodes := array(select n from unnest(_parents) n union select n from unnest(_children) n order by n);
    if _nodes = '{}' then
        ranked := '{}';
        return;
    end if;

    with node as materialized (select n.id, n.place::integer from unnest(_nodes) with ordinality n(id, place))
    select array_agg(p.place order by p.place, c.place), array_agg(c.place order by p.place, c.place)
    into _sources, _targets
    from unnest(_parents, _children) e(parent, child)
    join node p on p.id = e.parent
    join node c on c.id = e.child;

    _first := array(
        select 1 + coalesce(sum(count(s)) over (order by g.place rows between unbounded preceding and 1 preceding), 0)
        from generate_series(1, cardinality(_nodes) + 1) g(place)
        left join unnest(_sources) s on s = g.place
        group by g.place order by g.place
    );
    _waiting := array(
        select count(t) from generate_series(1, cardinality(_nodes)) g(place)
        left join unnest(_targets) t on t = g.place
        group by g.place order by g.place
    );
    _queue := array(select g.place from generate_series(1, cardinality(_nodes)) g(place) where _waiting[g.place] = 0);

    while _head <= cardinality(_queue) loop
        for _edge in _first[_queue[_head]] .. _first[_queue[_head] + 1] - 1 loop
            _waiting[_targets[_edge]] := _waiting[_targets[_edge]] - 1;
            if _waiting[_targets[_edge]] = 0 then
                _queue[cardinality(_queue) + 1] := _targets[_edge];
            end if;
        end loop;
        _head := _head + 1;
    end loop;

    if cardinality(_queue) = cardinality(_nodes) then
        ranked := array(select _nodes[q.place] from unnest(_queue) with ordinality q(place, rank) order by q.rank);
    else
        cycle := array(
            select _nodes[c.place]
            from unnest(peers._walk_back(_sources, _targets, _waiting)) with ordinality c(place, step) order by c.step
        );
    end if;
end
$$;

-- Every node that Kahn's algorithm could not rank has a parent of the same sort: going from parent to parent
-- must come back to a node that was passed already.
create or replace function peers._walk_back(_sources integer[], _targets integer[], _waiting integer[])
returns integer[]
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _parent integer[];
    _step integer[] := array_fill(null::integer, array[cardinality(_waiting)]);
    _path integer[] := '{}';
    _node integer;
begin
    _parent := array(
        select max(s.node) filter (where _waiting[s.node] > 0)
        from generate_series(1, cardinality(_waiting)) g(place)
        left join unnest(_sources, _targets) s(node, target) on s.target = g.place
        group by g.place order by g.place
    );
    select min(g.place) into _node from generate_series(1, cardinality(_waiting)) g(place) where _waiting[g.place] > 0;
    while _step[_node] is null loop
        _path[cardinality(_path) + 1] := _node;
        _step[_node] := cardinality(_path);
        _node := _parent[_node];
    end loop;
    return array(
        select p.node from unnest(_path[_step[_node]:] || _node) with ordinality p(node, step) order by p.step desc
    );
end
$$;
