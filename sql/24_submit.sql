-- peers.submit: one task with its parents in one call.

-- Returns whether a role may act on every task: a worker, an operator or the owner.
create or replace function peers._is_trusted(_role name) returns boolean
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return exists (
        select from pg_roles r
        where r.rolname = _role
          and (has_function_privilege(r.oid, 'peers.claim(uuid,text,integer,peers.claim_resume)', 'execute')
               or has_function_privilege(r.oid, 'peers.cancel(bigint)', 'execute'))
    );
end
$$;

-- Refuses a key that a task of another role has. _key_name: idempotency_key or unique_key. To return that task's id
-- would look like success, and nothing of the caller would run. Roles that may act on every task are exempt, and so are
-- their tasks.
create or replace function peers._check_key_owner(_ids bigint[], _key_name text) returns void
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
as $$
declare
    _foreign record;
begin
    for _foreign in
        select min(t.id) as id, t.submitter from peers.task t
        where t.id = any (_ids) and t.submitter <> session_user
        group by t.submitter
    loop
        exit when peers._is_trusted(session_user);
        if not peers._is_trusted(_foreign.submitter) then
            raise exception 'the % of task % belongs to another role: % cannot submit under it',
                _key_name, _foreign.id, session_user
                using errcode = 'PE009',
                hint = 'Begin your keys with a name of your own, such as "billing:2026-11".';
        end if;
    end loop;
end
$$;

create or replace function peers.submit(
    kind text,
    args jsonb default '{}',
    queue text default 'default',
    priority integer default 100,
    scheduled_at timestamptz default null,
    max_attempts integer default null,
    timeout interval default null,
    depends_on bigint[] default '{}',
    on_parent_failure peers.parent_failure_policy default 'hold',
    idempotency_key text default null,
    metadata jsonb default null,
    graph_id bigint default null,
    unique_key text default null,
    unique_while text default null,
    on_duplicate text default null,
    wait interval default null,
    max_wait interval default null
) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    _id bigint;
begin
    if num_nonnulls(submit.unique_key, submit.unique_while, submit.on_duplicate, submit.wait, submit.max_wait) > 0 then
        return (peers.submit_unique(
            submit.kind, submit.args, submit.queue, submit.priority, submit.scheduled_at, submit.max_attempts,
            submit.timeout, submit.depends_on, submit.on_parent_failure, submit.idempotency_key, submit.metadata,
            submit.graph_id, submit.unique_key, submit.unique_while, submit.on_duplicate, submit.wait,
            submit.max_wait)).id;
    elsif submit.priority not between -32768 and 32767 then
        raise exception 'priority must be -32768 to 32767 (smaller runs first, 100 is the default), not %',
            submit.priority using errcode = 'PE009';
    elsif submit.max_attempts not between 1 and 1000 then
        raise exception 'max_attempts must be 1 to 1000, not %', submit.max_attempts using errcode = 'PE009';
    end if;
    loop
        insert into peers.task (kind, args, queue, priority, scheduled_at, max_attempts, timeout,
                                idempotency_key, metadata, graph_id)
        values (submit.kind, coalesce(submit.args, '{}'), coalesce(submit.queue, 'default'),
                coalesce(submit.priority, 100), coalesce(submit.scheduled_at, pg_catalog.now()),
                submit.max_attempts, submit.timeout, submit.idempotency_key, submit.metadata, submit.graph_id)
        on conflict (idempotency_key) do nothing
        returning id into _id;
        exit when _id is not null;
        select t.id into _id from peers.task t where t.idempotency_key = submit.idempotency_key;
        if _id is not null then
            perform peers._check_key_owner(array[_id], 'idempotency_key');
            return _id;
        end if;
        -- prune deleted that task in the meantime: the key is free
    end loop;
    if cardinality(submit.depends_on) > 0 then
        insert into peers.dependency (parent_id, child_id, on_parent_failure)
        select distinct parent_id, _id, coalesce(submit.on_parent_failure, 'hold')
        from unnest(submit.depends_on) parent_id;
    end if;
    return _id;
end
$$;

comment on function peers.submit is
    'Submits one task and returns its id. If a task of the caller already has the idempotency_key, it returns the id '
    'of that task. depends_on: the ids of its parents. graph_id: the graph that it belongs to. unique_key, '
    'unique_while, on_duplicate, wait and max_wait: see peers.submit_unique, which also returns whether the task '
    'is new.';

create or replace function peers.submit_many(
    kind text,
    args json,
    queue text default 'default',
    priority integer default 100,
    scheduled_at timestamptz default null,
    max_attempts integer default null,
    timeout interval default null,
    depends_on bigint[] default '{}',
    on_parent_failure peers.parent_failure_policy default 'hold',
    metadata jsonb default null,
    graph_id bigint default null
) returns bigint[]
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    _ids bigint[];
begin
    if submit_many.priority not between -32768 and 32767 then
        raise exception 'priority must be -32768 to 32767 (smaller runs first, 100 is the default), not %',
            submit_many.priority using errcode = 'PE009';
    elsif submit_many.max_attempts not between 1 and 1000 then
        raise exception 'max_attempts must be 1 to 1000, not %', submit_many.max_attempts using errcode = 'PE009';
    elsif json_typeof(submit_many.args) is distinct from 'array' then
        raise exception 'args must be a JSON array with the args of each task, not %',
            coalesce('a JSON ' || json_typeof(submit_many.args), 'null') using errcode = 'PE009';
    end if;
    -- json and then jsonb for each task is faster than jsonb for all
    with submitted as (
        insert into peers.task (kind, args, queue, priority, scheduled_at, max_attempts, timeout, metadata, graph_id)
        select submit_many.kind, each.args::jsonb, coalesce(submit_many.queue, 'default'),
               coalesce(submit_many.priority, 100), coalesce(submit_many.scheduled_at, pg_catalog.now()),
               submit_many.max_attempts, submit_many.timeout, submit_many.metadata, submit_many.graph_id
        from json_array_elements(submit_many.args) each(args)
        returning id
    )
    select coalesce(array_agg(submitted.id order by submitted.id), '{}') into _ids from submitted;
    if cardinality(submit_many.depends_on) > 0 then
        insert into peers.dependency (parent_id, child_id, on_parent_failure)
        select distinct parent_id, child_id, coalesce(submit_many.on_parent_failure, 'hold')
        from unnest(submit_many.depends_on) parent_id cross join unnest(_ids) child_id;
    end if;
    return _ids;
end
$$;

comment on function peers.submit_many is
    'Submits one task for each element of args, a JSON array of objects, and returns their ids in the same order. The '
    'other arguments apply to all of them; see peers.submit.';
