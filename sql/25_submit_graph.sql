-- peers.submit_graph: a whole graph in one call. It checks the nodes and sorts them with Kahn's algorithm before it
-- inserts them. Ids then grow from parent to child, which proves to the trigger on edges that there is no cycle.

-- Refuses nodes that are malformed, names that are repeated, and parents that are not in the graph.
create or replace function peers._validate_nodes(_graph jsonb) returns void
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _fields constant text[] := '{name, kind, args, queue, priority, scheduled_at, max_attempts, timeout,
                                 idempotency_key, metadata, graph_id, after, depends_on, on_parent_failure,
                                 unique_key, unique_while, on_duplicate, wait, max_wait}';
    _problem text;
begin
    if jsonb_typeof(_graph) is distinct from 'array' then
        raise exception 'a graph is a JSON array of nodes, not %', coalesce('a JSON ' || jsonb_typeof(_graph), 'null')
            using errcode = 'PE007',
            hint = 'For example: [{"name": "a", "kind": "etl.extract"}, {"name": "b", "kind": "etl.load", '
                '"after": ["a"]}]';
    end if;

    select 'node ' || n.place || coalesce(' "' || left(n.node ->> 'name', 200) || '" ', ' ') || c.problem
    into _problem
    from jsonb_array_elements(_graph) with ordinality n(node, place)
    cross join lateral (
        select case
            when jsonb_typeof(n.node) <> 'object' then 'is not a JSON object'
            when jsonb_typeof(n.node -> 'name') is distinct from 'string' then 'has no "name" (a string)'
            when jsonb_typeof(n.node -> 'kind') is distinct from 'string' then 'has no "kind" (a string)'
            when exists (select from unnest('{queue, scheduled_at, idempotency_key}'::text[]) text_field
                         where jsonb_typeof(n.node -> text_field) not in ('string', 'null'))
                then 'has a "queue", "scheduled_at" or "idempotency_key" that is not a string'
            when n.node ?| '{unique_key, unique_while, on_duplicate, wait, max_wait}'
                 and peers._node_unique_problem(n.node) is not null
                then 'cannot be submitted: ' || peers._node_unique_problem(n.node)
            when jsonb_typeof(n.node -> 'timeout') not in ('string', 'number', 'null')
                 or jsonb_path_exists(n.node, '$.timeout ? (@.type() == "number" && (@ < 0 || @ > 2592000))')
                then 'has a "timeout" that is not an interval or a number of seconds, at most 30 days'
            when jsonb_typeof(n.node -> 'after') not in ('array', 'null')
                then 'has an "after" that is not an array of names'
            when jsonb_typeof(n.node -> 'depends_on') not in ('array', 'null') or jsonb_path_exists(
                     n.node,
                     '$.depends_on[*] ? (@.type() != "number" || @ != @.floor() || @ < 1 || @ > 9223372036854775807)')
                then 'has a "depends_on" that is not an array of task ids'
            when jsonb_typeof(n.node -> 'graph_id') not in ('number', 'null') or jsonb_path_exists(
                     n.node, '$.graph_id ? (@ != @.floor() || @ < 1 || @ > 9223372036854775807)')
                then 'has a "graph_id" that is not the id of a graph'
            when n.node ->> 'on_parent_failure' not in ('hold', 'cancel', 'run')
                then 'has an "on_parent_failure" that is not "hold", "cancel" or "run"'
            when jsonb_typeof(n.node -> 'priority') not in ('number', 'null')
                 or jsonb_path_exists(n.node, '$.priority ? (@ != @.floor() || @ < -32768 || @ > 32767)')
                then 'has a "priority" that is not a whole number from -32768 to 32767'
            when jsonb_typeof(n.node -> 'max_attempts') not in ('number', 'null')
                 or jsonb_path_exists(n.node, '$.max_attempts ? (@ != @.floor() || @ < 1 || @ > 1000)')
                then 'has a "max_attempts" that is not a whole number from 1 to 1000'
            else (select 'has an unknown field "' || left(field, 200) || '"'
                  from jsonb_object_keys(n.node) field where field <> all (_fields) limit 1)
        end
    ) c(problem)
    where c.problem is not null
    order by n.place
    limit 1;

    -- set operations (group by, except): no plan can make their time quadratic
    if _problem is null then
        select 'more than one node has the name "' || left(node ->> 'name', 200) || '"' into _problem
        from jsonb_array_elements(_graph) node group by node ->> 'name' having count(*) > 1 limit 1;
    end if;
    if _problem is null then
        select 'node "' || left(node ->> 'name', 200) || '" is after ' || left(unknown.parent::text, 200)
               || ', which is not in the graph'
        into _problem
        from (
            select parent
            from jsonb_array_elements(_graph) node, jsonb_array_elements(nullif(node -> 'after', 'null')) parent
            except
            select node -> 'name' from jsonb_array_elements(_graph) node
            limit 1
        ) unknown(parent)
        join jsonb_array_elements(_graph) node on node -> 'after' @> unknown.parent
        limit 1;
    end if;
    if _problem is not null then
        raise exception 'bad graph: %', _problem using errcode = 'PE007';
    end if;
end
$$;

-- Inserts the nodes as tasks of a graph, with ids in the order of their ranks, and returns the ids in the order of
-- the array. A node whose idempotency_key a task already has stands for that task. A node whose unique_key another task
-- holds is not inserted (shared) and stands for that task.
--
-- Rows are inserted in the order of their keys, so that two graphs with the same keys wait for each other and do not
-- deadlock. The tasks that already have a key are locked, so that prune cannot delete them. If prune deleted one
-- just before, the key is free and the node is inserted in the next round.
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
    _ids bigint[];
    _ranks integer[] := array_fill(null::integer, array[jsonb_array_length(_graph)]);
    _keys text[];
    _holders jsonb;  -- the id of the task that has a key
    _sources integer[];  -- the node whose fields the task of a node has, if that is another one
    _starts timestamptz[];
    _missing text[];
    _instead jsonb;  -- the id of the task that takes the place of a new one
begin
    for _rank in 1 .. cardinality(_ranked) loop
        _ranks[_ranked[_rank]] := _rank;
    end loop;
    with numbered as materialized (
        select r.place, nextval(pg_get_serial_sequence('peers.task', 'id')) as id
        from (
            select r.place from unnest(_ranks) with ordinality r(rank, place) order by r.rank nulls last, r.place
        ) r
    )
    select array_agg(n.id order by n.place) into _ids from numbered n;
    ids := _ids;
    if jsonb_path_exists(_graph, '$[*].unique_key ? (@ != null)') then
        select k.ids, k.shared, k.sources, k.starts into ids, shared, _sources, _starts
        from peers._take_node_keys(_graph, _ids) k;
    end if;
    _keys := array(select n.node ->> 'idempotency_key' from jsonb_array_elements(_graph) with ordinality n(node, place)
                   where n.node ->> 'idempotency_key' is not null and shared[n.place] is not true);

    loop
        insert into peers.task (id, kind, args, queue, priority, scheduled_at, max_attempts, timeout,
                                idempotency_key, metadata, graph_id)
        overriding system value
        select _ids[n.place], n.node ->> 'kind', coalesce(nullif(f.node -> 'args', 'null'), '{}'),
               coalesce(f.node ->> 'queue', 'default'),
               coalesce((f.node ->> 'priority')::smallint, 100),
               coalesce(_starts[n.place], (f.node ->> 'scheduled_at')::timestamptz, pg_catalog.now()),
               (f.node ->> 'max_attempts')::smallint, (f.node ->> 'timeout')::interval,
               n.node ->> 'idempotency_key', nullif(f.node -> 'metadata', 'null'),
               coalesce((n.node ->> 'graph_id')::bigint, _graph_id)
        from jsonb_array_elements(_graph) with ordinality n(node, place)
        cross join lateral (
            select case when _sources[n.place] is null then n.node else _graph -> (_sources[n.place] - 1) end as node
        ) f
        where shared[n.place] is not true
          and (_missing is null or n.node ->> 'idempotency_key' = any (_missing))
        order by n.node ->> 'idempotency_key' collate "C" nulls last, _ids[n.place]
        on conflict (idempotency_key) do nothing;
        if _keys = '{}' then
            is_new := case when shared is not null then array(
                select s.shared is not true from unnest(shared) with ordinality s(shared, place) order by s.place) end;
            return;
        end if;
        select jsonb_object_agg(t.idempotency_key, t.id) into _holders
        from (
            select t.id, t.idempotency_key from peers.task t
            where t.idempotency_key = any (_keys)
            order by t.id for key share
        ) t;
        _missing := array(
            select k from unnest(_keys) k except select jsonb_object_keys(coalesce(_holders, '{}'))
        );
        exit when _missing = '{}';
    end loop;

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
    _places jsonb;
    _parents bigint[];
    _children bigint[];
    _ranked bigint[];
    _cycle bigint[];
    _ids bigint[];
    _graph_ids bigint[];
    _created record;
    _is_new boolean[];
    _shared boolean[];
    _held bigint[];
    _pruned bigint[] := '{}';
begin
    perform peers._validate_nodes(submit_graph.graph);
    select array_agg(n.node ->> 'name' order by n.place),
           array_agg(coalesce(n.node ->> 'on_parent_failure', 'hold') order by n.place),
           jsonb_object_agg(n.node ->> 'name', n.place),
           array_agg((n.node ->> 'graph_id')::bigint order by n.place)
    into _names, _policies, _places, _graph_ids
    from jsonb_array_elements(submit_graph.graph) with ordinality n(node, place);

    -- The edges between nodes, as places in the array. An "after" may name a parent twice. The places come from a
    -- map, because a join that was planned for a small graph took 16 s for one of 10,000 nodes.
    select array_agg(e.parent), array_agg(e.child) into _parents, _children
    from (
        select distinct (_places ->> parent.name)::bigint as parent, child.place as child
        from jsonb_array_elements(submit_graph.graph) with ordinality child(node, place)
        cross join lateral jsonb_array_elements_text(nullif(child.node -> 'after', 'null')) parent(name)
    ) e;

    select k.ranked, k.cycle into _ranked, _cycle from peers._topological_sort(_parents, _children) k;
    if _cycle is not null then
        raise exception 'dependency cycle: %',
            peers._describe_path(array(select _names[c.place] from unnest(_cycle) with ordinality c(place, step)
                              order by c.step))
            using errcode = 'PE001', hint = 'Remove one of these edges.';
    end if;

    select null::bigint as id, false as known, null::jsonb as nodes into _created;
    if _graph_ids is null or array_position(_graph_ids, null) is not null then
        select c.id, c.known, c.nodes into _created
        from peers._create_graph(submit_graph.name, submit_graph.idempotency_key, submit_graph.metadata) c;
    end if;  -- no graph is created for nodes that all join existing ones
    if _created.known then
        return query select * from peers._known_nodes(_created.id, _created.nodes, _names);
        return;
    end if;
    select i.ids, i.is_new, i.shared into _ids, _is_new, _shared
    from peers._insert_nodes(submit_graph.graph, _ranked, _created.id) i;
    if true = any (_shared) then
        select array_agg(e.parent), array_agg(e.child) into _parents, _children
        from peers._bypass_shared(_parents, _children, _shared) e;
        _held := array(select i.id from unnest(_ids, _shared) i(id, shared) where i.shared);
        -- locked, so that prune cannot delete them before the edges are inserted
        _pruned := array(
            select h.id from unnest(_held) h(id)
            except
            select t.id from (select t.id from peers.task t where t.id = any (_held) order by t.id for key share) t
        );
    end if;
    if _created.id is not null and submit_graph.idempotency_key is not null then
        update peers.graph g
        set nodes = (select coalesce(jsonb_object_agg(n.name, n.id), '{}') from unnest(_names, _ids) n(name, id))
        where g.id = _created.id;
    end if;

    insert into peers.dependency (parent_id, child_id, on_parent_failure)
    select distinct on (e.parent_id, e.child_id) e.parent_id, e.child_id, e.policy
    from (
        select _ids[p.parent], _ids[p.child], _policies[p.child] from unnest(_parents, _children) p(parent, child)
        union all
        select parent.id::bigint, _ids[n.place], _policies[n.place]
        from jsonb_array_elements(submit_graph.graph) with ordinality n(node, place)
        cross join lateral jsonb_array_elements_text(nullif(n.node -> 'depends_on', 'null')) parent(id)
        where _shared[n.place] is not true
        union all
        select parent.id::bigint, _ids[p.child], _policies[p.child]
        from unnest(_parents, _children) p(parent, child)
        cross join lateral jsonb_array_elements_text(
            case when _shared[p.parent]
                 then nullif(submit_graph.graph -> (p.parent - 1)::integer -> 'depends_on', 'null') end) parent(id)
    ) e(parent_id, child_id, policy)
    -- a key may be held for an interval that outlasts its task: nothing has to wait for a task that was pruned
    where e.parent_id <> all (_pruned)
    on conflict (parent_id, child_id) do nothing;

    return query select n.name, n.id, coalesce(n.graph_id, _created.id), coalesce(n.is_new, true)
        from unnest(_names, _ids, _graph_ids, _is_new) n(name, id, graph_id, is_new);
end
$$;

comment on function peers.submit_graph is
    'Submits a whole graph: an array of nodes {"name", "kind", "after": [names], ...}. The other fields are those '
    'of peers.submit; on_parent_failure applies to all edges into the node. A node with a graph_id joins that graph '
    'instead of the new one. A node whose idempotency_key a task of '
    'the caller already has stands for that task. So does a node whose unique_key another task holds (see '
    'peers.submit_unique): that task does not wait for the node''s parents, but the node''s children wait for it and '
    'for them. name, idempotency_key and metadata are those of the graph. If the '
    'caller already has a graph with this idempotency_key, nothing is inserted and the ids of that graph are '
    'returned. Returns for each node its name, its task_id, the graph_id and whether the task is new.';
