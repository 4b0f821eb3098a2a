-- Submission. An INSERT (or COPY) into peers.task is all it takes; the helpers below only spare typing.

-- The doorbell: an empty hint that there is something to claim. At most one a transaction is delivered, and
-- a lost one costs the peers one poll. PREPARE TRANSACTION refuses a transaction that has sent one: it can be left
-- out by `set peers.notify = off`, for a session, a role, a database or (set local) a transaction.
create or replace function peers._notify(_payload text default '') returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if current_setting('peers.notify', true) in ('off', 'false', 'no', '0') then
        return;
    end if;
    perform pg_notify('peers', _payload);
end
$$;

-- How many bytes a value takes once it is written out as text, which is how it is read and sent; or some number
-- above 1 MiB if that is more. What it takes in storage says nothing: 1e131071 is 12 bytes of jsonb and 131 kB
-- of text, and 4 kB of such numbers are 50 MB, 100 kB more than Postgres can hold in one value. So whatever is
-- larger than 4 kB is only written out once its numbers are known to be short. Never raises: text of 1 MiB
-- takes less than 5 MiB of jsonb, and a value nested so deep that looking through it could exhaust the stack
-- counts as too large.
create or replace function peers._written_size(value jsonb) returns bigint
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _mebibyte constant bigint := 1048576;
    _bytes constant bigint := pg_column_size(value #> '{}');  -- uncompressed
    _digits bigint;
begin
    if _bytes > 4096 then
        if _bytes > 5 * _mebibyte then
            return _bytes;
        elsif jsonb_path_exists(value, 'strict $.**{1000}') then
            return 1000 * _mebibyte;
        end if;
        -- how long each number is at least; it is at most ten times that and a hundred characters more
        select sum(scale(n) + case
                       when abs(n) >= 1e100000 then 100000
                       when abs(n) >= 1e10000 then 10000
                       when abs(n) >= 1e1000 then 1000
                       when abs(n) >= 1e100 then 100
                       else 0
                   end)
        into _digits
        from (
            -- an array first: jsonb_path_query takes quadratic time to give out what it found
            select number::numeric as n
            from jsonb_array_elements(
                jsonb_path_query_array(value, 'strict $.** ? (@.type() == "number")')
            ) number
        ) numbers;
        if _digits > _mebibyte then
            return _digits;
        end if;
    end if;
    return octet_length(value::text);
end
$$;

-- 1 millisecond to 30 days. Months and parts below 0 could add up to that as well, and yet exceed all times on the
-- way: every look at peers.running would fail.
create or replace function peers._is_plain_timeout(_timeout interval) returns boolean
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return _timeout between interval '1 millisecond' and interval '30 days'
        and extract(year from _timeout) = 0 and extract(month from _timeout) = 0 and extract(day from _timeout) >= 0
        and _timeout >= make_interval(days => extract(day from _timeout)::integer);
end
$$;

-- Says of a value that _written_size finds too large what is wrong with it.
create or replace function peers._say_too_large(_name text, _value jsonb) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if pg_column_size(_value #> '{}') <= 5 * 1048576 and jsonb_path_exists(_value, 'strict $.**{1000}') then
        return _name || ' must not be nested 1000 levels deep or more';
    end if;
    return _name || ' must be at most 1 MiB (1048576 bytes) of text, not ' || peers._written_size(_value)
        || '; store large data elsewhere and pass a reference to it';
end
$$;

-- Names the first thing that is wrong with a task's values, its bound and the remedy; null: nothing is.
-- Up to 100 bytes of jsonb hold 7 numbers at most, and so less than 1 MiB of text.
create or replace function peers._validate_task(
    _kind text, _args jsonb, _queue text, _max_attempts integer, _timeout interval,
    _idempotency_key text, _metadata jsonb, _scheduled_at timestamptz default null
) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case
        when length(_kind) not between 1 and 200 then
            'kind must have 1 to 200 characters, not ' || length(_kind)
        when length(_queue) not between 1 and 200 then
            'queue must have 1 to 200 characters, not ' || length(_queue)
        when _kind ~ '[[:cntrl:]]' or _queue ~ '[[:cntrl:]]' or _idempotency_key ~ '[[:cntrl:]]' then
            'kind, queue and idempotency_key must not contain control characters'
        when jsonb_typeof(_args) <> 'object' then
            'args must be a JSON object such as {"path": "/srv/a.png"}, not a JSON ' || jsonb_typeof(_args)
        when pg_column_size(_args #> '{}') > 100 and peers._written_size(_args) > 1048576 then
            peers._say_too_large('args', _args)
        when jsonb_typeof(_metadata) <> 'object' then
            'metadata must be a JSON object, not a JSON ' || jsonb_typeof(_metadata)
        when pg_column_size(_metadata #> '{}') > 100 and peers._written_size(_metadata) > 1048576 then
            peers._say_too_large('metadata', _metadata)
        when _max_attempts not between 1 and 1000 then
            'max_attempts must be 1 to 1000, not ' || _max_attempts
        when not peers._is_plain_timeout(_timeout) then
            'timeout must be 1 millisecond to 30 days, in days or smaller units and none below 0, not ' || _timeout
        when _scheduled_at not between '1900-01-01 00:00:00+00' and '9000-01-01 00:00:00+00' then
            'scheduled_at must be between the years 1900 and 9000, not ' || _scheduled_at
        when length(_idempotency_key) not between 1 and 500 then
            'idempotency_key must have 1 to 500 characters, not ' || length(_idempotency_key)
    end;
end
$$;

-- Lets new tasks wait for their time: those that are still ready. A task that was made due meanwhile comes into
-- the table ready instead.
create or replace function peers._schedule(_ids bigint[], _now timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
begin
    with scheduled as (
        update peers.task t set state = 'scheduled'
        where t.id = any (_ids) and t.state = 'ready' and t.scheduled_at > greatest(_now, t.created_at)
        returning t.id, t.scheduled_at
    )
    insert into peers.scheduled (due_at, task_id)
    select s.scheduled_at, s.id from scheduled s;
    insert into peers.ready (queue, kind, priority, task_id)
    select t.queue, t.kind, t.priority, t.id
    from peers.task t
    where t.id = any (_ids) and t.state = 'ready'
    order by t.id;
    if found then
        perform peers._notify();
    end if;
end
$$;

-- After an INSERT into peers.task: refuse what is malformed or forged, then insert a row into the table of its state.
create or replace function peers.enqueue() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
    _problem text;
    _later bigint[];
begin
    -- ordinary rows are told by a look: a call for each of them would cost a quarter of the insertion
    select case
               when t.state <> 'ready' or t.attempt <> 0 or t.pending_parents <> 0 or t.token is not null
                    or t.submitter <> session_user or t.created_at <> pg_catalog.now()
                    or t.created_xid <> pg_current_xact_id()
                    or t.started_at is not null or t.finished_at is not null or t.result is not null
                    or t.stopped_because is not null
               then 'state, attempt, pending_parents, submitter, created_at, created_xid, started_at, '
                    'finished_at, token, result and stopped_because are kept by the scheduler; leave them out'
               when length(t.kind) between 1 and 200 and length(t.queue) between 1 and 200
                    and jsonb_typeof(t.args) = 'object'
                    and (pg_column_size(t.args #> '{}') <= 100  -- 7 numbers at most
                         or pg_column_size(t.args #> '{}') <= 4096 and octet_length(t.args::text) <= 1048576)
                    and t.scheduled_at between '1900-01-01 00:00:00+00' and '9000-01-01 00:00:00+00'
                    and t.max_attempts is null and t.timeout is null and t.idempotency_key is null
                    and t.metadata is null and (t.kind || t.queue) !~ '[^ -~]'
               then null
               else peers._validate_task(t.kind, t.args, t.queue, t.max_attempts, t.timeout,
                                     t.idempotency_key, t.metadata, t.scheduled_at)
           end as complaint
    into _problem
    from new_tasks t
    order by complaint nulls last
    limit 1;
    if _problem is not null then
        raise exception 'peers.task: %', _problem using errcode = 'PE009';
    end if;

    -- Other triggers of this statement, and verbs that it calls, can come before this one: a task may be
    -- blocked, cancelled or changed by now. Its row in ready is then stale, as after any change.
    insert into peers.ready (queue, kind, priority, task_id)
    select t.queue, t.kind, t.priority, t.id
    from new_tasks t
    where t.scheduled_at <= greatest(_now, t.created_at)
    order by t.id;
    if found then
        perform peers._notify();
    end if;

    -- a time that is no later than the submission is none, wherever the clock has gone since (as in 35, 60, 85)
    _later := array(select t.id from new_tasks t where t.scheduled_at > greatest(_now, t.created_at));
    if _later <> '{}' then
        perform peers._schedule(_later, _now);
    end if;
    return null;
end
$$;

comment on function peers.enqueue() is 'Trigger: checks submitted tasks and inserts a row into the table of its state.';

create or replace trigger enqueue after insert on peers.task
    referencing new table as new_tasks
    for each statement execute function peers.enqueue();

-- Whether a role may act on every task: a worker, an operator or the owner.
create or replace function peers._is_trusted(_role name) returns boolean
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return exists (
        select from pg_roles r
        where r.rolname = _role
          and (has_function_privilege(r.oid, 'peers.claim(uuid, text, integer)', 'execute')
               or has_function_privilege(r.oid, 'peers.cancel(bigint)', 'execute'))
    );
end
$$;

-- Submitting under a key that somebody else's task has would look like success and run nothing. The tasks of
-- workers and operators may stand for those of a submitter, and the other way round.
create or replace function peers._refuse_strange_keys(_ids bigint[]) returns void
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
as $$
declare
    _strange record;
begin
    for _strange in
        select min(t.id) as id, t.submitter from peers.task t
        where t.id = any (_ids) and t.submitter <> session_user
        group by t.submitter
    loop
        exit when peers._is_trusted(session_user);
        if not peers._is_trusted(_strange.submitter) then
            raise exception 'the idempotency_key of task % belongs to another role: % cannot submit under it',
                _strange.id, session_user
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
    metadata jsonb default null
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
    if submit.priority not between -32768 and 32767 then
        raise exception 'priority must be -32768 to 32767 (smaller runs first, 100 is the default), not %',
            submit.priority using errcode = 'PE009';
    elsif submit.max_attempts not between 1 and 1000 then
        raise exception 'max_attempts must be 1 to 1000, not %', submit.max_attempts using errcode = 'PE009';
    end if;
    loop
        insert into peers.task (kind, args, queue, priority, scheduled_at, max_attempts, timeout,
                                idempotency_key, metadata)
        values (submit.kind, coalesce(submit.args, '{}'), coalesce(submit.queue, 'default'),
                coalesce(submit.priority, 100), coalesce(submit.scheduled_at, pg_catalog.now()),
                submit.max_attempts, submit.timeout, submit.idempotency_key, submit.metadata)
        on conflict (idempotency_key) do nothing
        returning id into _id;
        exit when _id is not null;
        select t.id into _id from peers.task t where t.idempotency_key = submit.idempotency_key;
        if _id is not null then
            perform peers._refuse_strange_keys(array[_id]);
            return _id;
        end if;
        -- pruned meanwhile: the key is free
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
    'Submits one task and returns its id; with an idempotency_key that a task of the caller has already, the id of '
    'that task. depends_on: the ids of its parents.';
