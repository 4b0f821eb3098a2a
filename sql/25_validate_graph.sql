-- What the nodes of a graph may be.

-- Returns what is wrong with what a node of a graph says about its unique key. Null: nothing is wrong.
create or replace function peers._node_unique_problem(_node jsonb) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case
        when exists (select from unnest('{unique_key, unique_while, on_duplicate}'::text[]) field
                     where jsonb_typeof(_node -> field) not in ('string', 'null'))
            then 'unique_key, unique_while and on_duplicate must be strings'
        when exists (select from unnest('{wait, max_wait}'::text[]) field
                     where jsonb_typeof(_node -> field) not in ('string', 'number', 'null')
                        or _node ->> field is not null and peers._parse_interval(_node ->> field) is null)
            then 'wait and max_wait must be intervals such as "5 seconds", or numbers of seconds'
        when num_nonnulls(_node ->> 'unique_key', _node ->> 'unique_while', _node ->> 'on_duplicate', _node ->> 'wait',
                          _node ->> 'max_wait') > 0
            then peers._unique_problem(
                _node ->> 'kind', _node ->> 'unique_key', coalesce(_node ->> 'unique_while', 'waiting'),
                coalesce(_node ->> 'on_duplicate', 'keep'), (_node ->> 'wait')::interval,
                (_node ->> 'max_wait')::interval,
                coalesce(nullif(_node -> 'after', 'null'), '[]') <> '[]'
                    or coalesce(nullif(_node -> 'depends_on', 'null'), '[]') <> '[]',
                _node ->> 'scheduled_at' is not null)
    end;
end
$$;

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
