-- An INSERT (or COPY) into peers.task submits tasks. A trigger checks them and inserts them into the table of their
-- state.

-- Notifies the peers that there may be something to claim. It is only a hint, at most one for each transaction: a
-- peer that misses it finds the tasks by polling. PREPARE TRANSACTION refuses a transaction that has notified.
-- `set peers.notify = off` leaves the notification out: for a session, a role, a database or (set local) one
-- transaction.
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

-- Moves new tasks that are still ready and whose time is later to scheduled. A task whose time was changed to now
-- in the meantime goes into the table ready.
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

-- After an INSERT into peers.task: refuses malformed or forged rows, then inserts a row into the table of each task's
-- state. Most INSERTs submit one task, and then the cost is what the queries of a trigger cost before they read their
-- first row. So ordinary tasks need only one query.
create or replace function peers.enqueue() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _problem text;
    _graphs bigint[];
    _later bigint[];
    _any_limit boolean;
    _placed bigint;
    _notified boolean;
begin
    -- This inserts all rows if all tasks are ordinary and there are no limits; otherwise it inserts none. It needs no
    -- sort: ids are assigned in the order in which rows are inserted, and new_tasks is read in that order.
    insert into peers.ready (queue, kind, priority, task_id)
    select t.queue, t.kind, t.priority, t.id
    from new_tasks t
    where not exists (select from peers.limit) and not exists (
        select from new_tasks t
        where not (
            t.state = 'ready' and t.attempt = 0 and t.pending_parents = 0
            and num_nulls(t.token, t.started_at, t.finished_at, t.result, t.stopped_because, t.max_attempts, t.timeout,
                          t.idempotency_key, t.graph_id, t.metadata) = 10
            and t.submitter = session_user and t.created_at = pg_catalog.now()
            and t.created_xid = pg_current_xact_id()
            and t.kind <> '' and t.queue <> '' and octet_length(t.kind || t.queue) <= 200
            and (t.kind || t.queue) !~ '[^ -~]'
            and jsonb_typeof(t.args) = 'object'
            and (pg_column_size(t.args #> '{}') <= 100  -- 7 numbers at most
                 or pg_column_size(t.args #> '{}') <= 4096 and octet_length(t.args::text) <= 1048576)
            and t.scheduled_at <= t.created_at and t.scheduled_at >= '1900-01-01 00:00:00+00'
        )
    );
    if not found then
        select min(case
                   when t.state <> 'ready' or t.attempt <> 0 or t.pending_parents <> 0 or t.token is not null
                        or t.submitter <> session_user or t.created_at <> pg_catalog.now()
                        or t.created_xid <> pg_current_xact_id()
                        or t.started_at is not null or t.finished_at is not null or t.result is not null
                        or t.stopped_because is not null
                   then 'state, attempt, pending_parents, submitter, created_at, created_xid, started_at, '
                        'finished_at, token, result and stopped_because are kept by the scheduler; leave them '
                        'out of the INSERT'
                   -- calling the function for each row would cost more than everything else here
                   when t.kind <> '' and t.queue <> '' and octet_length(t.kind || t.queue) <= 200
                        and jsonb_typeof(t.args) = 'object'
                        and (pg_column_size(t.args #> '{}') <= 100
                             or pg_column_size(t.args #> '{}') <= 4096 and octet_length(t.args::text) <= 1048576)
                        and t.scheduled_at between '1900-01-01 00:00:00+00' and '9000-01-01 00:00:00+00'
                        and t.timeout is null and t.metadata is null
                        and coalesce(t.max_attempts between 1 and 1000, true)
                        and coalesce(octet_length(t.idempotency_key) between 1 and 500, true)
                        and (t.kind || t.queue || coalesce(t.idempotency_key, '')) !~ '[^ -~]'
                   then null
                   else peers._validate_task(t.kind, t.args, t.queue, t.max_attempts, t.timeout,
                                         t.idempotency_key, t.metadata, t.scheduled_at)
               end),
               array_agg(distinct t.graph_id) filter (where t.graph_id is not null),
               array_agg(t.id) filter (where t.scheduled_at > t.created_at),
               exists (select from peers.limit) and exists (
                   select from new_tasks t
                   where t.kind in (select l.kind from peers.limit l) or t.queue in (select l.queue from peers.limit l)
               )
        into _problem, _graphs, _later, _any_limit
        from new_tasks t;
        if _problem is not null then
            raise exception 'peers.task: %', _problem using errcode = 'PE009';
        end if;
        if _graphs is not null then
            perform peers._lock_graphs(_graphs);
        end if;

        -- Other triggers of this statement, and verbs that it calls, can run before this trigger: a task may already
        -- be blocked, cancelled or changed. Its row in ready is then stale, as after any change.
        if _any_limit then
            -- one statement, so that a limit that is added in the meantime holds for all of it or for nothing
            with placed as materialized (
                select t.queue, t.kind, t.priority, t.id, l.layout, l.fair, l.limit_keys
                from new_tasks t
                cross join lateral peers._limits_of(t.queue, t.kind, t.args) l
                where t.scheduled_at <= t.created_at
                order by t.id
            ), limited as (
                insert into peers.ready_limited (queue, kind, layout, rank, key, priority, position, task_id,
                                                 limit_keys)
                select p.queue, p.kind, p.layout, case when p.fair then 0 else p.priority end,
                       hash_array_extended(p.limit_keys, 0), p.priority, nextval('peers.ready_position_seq'), p.id,
                       p.limit_keys
                from placed p where p.limit_keys is not null
            ), unlimited as (
                insert into peers.ready (queue, kind, priority, task_id)
                select p.queue, p.kind, p.priority, p.id from placed p where p.limit_keys is null
            )
            select p.id into _placed from placed p limit 1;
        else
            insert into peers.ready (queue, kind, priority, task_id)
            select t.queue, t.kind, t.priority, t.id
            from new_tasks t
            where t.scheduled_at <= t.created_at
            order by t.id;
        end if;
    end if;
    -- as peers._notify does it, without the cost of a call and of a query
    if found and coalesce(current_setting('peers.notify', true), '') not in ('off', 'false', 'no', '0') then
        _notified := pg_notify('peers', '') is not null;
    end if;
    if _later is not null then
        perform peers._schedule(_later, peers.now());
    end if;
    return null;
end
$$;

comment on function peers.enqueue() is
    'Trigger: checks submitted tasks and inserts a row into the table of their state.';

create or replace trigger enqueue after insert on peers.task
    referencing new table as new_tasks
    for each statement execute function peers.enqueue();
