-- peers.submit_unique and peers.submit_many_unique: submissions that may find their task there already.

-- Refuses what submissions of one kind say about their unique keys.
create or replace function peers._check_unique(
    _kind text, _keys text[], _unique_while text, _on_duplicate text, _wait interval, _max_wait interval,
    _has_parents boolean, _has_time boolean
) returns void
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _problem text;
begin
    select p.problem into _problem
    from unnest(_keys) k(key)
    cross join lateral (
        select peers._unique_problem(
            _kind, k.key, coalesce(_unique_while, 'waiting'), coalesce(_on_duplicate, 'keep'), _wait, _max_wait,
            _has_parents, _has_time) as problem
    ) p
    where p.problem is not null
    limit 1;
    if _problem is not null then
        raise exception '%', _problem using errcode = 'PE009';
    end if;
    perform peers._require_read_committed();
end
$$;

-- Returns the fields of a submission, with the defaults for null. Refuses what smallint cannot hold.
create or replace function peers._task_fields(
    _queue text, _priority integer, _scheduled_at timestamptz, _max_attempts integer, _timeout interval,
    _metadata jsonb
) returns peers.task_fields
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if _priority not between -32768 and 32767 then
        raise exception 'priority must be -32768 to 32767 (smaller runs first, 100 is the default), not %',
            _priority using errcode = 'PE009';
    elsif _max_attempts not between 1 and 1000 then
        raise exception 'max_attempts must be 1 to 1000, not %', _max_attempts using errcode = 'PE009';
    end if;
    return row(null, coalesce(_queue, 'default'), coalesce(_priority, 100), _scheduled_at, _max_attempts, _timeout,
               _metadata)::peers.task_fields;
end
$$;

create or replace function peers.submit_unique(
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
    max_wait interval default null,
    out id bigint, out is_new boolean, out replaced boolean
)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    _decision peers.unique_decision;
begin
    is_new := false;
    replaced := false;
    if idempotency_key is not null then
        select t.id into submit_unique.id from peers.task t where t.idempotency_key = submit_unique.idempotency_key;
        if submit_unique.id is not null then
            perform peers._check_key_owner(array[submit_unique.id], 'idempotency_key');
            return;
        end if;
    end if;
    if num_nonnulls(unique_key, unique_while, on_duplicate, wait, max_wait) = 0 then
        submit_unique.id := peers.submit(
            kind, args, queue, priority, scheduled_at, max_attempts, timeout, depends_on, on_parent_failure,
            idempotency_key, metadata, graph_id);
        is_new := exists (
            select from peers.task t
            where t.id = submit_unique.id
              and (t.created_xid, t.created_at) = (pg_current_xact_id(), pg_catalog.now()));
        return;
    end if;

    perform peers._check_unique(
        kind, array[unique_key], unique_while, on_duplicate, wait, max_wait, cardinality(depends_on) > 0,
        scheduled_at is not null);
    _decision := (peers._submit_unique(
        kind, array[coalesce(args, '{}')], array[unique_key],
        peers._unique_rule(unique_while, on_duplicate, wait, max_wait),
        peers._task_fields(queue, priority, scheduled_at, max_attempts, timeout, metadata),
        depends_on, on_parent_failure, idempotency_key, graph_id))[1];
    submit_unique.id := _decision.task_id;
    is_new := _decision.is_new;
    replaced := _decision.replaced;
end
$$;

comment on function peers.submit_unique is
    'Does the same as peers.submit, and returns the id and whether the task is new, or an older one that was replaced. '
    'unique_key: tasks of one kind with the same key exist once. unique_while: how long a task holds its key: waiting '
    '(until it starts; the default), unfinished (until it is completed, dead or cancelled), or an interval such as '
    '''10 minutes'' from its submission. on_duplicate: what a submission does while another task holds the key. keep '
    '(the default): nothing. replace: if that task has not started, it takes over the args, queue, priority, '
    'scheduled_at, max_attempts, timeout and metadata. debounce: the same, and it starts when wait has passed without '
    'another submission, at the latest max_wait after the first one.';

create or replace function peers.submit_many_unique(
    kind text,
    args json,
    unique_keys text[],
    queue text default 'default',
    priority integer default 100,
    scheduled_at timestamptz default null,
    max_attempts integer default null,
    timeout interval default null,
    depends_on bigint[] default '{}',
    on_parent_failure peers.parent_failure_policy default 'hold',
    metadata jsonb default null,
    graph_id bigint default null,
    unique_while text default null,
    on_duplicate text default null,
    wait interval default null,
    max_wait interval default null
) returns table (id bigint, is_new boolean, replaced boolean)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    _args jsonb[];
begin
    if json_typeof(args) is distinct from 'array' then
        raise exception 'args must be a JSON array with the args of each task, not %',
            coalesce('a JSON ' || json_typeof(args), 'null') using errcode = 'PE009';
    end if;
    _args := array(select each.args::jsonb from json_array_elements(submit_many_unique.args) each(args));
    if cardinality(unique_keys) is distinct from cardinality(_args) then
        raise exception 'unique_keys must have one element for each of the % args, not %',
            cardinality(_args), coalesce(cardinality(unique_keys)::text, 'null')
            using errcode = 'PE009', hint = 'A null in unique_keys submits a task without a unique key.';
    elsif _args = '{}' then
        return;
    end if;
    perform peers._check_unique(
        kind, array(select coalesce(k.key, '-') from unnest(unique_keys) k(key)), unique_while, on_duplicate, wait,
        max_wait, cardinality(depends_on) > 0, scheduled_at is not null);
    return query
        select a.task_id, a.is_new, a.replaced
        from unnest(peers._submit_unique(
            kind, _args, unique_keys, peers._unique_rule(unique_while, on_duplicate, wait, max_wait),
            peers._task_fields(queue, priority, scheduled_at, max_attempts, timeout, metadata),
            depends_on, on_parent_failure, null, graph_id)) a
        order by a.place;
end
$$;

comment on function peers.submit_many_unique is
    'Submits one task for each element of args, a JSON array of objects, with its element of unique_keys (null: none). '
    'Returns for each, in the same order, what peers.submit_unique returns. If a key comes several times, the first of '
    'them is new. The other arguments apply to all of them.';
