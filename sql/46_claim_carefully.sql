-- How a claim gets past obstacles: stale rows, tasks that another session has locked, large args, and tasks whose start
-- an application's trigger refuses.

-- Raises the error that a handler has caught again if it says nothing about a task: disk or memory is full, the server
-- stops, or data are corrupt.
create or replace function peers._raise_if_fatal(_sqlstate text, _message text) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if left(_sqlstate, 2) in ('53', '57', '58', 'XX') then
        raise exception using errcode = _sqlstate, message = _message;
    end if;
end
$$;

-- Returns the tasks of two claims together, by priority and position.
create or replace function peers._merge_tasks(_one peers.claim_tasks, _other peers.claim_tasks)
returns peers.claim_tasks
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _merged peers.claim_tasks;
begin
    if _one.ids is null then
        return _other;
    elsif _other.ids is null then
        return _one;
    end if;
    select array_agg(t.id), array_agg(t.attempt), array_agg(t.kind), array_agg(t.priority), array_agg(t.position),
           array_agg(t.timeout), array_agg(t.args), array_agg(t.ready_at)
    into _merged
    from (
        select t.id, t.attempt, coalesce(t.kind, c.kinds[1]) as kind,
               coalesce(t.priority, c.priorities[1]) as priority, t.position, t.timeout, t.args, t.ready_at
        from (select (_one).* union all select (_other).*) c
        cross join lateral unnest(
            c.ids, c.attempts, c.kinds, c.priorities, c.positions, c.timeouts, c.args, c.ready_at
        ) t(id, attempt, kind, priority, position, timeout, args, ready_at)
        order by 4, t.position
    ) t;
    return _merged;
end
$$;

-- Tells stale rows from those whose tasks can be started. The row of a task that was pruned is stale. The row of a task
-- of a paused graph is stale too, and peers.resume_graph inserts it again. That is safe only while this transaction
-- holds a share lock on the graph, so that no resume can run at the same time: it might not see the task yet. If the
-- graph's row cannot be locked at once, the row in ready is left alone. It reads tasks without locks: whoever makes a
-- task ready after that inserts a new row.
create or replace function peers._examine_rows(
    _call peers.claim_call, _rows peers.claim_row[], out stale peers.claim_row[], out valid peers.claim_row[]
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    select array_agg(r.row) filter (where t.valid is not true or t.graph_locked),
           array_agg(r.row) filter (where t.valid and t.graph_locked is null)
    into stale, valid
    from (
        select r as row, r.task_id, r.kind, r.priority from unnest(_rows) r
    ) r
    left join lateral (
        select t.state = 'ready' and t.priority = r.priority and t.kind = r.kind and t.queue = _call.queue as valid,
               case when _call.any_graph_paused and t.graph_id is not null and exists (
                        select from peers.graph g where g.id = t.graph_id and g.paused_at is not null)
                    then exists (
                        select from peers.graph g where g.id = t.graph_id and g.paused_at is not null
                        for share skip locked)
               end as graph_locked  -- null: the graph is not paused
        from peers.task t where t.id = r.task_id
    ) t on true;
end
$$;

-- Locks those of the rows that no other session has locked or deleted, and returns them.
create or replace function peers._lock_rows(_rows peers.claim_row[]) returns peers.claim_row[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return array(
        select r
        from unnest(_rows) r
        cross join lateral (
            select from peers.ready y
            where y.ctid = r.spot and y.task_id = r.task_id and y.position = r.position
            for update skip locked
        ) y
    );
end
$$;

-- Locks the tasks of the first _wanted of the rows and returns those rows. It skips tasks that another session has
-- locked.
create or replace function peers._lock_tasks(_rows peers.claim_row[], _wanted integer) returns peers.claim_row[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return array(
        select r
        from unnest(_rows) r
        cross join lateral (
            select from peers.task t where t.id = r.task_id for no key update skip locked
        ) t
        limit _wanted
    );
end
$$;

-- Measures the args of rows' tasks. fitting: the first rows whose tasks' args together are at most _room bytes of text,
-- and always one. oversized: rows of tasks whose args exceed 1 MiB; they cannot be sent. last: the last row that it
-- measured.
create or replace function peers._measure_args(
    _rows peers.claim_row[], _room bigint,
    out fitting peers.claim_row[], out oversized peers.claim_row[], out last peers.claim_row, out all_fit boolean
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _row peers.claim_row;
    _size bigint;
    _total bigint := 0;
begin
    fitting := '{}';
    oversized := '{}';
    all_fit := true;
    foreach _row in array _rows loop
        -- one at a time, because each may take a while
        _size := (select case when pg_column_size(t.args) <= 100 then octet_length(t.args::text)
                              else peers._text_size(t.args) end
                  from peers.task t where t.id = _row.task_id);
        if _size > 1048576 then
            oversized := oversized || _row;
        elsif _total + _size > _room and _total > 0 then
            all_fit := false;
            return;
        else
            fitting := fitting || _row;
            _total := _total + coalesce(_size, 0);
        end if;
        last := _row;
    end loop;
end
$$;

-- Starts the tasks of rows of the table ready, which are sorted by task id. A row counts only if its task is ready and
-- still has the row's kind, priority and queue, and if the task's graph is not paused. The conditions are in the UPDATE
-- itself, which checks them again after it has waited for another session. width_bucket finds the row of a task, and of
-- two rows of one task the newer one. A join would leave the planner a choice. _args_up_to: returns null in place of
-- args that are stored in more bytes, and of compressed args unless it is null.
create or replace function peers._start_tasks(
    _call peers.claim_call, _ids bigint[], _kinds text[], _priorities smallint[], _positions bigint[],
    _args_up_to integer
) returns peers.claim_tasks
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _uniform boolean := _kinds[1] = all (_kinds) and _priorities[1] = all (_priorities);
    _tasks peers.claim_tasks;
begin
    with started as (
        update peers.task t
        set state = 'running', attempt = t.attempt + 1, started_at = _call.claimed_at, token = _call.token
        where t.id = any (_ids) and t.state = 'ready' and t.queue = _call.queue
          and case
                  when _uniform then t.priority = _priorities[1] and t.kind = _kinds[1]
                  else t.priority = _priorities[width_bucket(t.id, _ids)] and t.kind = _kinds[width_bucket(t.id, _ids)]
              end
          and (not _call.any_graph_paused or t.graph_id is null or not exists (
                  select from peers.graph g where g.id = t.graph_id and g.paused_at is not null))
        returning t.id, t.attempt, t.kind, t.priority, _positions[width_bucket(t.id, _ids)] as position, t.timeout,
                  case
                      when _args_up_to is null
                           or pg_column_size(t.args) <= _args_up_to and pg_column_compression(t.args) is null
                      then t.args::text
                  end as args
    )
    select array_agg(s.id), array_agg(s.attempt), array_agg(s.kind), array_agg(s.priority), array_agg(s.position),
           array_agg(date_part('epoch', s.timeout)), array_agg(s.args)
    into _tasks
    from (select s.* from started s order by s.priority, s.position) s;
    return _tasks;
end
$$;

-- Starts the tasks of rows. If an error occurs, such as in an application's trigger, it divides the rows until it has
-- found the tasks that cause errors. first_refused, problem: the first of them. When the call's time is over, it leaves
-- out the rest.
create or replace function peers._start_by_halves(
    _call peers.claim_call, _rows peers.claim_row[], _args_up_to integer,
    inout tasks peers.claim_tasks, out refused integer, out first_refused bigint, out problem text
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _half constant integer := cardinality(_rows) / 2;
    _one record;
    _other record;
begin
    refused := 0;
    if tasks.ids is not null and clock_timestamp() > _call.until then
        return;
    end if;
    begin
        tasks := peers._merge_tasks(tasks, s)
        from (
            select array_agg(r.task_id) as ids, array_agg(r.kind) as kinds, array_agg(r.priority) as priorities,
                   array_agg(r.position) as positions
            from (select r.* from unnest(_rows) r order by r.task_id, r.position) r
        ) r
        cross join lateral peers._start_tasks(_call, r.ids, r.kinds, r.priorities, r.positions, _args_up_to) s;
        return;
    exception when others then
        perform peers._raise_if_fatal(sqlstate, sqlerrm);
        if _half = 0 then
            refused := 1;
            first_refused := _rows[1].task_id;
            problem := sqlerrm;
            return;
        end if;
    end;
    _one := peers._start_by_halves(_call, _rows[:_half], _args_up_to, tasks);
    _other := peers._start_by_halves(_call, _rows[_half + 1:], _args_up_to, _one.tasks);
    tasks := _other.tasks;
    refused := _one.refused + _other.refused;
    first_refused := coalesce(_one.first_refused, _other.first_refused);
    problem := coalesce(_one.problem, _other.problem);
end
$$;

-- Starts the tasks of rows, which the claim has locked. A task that cannot be started stays ready and keeps its place:
-- the trigger may be wrong, and every task would die of it. refused: how many these are. A look before the ranges finds
-- them later.
create or replace function peers._start_locked(
    _call peers.claim_call, _rows peers.claim_row[], _args_up_to integer,
    out tasks peers.claim_tasks, out refused integer
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _result record;
begin
    refused := 0;
    if _rows = '{}' then
        return;
    end if;
    _result := peers._start_by_halves(_call, _rows, _args_up_to, null);
    tasks := _result.tasks;
    refused := _result.refused;
    if refused > 0 then
        raise warning 'task % cannot be claimed and stays ready (% such tasks in this claim): %',
            _result.first_refused, refused, _result.problem;
    end if;
end
$$;

-- Rejects tasks whose args are too large to be sent; only an INSERT without triggers can produce such args. They die,
-- because an error here would stop every claim. They have a token of their own: if they cannot be rejected now, the
-- peer does not know their lease, and peers.reconcile releases it. Returns the tasks that it has started.
create or replace function peers._reject_oversized(_call peers.claim_call, _rows peers.claim_row[]) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _started bigint[];
begin
    _call.token := gen_random_uuid();
    _started := (select (s.tasks).ids from peers._start_locked(_call, _rows, 0) s);
    if _started is null then
        return '{}';
    end if;
    insert into peers.lease (token, peer_id, task_ids, open, claimed_at)
    values (_call.token, _call.peer_id, _started, cardinality(_started), _call.claimed_at);
    perform from peers.fail(_call.peer_id, (
        select jsonb_agg(jsonb_build_object(
            'task_id', u.id, 'token', _call.token, 'reject', true, 'error_type', 'ArgsInvalid',
            'error_message', 'args exceed 1 MiB (1048576 bytes) of text; peers.retry(' || u.id
                             || ', args) runs it with others'))
        from unnest(_started) u(id)
    ));
    return _started;
end
$$;

-- Starts the tasks of _fitting and rejects those of _oversized; the claim has locked all of these rows. ended: the rows
-- that are no longer needed, for the caller to delete.
create or replace function peers._start_or_reject(
    _call peers.claim_call, _fitting peers.claim_row[], _oversized peers.claim_row[],
    out tasks peers.claim_tasks, out refused integer, out ended tid[]
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _result constant record := peers._start_locked(_call, _fitting, null);
    _started bigint[] := (_result.tasks).ids;
begin
    tasks := _result.tasks;
    refused := _result.refused;
    if _oversized <> '{}' then
        _started := _started || peers._reject_oversized(_call, _oversized);
    end if;
    ended := array(select r.spot from unnest(_fitting || _oversized) r where r.task_id = any (_started));
end
$$;

-- Returns when tasks became ready, given the rows of ready or ready_limited that the claim has deleted for them.
create or replace function peers._ready_times(_ids bigint[], _deleted_ids bigint[], _deleted_times timestamptz[])
returns timestamptz[]
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _sorted bigint[];
    _times timestamptz[];
begin
    if _ids is null or _deleted_ids is null then
        return null;
    end if;
    select array_agg(d.id), array_agg(d.ready_at) into _sorted, _times
    from (
        select d.id, d.ready_at from unnest(_deleted_ids, _deleted_times) d(id, ready_at) order by d.id, d.ready_at
    ) d;
    -- of two rows of one task it finds the newer one
    return array(select _times[width_bucket(i.id, _sorted)] from unnest(_ids) with ordinality i(id, n) order by i.n);
end
$$;

-- Drops the stale ones of rows, and starts up to _wanted tasks of the others. It locks tasks and rows with SKIP LOCKED,
-- and measures the args. dropped: how many rows it has deleted. last: it did not look at the rows behind this one.
-- Null: it looked at all rows.
create or replace function peers._start_carefully(
    _call peers.claim_call, _rows peers.claim_row[], _wanted integer, _room bigint,
    out tasks peers.claim_tasks, out dropped bigint, out refused integer, out all_fit boolean, out last peers.claim_row
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _sorted record;
    _locked peers.claim_row[];
    _measured record;
    _result record;
    _spots tid[];
    _deleted record;
begin
    _sorted := peers._examine_rows(_call, _rows);
    _spots := array(select r.spot from unnest(peers._lock_rows(_sorted.stale)) r);
    _locked := peers._lock_tasks(_sorted.valid, _wanted);
    _measured := peers._measure_args(_locked, _room);
    all_fit := _measured.all_fit;
    if not all_fit or cardinality(_locked) = _wanted then
        last := _measured.last;
    end if;
    _result := peers._start_or_reject(
        _call, peers._lock_rows(_measured.fitting), peers._lock_rows(_measured.oversized)
    );
    tasks := _result.tasks;
    refused := _result.refused;
    _spots := _spots || _result.ended;
    with deleted as (
        delete from peers.ready r where r.ctid = any (_spots) returning r.task_id, r.ready_at
    )
    select array_agg(d.task_id) as ids, array_agg(d.ready_at) as times into _deleted from deleted d;
    tasks.ready_at := peers._ready_times(tasks.ids, _deleted.ids, _deleted.times);
    dropped := cardinality(_spots);
end
$$;

-- Claims tasks of ranges until it has _wanted of them, with the tasks that the claim has already. It reads without
-- locks, and many rows at a time however few tasks are wanted, because stale rows come in masses. unread: the ranges
-- that are left after what it has read. more: it has spent its limits, and another call would get further. A call that
-- exceeds the caller's timeout would be rolled back.
create or replace function peers._claim_carefully(
    _call peers.claim_call, _ranges peers.claim_range[], _wanted integer,
    inout tasks peers.claim_tasks, inout unread peers.claim_range[], out refused integer, out more boolean
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most_rows constant integer := 10000;
    _most_args constant integer := 16777216;  -- bytes of text in one answer
    _before constant peers.claim_range[] := unread;
    _size integer := least(1000, greatest(100, _wanted));
    _plan record;
    _rows peers.claim_row[];
    _pass record;
    _last peers.claim_row;
    _missing integer := _wanted - coalesce(cardinality(tasks.ids), 0);
    _total integer := 0;
    _dropped bigint := 0;
begin
    refused := 0;
    more := false;
    while _ranges <> '{}' loop
        _plan := peers._plan_claim(_call.queue, _ranges, _size);
        _rows := peers._read_ready(_call.queue, _plan.planned, _size);
        _last := null;
        if _rows <> '{}' then
            perform from peers.peer p
            where p.id = _call.peer_id and p.lost_at is null and p.heartbeat_at + p.lease_timeout > _call.claimed_at
            for key share skip locked;
            exit when not found;
            _pass := peers._start_carefully(
                _call, _rows, _missing, _most_args - coalesce(pg_column_size(tasks.args), 0)
            );
            tasks := peers._merge_tasks(tasks, _pass.tasks);
            refused := refused + _pass.refused;
            _dropped := _dropped + _pass.dropped;
            _last := _pass.last;
            if _last is not null then
                _rows := _rows[:array_position(_rows, _last)];
            end if;
            unread := (
                select peers._ranges_after(unread, array_agg(r.kind), array_agg(r.priority), array_agg(r.position))
                from unnest(_rows) r
            );
            _missing := _wanted - coalesce(cardinality(tasks.ids), 0);
            more := not _pass.all_fit;
            exit when more or _missing = 0;
            _total := _total + cardinality(_rows);
        end if;

        if _total >= _most_rows or clock_timestamp() > _call.until then
            -- a call that only meets tasks that are refused again would be repeated for ever
            more := case when refused > 0 then tasks.ids is not null else _dropped > 0 or unread <> _before end;
            exit;
        end if;
        exit when _last is null and _plan.exhaustive and cardinality(_rows) < _size;
        if _last is null and _plan.end_priority is not null then
            _ranges := peers._ranges_beyond(_ranges, _plan.end_priority, _plan.end_position);
        else
            _last := _rows[cardinality(_rows)];
            _ranges := peers._ranges_beyond(_ranges, _last.priority, _last.position);
        end if;
        _size := least(1000, 4 * _size);
    end loop;
end
$$;
