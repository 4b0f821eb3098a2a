-- How a batch with unique keys inserts its new tasks and replaces those that wait.

-- Returns the tasks that a batch inserts or replaces, with their fields. Several submissions can stand for one task,
-- which then has what the last of them says.
create or replace function peers._changed_tasks(
    _decisions peers.unique_decision[], _args jsonb[], _fields peers.task_fields,
    out ids bigint[], out are_new boolean[], out fields peers.task_fields[]
)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    select array_agg(f.task_id), array_agg(f.is_new),
           array_agg(row(f.args, _fields.queue, _fields.priority,
                         coalesce(f.start_at, _fields.scheduled_at, pg_catalog.now()),
                         _fields.max_attempts, _fields.timeout, _fields.metadata)::peers.task_fields)
    into ids, are_new, fields
    from (
        select distinct on (a.task_id) a.task_id, a.args, a.start_at,
               bool_or(a.is_new) over (partition by a.task_id) as is_new
        from unnest(_decisions, _args) a(place, task_id, is_new, replaced, start_at, args)
        where a.is_new or a.replaced
        order by a.task_id, a.place desc
    ) f;
end
$$;

-- Inserts the tasks that are new. If another session has just inserted a task with the idempotency_key, which only a
-- batch of one may have, it inserts nothing and returns the id of that task; otherwise null.
create or replace function peers._insert_new_tasks(
    _kind text, _ids bigint[], _are_new boolean[], _fields peers.task_fields[], _idempotency_key text, _graph_id bigint
) returns bigint
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _known bigint;
begin
    loop
        insert into peers.task (id, kind, args, queue, priority, scheduled_at, max_attempts, timeout,
                                idempotency_key, metadata, graph_id)
        overriding system value
        select f.task_id, _kind, f.args, f.queue, f.priority, f.scheduled_at, f.max_attempts, f.timeout,
               _idempotency_key, f.metadata, _graph_id
        from unnest(_ids, _are_new, _fields)
            f(task_id, is_new, args, queue, priority, scheduled_at, max_attempts, timeout, metadata)
        where f.is_new
        order by f.task_id
        on conflict (idempotency_key) do nothing;
        exit when found or _idempotency_key is null;
        select t.id into _known from peers.task t where t.idempotency_key = _idempotency_key;
        exit when _known is not null;
        -- prune deleted that task in the meantime: the key is free
    end loop;
    return _known;
end
$$;

-- Submits a batch of one kind, which the caller has checked. The tasks that are new get the parents.
create or replace function peers._submit_unique(
    _kind text, _args jsonb[], _keys text[], _rule peers.unique_rule, _fields peers.task_fields,
    _depends_on bigint[], _on_parent_failure peers.parent_failure_policy, _idempotency_key text, _graph_id bigint
) returns peers.unique_decision[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _count constant integer := cardinality(_args);
    _ids constant bigint[] := array(
        select nextval(pg_get_serial_sequence('peers.task', 'id')) from generate_series(1, _count)
    );
    _decisions constant peers.unique_decision[] := peers._take_unique_keys(
        array_fill(_kind, array[_count]), _keys, array_fill(_rule, array[_count]), _ids
    );
    _changed constant record := peers._changed_tasks(_decisions, _args, _fields);
    _known bigint;
begin
    if true = any (_changed.are_new) then
        _known := peers._insert_new_tasks(
            _kind, _changed.ids, _changed.are_new, _changed.fields, _idempotency_key, _graph_id);
        if _known is not null then
            -- that task then also holds the unique key, if it is of the same kind
            perform peers._check_key_owner(array[_known], 'idempotency_key');
            perform peers._hand_over_keys(array[_kind], _keys, _ids, array[_known]);
            return array[row(1, _known, false, false, null)::peers.unique_decision];
        end if;
    end if;
    if false = any (_changed.are_new) then
        perform peers._replace_waiting(array_agg(f.task_id), array_agg(f.fields))
        from (
            select f.task_id, row(f.args, f.queue, f.priority, f.scheduled_at, f.max_attempts, f.timeout, f.metadata
                              )::peers.task_fields as fields
            from unnest(_changed.ids, _changed.are_new, _changed.fields)
                f(task_id, is_new, args, queue, priority, scheduled_at, max_attempts, timeout, metadata)
            where not f.is_new
        ) f;
    end if;
    if cardinality(_depends_on) > 0 then
        insert into peers.dependency (parent_id, child_id, on_parent_failure)
        select distinct parent_id, a.task_id, coalesce(_on_parent_failure, 'hold')
        from unnest(_depends_on) parent_id cross join unnest(_decisions) a
        where a.is_new;
    end if;
    return _decisions;
end
$$;
