-- peers.claim: moves tasks from the table ready to a lease.
--
-- A claim reads the table ready from where the peer's last claim ended, because before that place lie the dead index
-- entries of every task that was claimed since the last vacuum. The peer passes these places in, one for each kind and
-- priority. Two sorts of rows can still be before them: rows whose transaction committed late, and rows that were
-- locked. They are found by a claim that gets less than it wants, and by one claim every ten seconds.

do $$
begin
    create type peers.claim_range as (
        kind text, after_priority smallint, after_position bigint, to_priority smallint, to_position bigint,
        share integer
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.claim_range is
    'A part of the table ready: the rows of one kind after (after_priority, after_position) and up to (to_priority, '
    'to_position). A claim takes up to share rows of it; null: as many as it wants.';

do $$
begin
    create type peers.claim_rows as (
        spots tid[], ids bigint[], kinds text[], priorities smallint[], positions bigint[]
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.claim_rows is
    'Rows of the table ready that a claim has locked, sorted by task id. One element of each array is one row.';

do $$
begin
    create type peers.claim_tasks as (
        ids bigint[], attempts smallint[], kinds text[], priorities smallint[], positions bigint[],
        timeouts double precision[], args text[]
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.claim_tasks is
    'Tasks that a claim has started, sorted by priority and position. One element of each array is one task.';

-- Raises PE010 for a peer that is unknown or whose heartbeat has expired.
create or replace function peers._refuse_peer(_peer_id uuid) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    raise exception 'peer % is unknown, or its heartbeat has expired', _peer_id
        using errcode = 'PE010', hint = 'Stop its handlers, then join again.';
end
$$;

-- Returns the parts of the table ready that a peer has not claimed yet. For each kind and priority the peer remembers
-- the last position. A range begins there and ends before the next priority that the peer remembers, so that the
-- priorities between two remembered ones are read as well.
create or replace function peers._ranges_after(
    _kinds text[], _after_kinds text[], _after_priorities smallint[], _after_positions bigint[]
) returns peers.claim_range[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _lowest constant bigint := -9223372036854775808;
    _highest constant bigint := 9223372036854775807;
begin
    if _after_kinds = '{}' then
        return array(
            select row(k.kind, -32768, _lowest, 32767, _highest, null)::peers.claim_range
            from unnest(_kinds) k(kind) order by k.kind
        );
    end if;
    return array(
        select row(r.kind, r.priority, r.position, r.to_priority, _highest, null)::peers.claim_range
        from (
            select h.kind, h.priority, h.position,
                   coalesce(lead(h.priority) over (partition by h.kind order by h.priority, h.position) - 1, 32767)
                       as to_priority
            from (
                select k.kind, -32768 as priority, _lowest as position from unnest(_kinds) k(kind)
                union all
                select h.kind, h.priority, h.position
                from unnest(_after_kinds, _after_priorities, _after_positions) h(kind, priority, position)
                where h.kind = any (_kinds) and h.position is not null
            ) h
        ) r
        where r.to_priority >= r.priority
        order by r.kind, r.priority
    );
end
$$;

-- Returns the parts that _ranges_after leaves out.
create or replace function peers._ranges_before(
    _kinds text[], _after_kinds text[], _after_priorities smallint[], _after_positions bigint[]
) returns peers.claim_range[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _lowest constant bigint := -9223372036854775808;
begin
    return array(
        select row(h.kind, h.priority, _lowest, h.priority, h.position, null)::peers.claim_range
        from unnest(_after_kinds, _after_priorities, _after_positions) h(kind, priority, position)
        where h.kind = any (_kinds) and h.position is not null
        order by h.kind, h.priority
    );
end
$$;

-- Returns what is left of ranges after (_priority, _position).
create or replace function peers._ranges_beyond(_ranges peers.claim_range[], _priority smallint, _position bigint)
returns peers.claim_range[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return array(
        select row(
            r.kind,
            case when begins.before then _priority else r.after_priority end,
            case when begins.before then _position else r.after_position end,
            r.to_priority, r.to_position, null
        )::peers.claim_range
        from unnest(_ranges) r
        cross join lateral (
            select (r.after_priority, r.after_position) < (_priority, _position) as before
        ) begins
        where (r.to_priority, r.to_position) > (_priority, _position)
    );
end
$$;

-- Finds the first _wanted rows of several ranges, by priority and position. Returns the ranges that have such rows,
-- each with its share, and the place of the last row. It takes no locks, so the rows may be gone when they are locked.
-- exhaustive: if a claim of these shares gets less than it wanted, there is nothing more.
--
-- It merges the ranges in rounds. Each round reads the same number of rows from each range that can still matter. The
-- next round reads more of the ranges that did not reach the last wanted row. So it reads a few times _wanted rows, not
-- _wanted rows of each of hundreds of kinds.
create or replace function peers._plan_claim(
    _queue text, _ranges peers.claim_range[], _wanted integer,
    out planned peers.claim_range[], out exhaustive boolean, out end_priority smallint, out end_position bigint
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _rows integer;  -- of each range in this round
    _numbers bigint[];
    _shares integer[];
    _found integer;
    _unfinished integer;
begin
    if _ranges[1].kind = _ranges[cardinality(_ranges)].kind then
        -- the ranges of one kind are in order
        planned := _ranges;
        exhaustive := true;
        return;
    end if;
    -- the first row of each range; for a claim of one task that is all
    select array_agg(row(p.kind, p.after_priority, p.after_position, p.to_priority, p.to_position, _wanted)
                         ::peers.claim_range order by r.priority, r.position),
           (array_agg(r.priority order by r.priority, r.position))[1],
           (array_agg(r.position order by r.priority, r.position))[1]
    into planned, end_priority, end_position
    from unnest(_ranges) p
    cross join lateral (
        select r.priority, r.position from peers.ready r
        where r.queue = _queue and r.kind = p.kind
          and (r.priority, r.position) > (p.after_priority, p.after_position)
          and (r.priority, r.position) <= (p.to_priority, p.to_position)
        order by r.priority, r.position
        limit 1
    ) r;
    planned := coalesce(planned, '{}');
    exhaustive := cardinality(planned) <= 1;
    if exhaustive then
        end_priority := null;
        end_position := null;
        return;
    elsif _wanted = 1 then
        planned := planned[:1];
        planned[1].to_priority := end_priority;
        planned[1].to_position := end_position;
        return;
    end if;

    planned := planned[:_wanted];  -- they are sorted by their first rows
    _rows := least(_wanted, 2 + 2 * _wanted / cardinality(planned));
    loop
        select array_agg(s.n), array_agg(s.share), sum(s.found),
               count(*) filter (where s.found = _rows and s.last < _wanted),
               max(s.end_priority), max(s.end_position)
        into _numbers, _shares, _found, _unfinished, end_priority, end_position
        from (
            select r.n, count(*) as found, count(*) filter (where r.place <= _wanted)::integer as share,
                   max(r.place) as last,
                   max(r.priority) filter (where r.place = _wanted) as end_priority,
                   max(r.position) filter (where r.place = _wanted) as end_position
            from (
                select p.n, r.priority, r.position, row_number() over (order by r.priority, r.position) as place
                from unnest(planned) with ordinality
                    p(kind, after_priority, after_position, to_priority, to_position, share, n)
                cross join lateral (
                    select r.priority, r.position from peers.ready r
                    where r.queue = _queue and r.kind = p.kind
                      and (r.priority, r.position) > (p.after_priority, p.after_position)
                      and (r.priority, r.position) <= (p.to_priority, p.to_position)
                    order by r.priority, r.position
                    limit _rows
                ) r
            ) r
            group by r.n
        ) s;
        planned := array(
            select row(
                r.kind, r.after_priority, r.after_position,
                case when ends.first then end_priority else r.to_priority end,
                case when ends.first then end_position else r.to_position end, s.share
            )::peers.claim_range
            from unnest(_numbers, _shares) s(n, share)
            cross join lateral (select (planned[s.n]).*) r
            cross join lateral (
                select (end_priority, end_position) < (r.to_priority, r.to_position) is true as first
            ) ends
            where s.share > 0
        );
        exit when _unfinished = 0;
        _rows := least(_wanted, greatest(4 * _rows, 2 * _wanted / _unfinished));
    end loop;
    exhaustive := _found < _wanted;
end
$$;

-- Locks the rows of planned ranges. It skips rows that another session has locked.
create or replace function peers._lock_ready(_queue text, _planned peers.claim_range[], _most integer)
returns peers.claim_rows
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _rows peers.claim_rows;
begin
    select array_agg(r.spot), array_agg(r.task_id), array_agg(r.kind), array_agg(r.priority), array_agg(r.position)
    into _rows
    from (
        select r.*
        from (
            select r.spot, r.task_id, p.kind, r.priority, r.position
            from unnest(_planned) p
            cross join lateral (
                select r.ctid as spot, r.task_id, r.priority, r.position
                from peers.ready r
                where r.queue = _queue and r.kind = p.kind
                  and (r.priority, r.position) > (p.after_priority, p.after_position)
                  and (r.priority, r.position) <= (p.to_priority, p.to_position)
                order by r.priority, r.position
                limit coalesce(p.share, _most)
                for update of r skip locked
            ) r
            limit _most
        ) r
        order by r.task_id, r.position
    ) r;
    return _rows;
end
$$;

-- Returns the rows of planned ranges, without locks. A claim that looks at more rows than it takes must not lock them
-- all: other claims would skip them.
create or replace function peers._read_ready(_queue text, _planned peers.claim_range[], _most integer)
returns peers.claim_rows
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _rows peers.claim_rows;
begin
    select array_agg(r.spot), array_agg(r.task_id), array_agg(r.kind), array_agg(r.priority), array_agg(r.position)
    into _rows
    from (
        select r.*
        from (
            select r.spot, r.task_id, p.kind, r.priority, r.position
            from unnest(_planned) p
            cross join lateral (
                select r.ctid as spot, r.task_id, r.priority, r.position
                from peers.ready r
                where r.queue = _queue and r.kind = p.kind
                  and (r.priority, r.position) > (p.after_priority, p.after_position)
                  and (r.priority, r.position) <= (p.to_priority, p.to_position)
                order by r.priority, r.position
                limit coalesce(p.share, _most)
            ) r
            limit _most
        ) r
        order by r.task_id, r.position
    ) r;
    return _rows;
end
$$;

-- Locks those of the rows that no other session has locked or deleted, and returns them.
create or replace function peers._lock_rows(_rows peers.claim_rows) returns peers.claim_rows
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _locked peers.claim_rows;
begin
    select array_agg(r.spot), array_agg(r.id), array_agg(r.kind), array_agg(r.priority), array_agg(r.position)
    into _locked
    from unnest(_rows.spots, _rows.ids, _rows.kinds, _rows.priorities, _rows.positions)
        r(spot, id, kind, priority, position)
    cross join lateral (
        select from peers.ready y
        where y.ctid = r.spot and y.task_id = r.id and y.position = r.position
        for update skip locked
    ) y;
    return _locked;
end
$$;

-- Starts tasks. A row counts only if its task is ready and still has the row's kind, priority and queue, and if the
-- task's graph is not paused. The conditions are in the UPDATE itself, which checks them again after it has waited for
-- another session. The ids of the rows are sorted, so width_bucket finds the row of a task, and of two rows of one task
-- the newer one. A join would leave the planner a choice. _args_up_to: returns null in place of args that are stored in
-- more bytes, and of compressed args unless it is null.
create or replace function peers._start_tasks(
    _queue text, _rows peers.claim_rows, _token uuid, _now timestamptz, _any_graph_paused boolean,
    _args_up_to integer
) returns peers.claim_tasks
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _ids bigint[] := _rows.ids;
    _kinds text[] := _rows.kinds;
    _priorities smallint[] := _rows.priorities;
    _positions bigint[] := _rows.positions;
    _uniform boolean := _kinds[1] = all (_kinds) and _priorities[1] = all (_priorities);
    _tasks peers.claim_tasks;
begin
    with started as (
        update peers.task t
        set state = 'running', attempt = t.attempt + 1, started_at = _now, token = _token
        where t.id = any (_ids) and t.state = 'ready' and t.queue = _queue
          and case
                  when _uniform then t.priority = _priorities[1] and t.kind = _kinds[1]
                  else t.priority = _priorities[width_bucket(t.id, _ids)] and t.kind = _kinds[width_bucket(t.id, _ids)]
              end
          and (not _any_graph_paused or t.graph_id is null or not exists (
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

-- Returns those of the rows whose tasks are among _ids, or those whose tasks are not.
create or replace function peers._filter_rows(_rows peers.claim_rows, _ids bigint[], _among boolean)
returns peers.claim_rows
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _filtered peers.claim_rows;
begin
    select array_agg(r.spot), array_agg(r.id), array_agg(r.kind), array_agg(r.priority), array_agg(r.position)
    into _filtered
    from unnest(_rows.spots, _rows.ids, _rows.kinds, _rows.priorities, _rows.positions)
        r(spot, id, kind, priority, position)
    where r.id = any (_ids) = _among;
    return _filtered;
end
$$;

-- Tells stale rows from those whose tasks can be started. The row of a task of a paused graph is stale too, and
-- peers.resume_graph inserts it again. That is safe only while this transaction holds a share lock on the graph, so
-- that no resume can run at the same time: it might not see the task yet. If the graph's row cannot be locked at once,
-- the row in ready is left alone. It reads tasks without locks: whoever makes a task ready after that inserts a new
-- row.
create or replace function peers._examine_rows(
    _queue text, _rows peers.claim_rows, _any_graph_paused boolean,
    out stale peers.claim_rows, out valid peers.claim_rows
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _sorted record;
begin
    select row(array_agg(r.spot) filter (where r.stale), array_agg(r.id) filter (where r.stale),
               array_agg(r.kind) filter (where r.stale), array_agg(r.priority) filter (where r.stale),
               array_agg(r.position) filter (where r.stale))::peers.claim_rows as stale,
           row(array_agg(r.spot) filter (where r.valid), array_agg(r.id) filter (where r.valid),
               array_agg(r.kind) filter (where r.valid), array_agg(r.priority) filter (where r.valid),
               array_agg(r.position) filter (where r.valid))::peers.claim_rows as valid
    into _sorted
    from (
        select r.*, t.valid is not true or t.graph_locked is true as stale, t.valid and t.graph_locked is null as valid
        from unnest(_rows.spots, _rows.ids, _rows.kinds, _rows.priorities, _rows.positions)
            r(spot, id, kind, priority, position)
        left join lateral (
            select t.state = 'ready' and t.priority = r.priority and t.kind = r.kind and t.queue = _queue as valid,
                   case when _any_graph_paused and t.graph_id is not null and exists (
                            select from peers.graph g where g.id = t.graph_id and g.paused_at is not null)
                        then exists (
                            select from peers.graph g where g.id = t.graph_id and g.paused_at is not null
                            for share skip locked)
                   end as graph_locked  -- null: the graph is not paused
            from peers.task t where t.id = r.id
        ) t on true
    ) r;
    stale := _sorted.stale;
    valid := _sorted.valid;
end
$$;

-- Starts tasks if that is possible at once. The usual case is that no other session has one of them locked, so it
-- does not lock them first: that would cost a quarter of the claim. spent: the rows to delete, of started tasks and
-- stale ones. problem: why it started none. Null: there was none. locked: another session has a task locked. large: the
-- args must be measured first. refused: an error, such as from an application's trigger.
create or replace function peers._start_at_once(
    _queue text, _rows peers.claim_rows, _token uuid, _now timestamptz, _any_graph_paused boolean,
    out tasks peers.claim_tasks, out spent tid[], out refused integer, out all_fit boolean,
    out end_priority smallint, out end_position bigint, out problem text
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '5ms'
as $$
begin
    refused := 0;
    all_fit := true;
    tasks := peers._start_tasks(_queue, _rows, _token, _now, _any_graph_paused, 1000);
    if array_position(tasks.args, null) is not null or pg_column_size(tasks.args) > 1048576 then
        raise exception using errcode = 'PE999';
    end if;
    spent := _rows.spots;
    if cardinality(tasks.ids) = cardinality(_rows.ids) then
        return;
    end if;
    spent := (
        select (e.stale).spots
        from peers._examine_rows(
            _queue, peers._filter_rows(_rows, coalesce(tasks.ids, '{}'), false), _any_graph_paused
        ) e
    );
    spent := spent || (peers._filter_rows(_rows, tasks.ids, true)).spots;
exception when others then
    tasks := null;
    spent := null;
    problem := case sqlstate when '55P03' then 'locked' when 'PE999' then 'large' else 'refused' end;
end
$$;

-- Locks the tasks of the first _wanted of the rows, by priority and position, and returns those rows. It skips tasks
-- that another session has locked.
create or replace function peers._lock_tasks(_rows peers.claim_rows, _wanted integer) returns peers.claim_rows
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _locked peers.claim_rows;
begin
    select array_agg(r.spot), array_agg(r.id), array_agg(r.kind), array_agg(r.priority), array_agg(r.position)
    into _locked
    from (
        select r.*
        from (
            select r.*
            from (
                select r.*
                from unnest(_rows.spots, _rows.ids, _rows.kinds, _rows.priorities, _rows.positions)
                    r(spot, id, kind, priority, position)
                order by r.priority, r.position
            ) r
            cross join lateral (
                select from peers.task t where t.id = r.id for no key update skip locked
            ) t
            limit _wanted
        ) r
        order by r.id, r.position
    ) r;
    return _locked;
end
$$;

-- Measures the args of rows' tasks. fitting: the first tasks, by priority and position, whose args together are at most
-- _room bytes of text, and always one. oversized: tasks whose args exceed 1 MiB; they cannot be sent.
create or replace function peers._measure_args(
    _rows peers.claim_rows, _room bigint, out fitting bigint[], out oversized bigint[], out all_fit boolean
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _id bigint;
    _size bigint;
    _total bigint := 0;
begin
    fitting := '{}';
    oversized := '{}';
    all_fit := true;
    foreach _id in array array(
        select r.id from unnest(_rows.ids, _rows.priorities, _rows.positions) r(id, priority, position)
        order by r.priority, r.position
    ) loop
        -- one at a time, because each may take a while
        _size := (select case when pg_column_size(t.args) <= 100 then octet_length(t.args::text)
                              else peers._text_size(t.args) end
                  from peers.task t where t.id = _id);
        if _size > 1048576 then
            oversized := oversized || _id;
        elsif _total + _size > _room and _total > 0 then
            all_fit := false;
            return;
        else
            fitting := fitting || _id;
            _total := _total + coalesce(_size, 0);
        end if;
    end loop;
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
           array_agg(t.timeout), array_agg(t.args)
    into _merged
    from (
        select t.*
        from unnest(
            _one.ids || _other.ids, _one.attempts || _other.attempts, _one.kinds || _other.kinds,
            _one.priorities || _other.priorities, _one.positions || _other.positions,
            _one.timeouts || _other.timeouts, _one.args || _other.args
        ) t(id, attempt, kind, priority, position, timeout, args)
        order by t.priority, t.position
    ) t;
    return _merged;
end
$$;

-- Starts tasks that the claim has locked. If an error occurs, such as in an application's trigger, it starts the tasks
-- one by one. A task that cannot be started stays ready and keeps its place: the trigger may be wrong, and every task
-- would die of it. refused: how many these are.
create or replace function peers._start_locked(
    _queue text, _rows peers.claim_rows, _token uuid, _now timestamptz, _args_up_to integer,
    out tasks peers.claim_tasks, out refused integer
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _refused bigint[] := '{}';
    _problem text;
begin
    refused := 0;
    begin
        tasks := peers._start_tasks(_queue, _rows, _token, _now, false, _args_up_to);
        return;
    exception when others then
        tasks := null;
    end;
    for i in 1 .. cardinality(_rows.ids) loop
        begin
            tasks := peers._merge_tasks(tasks, peers._start_tasks(
                _queue, peers._filter_rows(_rows, _rows.ids[i:i], true), _token, _now, false, _args_up_to
            ));
        exception when others then
            _refused := _refused || _rows.ids[i];
            _problem := sqlerrm;
        end;
    end loop;
    refused := cardinality(_refused);
    if refused > 0 then
        raise warning 'task % cannot be claimed and stays ready (% such tasks in this claim): %',
            _refused[1], refused, _problem;
    end if;
end
$$;

-- Rejects tasks whose args are too large to be sent; only an INSERT without triggers can produce such args. They die,
-- because an error here would stop every claim. They have a token of their own: if they cannot be rejected now, the
-- peer does not know their lease, and peers.reconcile releases it. Returns the tasks that it has started.
create or replace function peers._reject_oversized(_peer_id uuid, _queue text, _rows peers.claim_rows) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now constant timestamptz := peers.now();
    _token constant uuid := gen_random_uuid();
    _started bigint[] := (select (s.tasks).ids from peers._start_locked(_queue, _rows, _token, _now, 0) s);
begin
    if _started is null then
        return '{}';
    end if;
    insert into peers.lease (token, peer_id, task_ids, open, claimed_at)
    values (_token, _peer_id, _started, cardinality(_started), _now);
    perform from peers.fail(_peer_id, (
        select jsonb_agg(jsonb_build_object(
            'task_id', u.id, 'token', _token, 'reject', true, 'error_type', 'ArgsInvalid',
            'error_message', 'args exceed 1 MiB (1048576 bytes) of text; peers.retry(' || u.id
                             || ', args) runs it with others'))
        from unnest(_started) u(id)
    ));
    return _started;
end
$$;

-- Starts tasks of rows that _start_at_once could not start, or that are probably stale. It drops the stale rows, locks
-- the tasks of the others and their rows with SKIP LOCKED, and measures their args. end_priority, end_position: it did
-- not look at the rows behind this one. Null: it looked at all rows.
create or replace function peers._start_with_care(
    _peer_id uuid, _queue text, _rows peers.claim_rows, _token uuid, _now timestamptz, _wanted integer,
    _room bigint, _any_graph_paused boolean,
    out tasks peers.claim_tasks, out spent tid[], out refused integer, out all_fit boolean,
    out end_priority smallint, out end_position bigint
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _locked peers.claim_rows;
    _fitting bigint[];
    _oversized bigint[];
    _run record;
    _started bigint[];
begin
    refused := 0;
    all_fit := true;
    select * into _run from peers._examine_rows(_queue, _rows, _any_graph_paused);
    spent := (peers._lock_rows(_run.stale)).spots;
    _locked := peers._lock_tasks(_run.valid, _wanted);
    if _locked.ids is null then
        return;
    end if;
    select m.fitting, m.oversized, m.all_fit into _fitting, _oversized, all_fit
    from peers._measure_args(_locked, _room) m;
    if not all_fit or cardinality(_locked.ids) = _wanted then
        select r.priority, r.position into end_priority, end_position
        from unnest(_locked.ids, _locked.priorities, _locked.positions) r(id, priority, position)
        where r.id = any (_fitting || _oversized)
        order by r.priority desc, r.position desc
        limit 1;
    end if;
    _locked := peers._lock_rows(_locked);
    _fitting := (peers._filter_rows(_locked, _fitting, true)).ids;
    _oversized := (peers._filter_rows(_locked, _oversized, true)).ids;
    if _fitting <> '{}' then
        select * into _run
        from peers._start_locked(_queue, peers._filter_rows(_locked, _fitting, true), _token, _now, null);
        tasks := _run.tasks;
        refused := _run.refused;
    end if;
    _started := tasks.ids;
    if _oversized <> '{}' then
        _started := _started || peers._reject_oversized(
            _peer_id, _queue, peers._filter_rows(_locked, _oversized, true)
        );
    end if;
    spent := spent || (peers._filter_rows(_locked, _started, true)).spots;
end
$$;

-- Returns the time in milliseconds since 1970.
create or replace function peers._milliseconds() returns bigint
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return extract(epoch from clock_timestamp()) * 1000;
end
$$;

-- Returns when (milliseconds since 1970) a claim may look again before the remembered positions. _began: when the last
-- look began. Many dead index entries make a look slow, and looks take at most a tenth of the time.
create or replace function peers._next_look(_began bigint) returns bigint
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now constant bigint := peers._milliseconds();
    _took constant bigint := _now - _began;
begin
    return _now + case when _took > 5 then 10 * _took else 0 end;
end
$$;

-- Returns the last position of each kind and priority among these places, up to (_end_priority, _end_position).
create or replace function peers._last_positions(
    _kinds text[], _priorities smallint[], _positions bigint[], _end_priority smallint, _end_position bigint,
    out kinds text[], out priorities smallint[], out positions bigint[]
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    select array_agg(l.kind), array_agg(l.priority), array_agg(l.position)
    into kinds, priorities, positions
    from (
        select r.kind, r.priority, max(r.position) as position
        from unnest(_kinds, _priorities, _positions) r(kind, priority, position)
        where ((r.priority, r.position) > (_end_priority, _end_position)) is not true
        group by r.kind, r.priority
    ) l;
end
$$;

-- Leases up to max_tasks ready tasks of one queue, of the kinds that the peer can run, by priority and then in the
-- order in which they became ready.
--
-- One pass plans, locks rows of the table ready and starts their tasks. Usually that is all. Further passes go on
-- behind the first if it got less than it wanted, because rows were stale or other sessions had locked them. A task
-- that another session has locked is skipped and keeps its row and its place. A row whose task was pruned is stale.
--
-- An element with an empty kind in after_kinds says when to look before the remembered positions, in milliseconds since
-- 1970. A claim that gets less than it wants looks from that time on. If dead index entries or locked tasks made the
-- last look slow, that time is ten times as far away as the look took. Ten seconds later every claim reads from the
-- start.
create or replace function peers.claim(
    peer_id uuid, queue text, max_tasks integer,
    after_kinds text[] default '{}', after_priorities smallint[] default '{}', after_positions bigint[] default '{}'
) returns table (
    token uuid, task_ids bigint[], attempts smallint[], kinds text[], priorities smallint[],
    timeouts double precision[], args text, last_kinds text[], last_priorities smallint[], last_positions bigint[],
    more boolean
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
    -- These limit how long one call looks at rows that it cannot claim. A call that exceeds the caller's timeout would
    -- be rolled back.
    _most_rows constant integer := 10000;
    _most_time constant interval := '100 milliseconds';
    _small_pass constant integer := 100;
    _large_pass constant integer := 1000;
    _most_args constant integer := 16777216;  -- bytes of text in one answer
    _began constant timestamptz := clock_timestamp();
    _began_ms constant bigint := extract(epoch from _began) * 1000;
    _now constant timestamptz := peers.now();
    _token constant uuid := gen_random_uuid();
    _kinds text[];
    _paused boolean;
    _any_graph_paused boolean;
    _look_at bigint := after_positions[array_position(after_kinds, '')];
    _looked boolean := (after_kinds = '{}' or _began_ms > _look_at + 10000) is true;
    _before boolean := false;  -- whether it reads before the remembered positions only
    _ranges peers.claim_range[] := '{}';
    _plan record;
    _look_began bigint := _began_ms;
    _rows peers.claim_rows;
    _pass record;
    _last record;
    _tasks peers.claim_tasks;
    _careful boolean := false;
    _problem text;
    _peer_locked boolean := false;
    _wanted integer := claim.max_tasks;
    _size integer := claim.max_tasks;
    _seen integer;
    _stopped boolean;  -- whether the pass did not look at all of its rows
    _total integer := 0;
    _progress boolean := false;
    _refused integer := 0;
begin
    perform peers._require_read_committed();
    if _wanted is null or _wanted not between 1 and _most_rows then
        raise exception 'max_tasks must be 1 to %, not %',
            _most_rows, coalesce(_wanted::text, 'null') using errcode = 'PE009';
    end if;
    more := false;
    last_kinds := '{}';
    last_priorities := '{}';
    last_positions := '{}';
    -- without a lock, so that a claim that finds nothing writes nothing
    select p.kinds, exists (select from peers.graph g where g.paused_at is not null),
           exists (select from peers.paused_queue q where q.queue = claim.queue)
    into _kinds, _any_graph_paused, _paused
    from peers.peer p
    where p.id = claim.peer_id and p.lost_at is null and p.heartbeat_at + p.lease_timeout > _now;
    if not found then
        perform peers._refuse_peer(claim.peer_id);
    elsif not _paused and _looked then
        _ranges := peers._ranges_after(_kinds, '{}', '{}', '{}');
    elsif not _paused then
        _ranges := peers._ranges_after(_kinds, after_kinds, after_priorities, after_positions);
    end if;

    while _ranges <> '{}' loop
        _plan := peers._plan_claim(claim.queue, _ranges, _size);
        _rows := case
            when _careful then peers._read_ready(claim.queue, _plan.planned, _size)
            else peers._lock_ready(claim.queue, _plan.planned, _size)
        end;
        _seen := coalesce(cardinality(_rows.ids), 0);
        _stopped := false;
        if _seen > 0 then
            if not _peer_locked then
                -- Without this lock, a claim at the same moment as a reclaim would leave a lease without a peer. A
                -- heartbeat does not wait for it. If another session has the row locked, the claim does not wait.
                perform from peers.peer p
                where p.id = claim.peer_id and p.lost_at is null and p.heartbeat_at + p.lease_timeout > _now
                for key share skip locked;
                exit when not found;
                _peer_locked := true;
            end if;
            if not _careful then
                _pass := peers._start_at_once(claim.queue, _rows, _token, _now, _any_graph_paused);
                _problem := _pass.problem;
                _careful := _problem is not null or (_pass.tasks).ids is null;
            end if;
            if _problem is not null then
                _pass := peers._start_with_care(
                    claim.peer_id, claim.queue, _rows, _token, _now, _wanted,
                    _most_args - coalesce(pg_column_size(_tasks.args), 0), _any_graph_paused
                );
            end if;
            delete from peers.ready r where r.ctid = any (_pass.spent);
            if _tasks.ids is null then
                _tasks := _pass.tasks;
            else
                _tasks := peers._merge_tasks(_tasks, _pass.tasks);
            end if;
            _wanted := claim.max_tasks - coalesce(cardinality(_tasks.ids), 0);
            _problem := case when _careful then 'stale' end;
            _stopped := _pass.end_priority is not null;
            _refused := _refused + _pass.refused;
            _progress := _progress or _pass.spent <> '{}';
            if _before then
                null;  -- the peer's positions are further on
            elsif _seen = 1 then
                last_kinds := last_kinds || _rows.kinds;
                last_priorities := last_priorities || _rows.priorities;
                last_positions := last_positions || _rows.positions;
            else
                select * into _last from peers._last_positions(
                    _rows.kinds, _rows.priorities, _rows.positions, _pass.end_priority, _pass.end_position
                );
                last_kinds := last_kinds || _last.kinds;
                last_priorities := last_priorities || _last.priorities;
                last_positions := last_positions || _last.positions;
            end if;
            exit when _wanted = 0;
            more := not _pass.all_fit;
            exit when more;
        end if;
        _total := _total + _seen;

        if _plan.exhaustive and _seen < _size and not _stopped then
            exit when _looked or peers._milliseconds() < _look_at;
            _looked := true;
            _look_began := peers._milliseconds();
            _before := true;
            _careful := true;
            _problem := 'stale';
            _ranges := peers._ranges_before(_kinds, after_kinds, after_priorities, after_positions);
        elsif _total >= _most_rows or clock_timestamp() > _began + _most_time then
            more := _refused = 0 and (_progress or not _before);
            exit;
        elsif _stopped then
            _ranges := peers._ranges_beyond(_ranges, _pass.end_priority, _pass.end_position);
        elsif _plan.end_priority is not null then
            _ranges := peers._ranges_beyond(_ranges, _plan.end_priority, _plan.end_position);
        else
            _ranges := (
                select peers._ranges_beyond(_ranges, r.priority, r.position)
                from unnest(_rows.priorities, _rows.positions) r(priority, position)
                order by r.priority desc, r.position desc
                limit 1
            );
        end if;
        _size := case when _careful then least(_large_pass, greatest(_small_pass, _wanted, 4 * _size)) else _wanted end;
    end loop;

    if _looked then
        if after_kinds <> '{}' and not _before then
            -- it has read from the start, and the peer's positions are further on
            last_kinds := last_kinds || after_kinds;
            last_priorities := last_priorities || after_priorities;
            last_positions := last_positions || after_positions;
        end if;
        -- a task that could not be claimed is tried again in a second
        last_kinds := last_kinds || ''::text;
        last_priorities := last_priorities || 0::smallint;
        last_positions := last_positions || (
            case when _before then peers._next_look(_look_began) else _began_ms end
            + case when _refused > 0 then 1000 else 0 end
        );
        select l.kinds, l.priorities, l.positions into last_kinds, last_priorities, last_positions
        from peers._last_positions(last_kinds, last_priorities, last_positions, null, null) l;
    end if;

    token := case when _tasks.ids <> '{}' then _token end;
    task_ids := coalesce(_tasks.ids, '{}');
    attempts := coalesce(_tasks.attempts, '{}');
    if attempts[1] = all (attempts) then
        attempts := attempts[:1];
    end if;
    kinds := coalesce(_tasks.kinds, '{}');
    if kinds[1] = all (kinds) then
        kinds := kinds[:1];
    end if;
    priorities := coalesce(_tasks.priorities, '{}');
    if priorities[1] = all (priorities) then
        priorities := priorities[:1];
    end if;
    timeouts := case when array_remove(_tasks.timeouts, null) <> '{}' then _tasks.timeouts end;
    args := '[' || coalesce(array_to_string(_tasks.args, ','), '') || ']';
    if token is not null then
        insert into peers.lease (token, peer_id, task_ids, open, claimed_at)
        values (_token, claim.peer_id, _tasks.ids, cardinality(_tasks.ids), _now);
    end if;
    return next;
end
$$;

comment on function peers.claim is
    'Leases up to max_tasks ready tasks of a queue to a peer, under one token. Returns one row; token is null if there '
    'is nothing that the peer can run. The arrays have one element for each task, by priority and position. attempts, '
    'kinds and priorities have a single element if it is the same for all tasks. timeouts (seconds) is null if no task '
    'has a timeout of its own. after_kinds, after_priorities, after_positions: what earlier calls for this queue '
    'returned as last_*, the latest value for each kind and priority; it saves reading what was claimed before. more: '
    'the call spent its limits (10,000 rows, 0.1 s or 16 MiB of args); call again at once.';
