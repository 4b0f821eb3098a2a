-- Whole graphs in one call. The names are checked and the nodes sorted with Kahn's algorithm first, so that
-- ids grow from parent to child: that alone proves to the edge trigger that there is no cycle.

create or replace function peers._check_graph(_graph jsonb) returns void
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _fields constant text[] := '{name, kind, args, queue, priority, scheduled_at, max_attempts, timeout,
                                 idempotency_key, metadata, after, depends_on, on_parent_failure}';
    _complaint text;
begin
    if jsonb_typeof(_graph) is distinct from 'array' then
        raise exception 'a graph is a JSON array of nodes, not %', coalesce('a JSON ' || jsonb_typeof(_graph), 'null')
            using errcode = 'PE007',
            hint = 'For example: [{"name": "a", "kind": "etl.extract"}, {"name": "b", "kind": "etl.load", '
                '"after": ["a"]}]';
    end if;

    select 'node ' || n.place || coalesce(' "' || (n.node ->> 'name') || '" ', ' ') || c.complaint
    into _complaint
    from jsonb_array_elements(_graph) with ordinality n(node, place)
    cross join lateral (
        select case
            when jsonb_typeof(n.node) <> 'object' then 'is not a JSON object'
            when jsonb_typeof(n.node -> 'name') is distinct from 'string' then 'has no "name" (a string)'
            when jsonb_typeof(n.node -> 'kind') is distinct from 'string' then 'has no "kind" (a string)'
            when jsonb_typeof(n.node -> 'after') not in ('array', 'null')
                then 'has an "after" that is not an array of names'
            when jsonb_typeof(n.node -> 'depends_on') not in ('array', 'null') or jsonb_path_exists(
                     n.node, '$.depends_on[*] ? (@.type() != "number" || @ != @.floor() || @ > 9223372036854775807)')
                then 'has a "depends_on" that is not an array of task ids'
            when n.node ->> 'on_parent_failure' not in ('hold', 'cancel', 'run')
                then 'has an "on_parent_failure" that is not "hold", "cancel" or "run"'
            when jsonb_typeof(n.node -> 'priority') not in ('number', 'null')
                 or jsonb_path_exists(n.node, '$.priority ? (@ != @.floor() || @ < -32768 || @ > 32767)')
                then 'has a "priority" that is not a whole number from -32768 to 32767'
            when jsonb_typeof(n.node -> 'max_attempts') not in ('number', 'null')
                 or jsonb_path_exists(n.node, '$.max_attempts ? (@ != @.floor() || @ < 1 || @ > 1000)')
                then 'has a "max_attempts" that is not a whole number from 1 to 1000'
            else (select 'has an unknown field "' || field || '"'
                  from jsonb_object_keys(n.node) field where field <> all (_fields) limit 1)
        end
    ) c(complaint)
    where c.complaint is not null
    order by n.place
    limit 1;

    if _complaint is null then
        select 'more than one node has the name ' || n::text into _complaint
        from jsonb_path_query(_graph, '$[*].name') n group by n having count(*) > 1 limit 1;
    end if;
    if _complaint is null then
        select 'node "' || (node ->> 'name') || '" is after ' || parent::text || ', which is not in the graph'
        into _complaint
        from jsonb_array_elements(_graph) node, jsonb_array_elements(nullif(node -> 'after', 'null')) parent
        where parent not in (select jsonb_path_query(_graph, '$[*].name'))
        limit 1;
    end if;
    if _complaint is not null then
        raise exception 'bad graph: %', _complaint using errcode = 'PE007';
    end if;
end
$$;

-- Inserts the nodes by their rank and answers their ids by their place in the array.
create or replace function peers._insert_nodes(_graph jsonb, _ranked bigint[]) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _ids bigint[];
begin
    with ranked as (
        select n.node, n.place
        from jsonb_array_elements(_graph) with ordinality n(node, place)
        left join unnest(_ranked) with ordinality r(place, rank) using (place)
        order by r.rank nulls last, n.place
    ), numbered as materialized (
        select node, place, nextval(pg_get_serial_sequence('peers.task', 'id')) as id from ranked
    ), inserted as (
        insert into peers.task (id, kind, args, queue, priority, scheduled_at, max_attempts, timeout,
                                idempotency_key, metadata)
        overriding system value
        select id, node ->> 'kind', coalesce(nullif(node -> 'args', 'null'), '{}'),
               coalesce(node ->> 'queue', 'default'),
               coalesce((node ->> 'priority')::smallint, 100),
               coalesce((node ->> 'scheduled_at')::timestamptz, pg_catalog.now()),
               (node ->> 'max_attempts')::smallint, (node ->> 'timeout')::interval,
               node ->> 'idempotency_key', nullif(node -> 'metadata', 'null')
        from numbered
        order by id
        on conflict (idempotency_key) do nothing
    )
    select array_agg(id order by place) into _ids from numbered;

    -- a node whose idempotency_key was there already stands for the task that has it
    if jsonb_path_exists(_graph, '$[*].idempotency_key') then
        _ids := array(
            select coalesce(t.id, i.id)
            from jsonb_array_elements(_graph) with ordinality n(node, place)
            join unnest(_ids) with ordinality i(id, place) using (place)
            left join peers.task t on t.idempotency_key = n.node ->> 'idempotency_key'
            order by place
        );
    end if;
    return _ids;
end
$$;

create or replace function peers.submit_graph(graph jsonb)
returns table (name text, task_id bigint)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _names text[];
    _policies peers.parent_failure_policy[];
    _parents bigint[];
    _children bigint[];
    _ranked bigint[];
    _cycle bigint[];
    _ids bigint[];
begin
    perform peers._check_graph(submit_graph.graph);
    select array_agg(n.node ->> 'name' order by n.place),
           array_agg(coalesce(n.node ->> 'on_parent_failure', 'hold') order by n.place)
    into _names, _policies
    from jsonb_array_elements(submit_graph.graph) with ordinality n(node, place);

    -- the edges between nodes, as places in the array; an "after" may name a parent twice
    with node as materialized (
        select n.name, n.place from unnest(_names) with ordinality n(name, place)
    )
    select array_agg(parent.place), array_agg(child.place) into _parents, _children
    from jsonb_array_elements(submit_graph.graph) with ordinality child(node, place)
    cross join lateral (
        select distinct p from jsonb_array_elements_text(nullif(child.node -> 'after', 'null')) p
    ) after(name)
    join node parent on parent.name = after.name;

    select k.ranked, k.cycle into _ranked, _cycle from peers._kahn(_parents, _children) k;
    if _cycle is not null then
        raise exception 'dependency cycle: %',
            (select string_agg(_names[c.place], ' -> ' order by c.step)
             from unnest(_cycle) with ordinality c(place, step))
            using errcode = 'PE001', hint = 'Remove one of these edges.';
    end if;

    _ids := peers._insert_nodes(submit_graph.graph, _ranked);

    insert into peers.dependency (parent_id, child_id, on_parent_failure)
    select distinct on (e.parent_id, e.child_id) e.parent_id, e.child_id, e.policy
    from (
        select _ids[p.parent], _ids[p.child], _policies[p.child] from unnest(_parents, _children) p(parent, child)
        union all
        select parent.id::bigint, _ids[n.place], _policies[n.place]
        from jsonb_array_elements(submit_graph.graph) with ordinality n(node, place)
        cross join lateral jsonb_array_elements_text(nullif(n.node -> 'depends_on', 'null')) parent(id)
    ) e(parent_id, child_id, policy)
    on conflict (parent_id, child_id) do nothing;

    return query select n.name, n.id from unnest(_names, _ids) n(name, id);
end
$$;

comment on function peers.submit_graph is
    'Submits a whole graph: an array of nodes {"name", "kind", "after": [names], ...}. The other fields are those '
    'of peers.submit; on_parent_failure holds for all edges into the node. A node whose idempotency_key exists '
    'stands for the task that has it. Answers the id of each name.';
