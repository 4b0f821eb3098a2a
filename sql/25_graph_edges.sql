-- The edges of a graph that peers.submit_graph inserts. A child is a place in the array of nodes. A parent is such a
-- place, too, or a task that "depends_on" names: then it is minus the id of the task.

-- Returns the edges between the nodes. An "after" may name a parent twice. The places come from a map, because a join
-- that was planned for a small graph took 16 s for one of 10,000 nodes.
create or replace function peers._node_edges(_graph jsonb, out parents bigint[], out children bigint[])
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _places constant jsonb := (
        select jsonb_object_agg(n.node ->> 'name', n.place)
        from jsonb_array_elements(_graph) with ordinality n(node, place)
    );
begin
    select array_agg(e.parent), array_agg(e.child) into parents, children
    from (
        select distinct (_places ->> parent.name)::bigint as parent, child.place as child
        from jsonb_array_elements(_graph) with ordinality child(node, place)
        cross join lateral jsonb_array_elements_text(nullif(child.node -> 'after', 'null')) parent(name)
    ) e;
end
$$;

-- Returns the places of the nodes that have an edge, parents before children. Refuses a cycle.
create or replace function peers._rank_nodes(_names text[], _parents bigint[], _children bigint[]) returns bigint[]
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _sorted constant record := peers._topological_sort(_parents, _children);
begin
    if _sorted.cycle is not null then
        raise exception 'dependency cycle: %',
            peers._describe_path(array(select _names[c.place] from unnest(_sorted.cycle) with ordinality c(place, step)
                              order by c.step))
            using errcode = 'PE001', hint = 'Remove one of these edges.';
    end if;
    return _sorted.ranked;
end
$$;

-- Returns for each node whether it stands for an older task that has started or ended.
create or replace function peers._started_nodes(_ids bigint[], _is_new boolean[]) returns boolean[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _started constant jsonb := (
        select jsonb_object_agg(t.id, true) from peers.task t
        where t.id = any (array(select n.id from unnest(_ids, _is_new) n(id, is_new) where not n.is_new))
          and (t.attempt > 0 or t.state not in ('blocked', 'scheduled', 'ready'))
    );
begin
    return array(
        select coalesce(not n.is_new and _started ? n.id::text, false)
        from unnest(_ids, _is_new) with ordinality n(id, is_new, place) order by n.place
    );
end
$$;

-- Returns the edges to insert if some nodes stand for older tasks. An older task gets no new parents if it has started,
-- because it cannot wait any more, or if it holds the node's unique key (shared), because it belongs to another
-- submission. These edges are left out. The node's children wait for its parents instead: no task of the graph starts
-- before the nodes that are above it.
create or replace function peers._edges_past_older_tasks(
    _parents bigint[], _children bigint[], _ids bigint[], _shared boolean[], _started boolean[],
    out parents bigint[], out children bigint[]
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _unsure bigint[];
    _gone bigint[];
begin
    with recursive edge as materialized (
        select e.parent, e.child, e.parent_id,
               _shared[e.child] is true or _started[e.child] and not exists (
                   select from peers.dependency d where d.parent_id = e.parent_id and d.child_id = _ids[e.child]
               ) as left_out
        from (
            select e.parent, e.child, case when e.parent < 0 then -e.parent else _ids[e.parent] end as parent_id
            from unnest(_parents, _children) e(parent, child)
        ) e
    ), kept as (
        select e.parent, e.child, e.parent_id, false as passed_on from edge e where not e.left_out
        union
        select e.parent, k.child, e.parent_id, true from kept k join edge e on e.child = k.parent where e.left_out
    )
    select array_agg(k.parent), array_agg(k.child),
           array_agg(k.parent_id) filter (where k.passed_on and k.parent < 0 or _shared[k.parent])
    into parents, children, _unsure
    from kept k;
    -- Some of these tasks may have been pruned, because a key can be held for longer than its task exists. No task has
    -- to wait for them. The others are locked, so that prune cannot delete them before the edges are inserted.
    _gone := array(
        select u.id from unnest(_unsure) u(id)
        except
        select t.id from (select t.id from peers.task t where t.id = any (_unsure) order by t.id for key share) t
    );
    if _gone <> '{}' then
        select array_agg(e.parent), array_agg(e.child) into parents, children
        from unnest(parents, children) e(parent, child)
        where case when e.parent < 0 then -e.parent else _ids[e.parent] end <> all (_gone);
    end if;
end
$$;

-- Inserts edges into the table.
create or replace function peers._insert_edges(
    _parents bigint[], _children bigint[], _ids bigint[], _policies peers.parent_failure_policy[]
) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    insert into peers.dependency (parent_id, child_id, on_parent_failure)
    select distinct on (e.parent_id, e.child_id) e.parent_id, e.child_id, e.policy
    from (
        select case when p.parent < 0 then -p.parent else _ids[p.parent] end, _ids[p.child], _policies[p.child]
        from unnest(_parents, _children) p(parent, child)
    ) e(parent_id, child_id, policy)
    on conflict (parent_id, child_id) do nothing;
end
$$;

-- Inserts the edges of a graph whose nodes are inserted. Between the nodes they are known; "depends_on" adds others.
create or replace function peers._link_nodes(
    _graph jsonb, _parents bigint[], _children bigint[], _policies peers.parent_failure_policy[],
    _ids bigint[], _is_new boolean[], _shared boolean[]
) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _started boolean[];
    _edges record;
begin
    select _parents || array_agg(-parent.id::bigint), _children || array_agg(n.place) into _parents, _children
    from jsonb_array_elements(_graph) with ordinality n(node, place)
    cross join lateral jsonb_array_elements_text(nullif(n.node -> 'depends_on', 'null')) parent(id);
    if false = any (_is_new) is not true then  -- no node stands for an older task
        perform peers._insert_edges(_parents, _children, _ids, _policies);
        return;
    end if;
    _started := peers._started_nodes(_ids, _is_new);
    loop
        begin
            _edges := peers._edges_past_older_tasks(_parents, _children, _ids, _shared, _started);
            perform peers._insert_edges(_edges.parents, _edges.children, _ids, _policies);
            return;
        exception when sqlstate 'PE002' then
            -- A task may have been claimed since. Locks on all of them could deadlock with those of other sessions.
            if peers._started_nodes(_ids, _is_new) = _started then
                raise;
            end if;
            _started := peers._started_nodes(_ids, _is_new);
        end;
    end loop;
end
$$;
