-- peers.claim: moves tasks from the table ready to a lease.

-- Returns where the next tasks are: how many of the first _wanted tasks are of each kind, and the position of the last
-- one, [priority, position]. It reads without locks, so the claim only uses it as a starting point. exhaustive: if a
-- claim of these shares gets less than it wanted, there is nothing more.
create or replace function peers._plan_claim(
    _queue text, _kinds text[], _wanted integer,
    out kinds text[], out shares integer[], out exhaustive boolean, out last bigint[]
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if cardinality(_kinds) <= 1 then
        kinds := _kinds;
        shares := array_fill(_wanted, array[cardinality(_kinds)]);
        exhaustive := true;
        return;
    end if;
    select array_agg(s.kind), array_agg(s.tasks), coalesce(sum(s.tasks), 0) < _wanted, max(s.last)
    into kinds, shares, exhaustive, last
    from (
        select h.kind, count(*)::integer as tasks, max(array[h.priority, h.position]) as last
        from (
            select r.kind, r.priority, r.position
            from unnest(_kinds) k(kind)
            cross join lateral (
                select r.kind, r.priority, r.position from peers.ready r
                where r.queue = _queue and r.kind = k.kind
                order by r.priority, r.position
                limit _wanted
            ) r
            order by r.priority, r.position
            limit _wanted
        ) h
        group by h.kind
    ) s;
end
$$;

-- Rejects claimed tasks whose args are too large to be sent; only an INSERT without triggers can produce such args.
-- They die, because an error here would stop every claim. If a task cannot be rejected now, it stays leased until its
-- peer calls peers.reconcile.
create or replace function peers._reject_oversized(_peer_id uuid, _tasks bigint[], _token uuid) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform from peers.fail(_peer_id, (
        select jsonb_agg(jsonb_build_object(
            'task_id', u.id, 'token', _token, 'reject', true, 'error_type', 'ArgsInvalid',
            'error_message', 'args exceed 1 MiB (1048576 bytes) of text; peers.retry(' || u.id
                             || ', args) runs it with others'))
        from unnest(_tasks) u(id)
    ));
end
$$;

-- Leases up to max_tasks ready tasks of one queue, of the kinds that the peer can run, by priority and then in the
-- order in which they became ready.
--
-- The first pass takes tasks from where _plan_claim found the best ones. If it gets less than it wanted, because other
-- sessions hold those tasks or because rows were stale, further passes take what there is. A task whose row another
-- session has locked is skipped and keeps its place. A row whose task was pruned is dropped like a stale row.
--
-- The row of a task of a paused graph is dropped too, and peers.resume_graph inserts it again. That is safe only while
-- this transaction holds a share lock on the graph, so that no resume can run at the same time: it might not see the
-- task yet. If the graph's row cannot be locked at once, the row in ready is left alone.
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
    -- These limit how long one call drops stale rows. A call that exceeds the caller's timeout would be rolled back.
    _most_rows constant integer := 10000;
    _until constant timestamptz := clock_timestamp() + interval '100 milliseconds';
    _largest_pass constant integer := 250;
    _now timestamptz := peers.now();
    _token uuid := gen_random_uuid();
    _kinds text[] := peers._require_live_peer(claim.peer_id);
    _wanted integer := claim.max_tasks;
    _limit integer;
    _offered text[];
    _shares integer[];
    _exhaustive boolean;
    _end constant bigint[] := array[32767, 9223372036854775807];
    _last bigint[];  -- where this pass ends: [priority, position]
    _any_graph_paused boolean;
    _seen integer;
    _total integer := 0;
    _stale tid[];
    _valid tid[];
    _tasks bigint[];
    _positions bigint[];
    _maybe_oversized boolean;
    _oversized bigint[] := '{}';
    _rejected constant uuid := gen_random_uuid();
    _args text[] := '{}';
    _pass record;
begin
    task_ids := '{}';
    attempts := '{}';
    kinds := '{}';
    priorities := '{}';
    timeouts := '{}';
    last_kinds := '{}';
    last_priorities := '{}';
    last_positions := '{}';
    more := false;
    args := '[]';
    perform peers._require_read_committed();
    if _wanted is null or _wanted not between 1 and _most_rows then
        raise exception 'max_tasks must be 1 to %, not %',
            _most_rows, coalesce(_wanted::text, 'null') using errcode = 'PE009';
    end if;
    if _kinds is null or exists (select from peers.paused_queue p where p.queue = claim.queue) then
        return next;
        return;
    end if;
    _any_graph_paused := exists (select from peers.graph g where g.paused_at is not null);
    select s.kinds, s.shares, s.exhaustive, coalesce(s.last, _end) into _offered, _shares, _exhaustive, _last
    from peers._plan_claim(claim.queue, _kinds, _wanted) s;

    _limit := _wanted;
    loop
        -- lock tasks, then their rows in ready; what another session has locked does not count for the limits
        select count(*), array_agg(r.spot) filter (where r.valid is not true), array_agg(r.spot) filter (where r.valid),
               array_agg(r.task_id) filter (where r.valid), array_agg(r.position) filter (where r.valid),
               bool_or(r.maybe_oversized)
        into _seen, _stale, _valid, _tasks, _positions, _maybe_oversized
        from (
            select r.spot, r.task_id, r.position, r.valid, r.maybe_oversized
            from unnest(_offered, _shares) o(kind, share)
            cross join lateral (
                select r.ctid as spot, r.task_id, r.priority, r.position, t.valid and t.graph_locked is null as valid,
                       t.maybe_oversized
                from peers.ready r
                left join lateral (
                    select t.id, t.state = 'ready' and t.priority = r.priority and t.kind = r.kind
                                 and t.queue = claim.queue as valid,
                           pg_column_size(t.args) > 1000 or pg_column_compression(t.args) is not null
                               as maybe_oversized,
                           case when _any_graph_paused and t.graph_id is not null and exists (
                                    select from peers.graph g where g.id = t.graph_id and g.paused_at is not null)
                                then exists (
                                    select from peers.graph g where g.id = t.graph_id and g.paused_at is not null
                                    for share skip locked)
                           end as graph_locked  -- null: the graph is not paused
                    from peers.task t where t.id = r.task_id
                    for no key update skip locked
                ) t on true
                left join peers.task known on known.id = r.task_id
                where r.queue = claim.queue and r.kind = o.kind
                  and (r.priority, r.position) <= (_last[1], _last[2])
                  and (t.id is not null or known.id is null)
                  and t.graph_locked is not false
                order by r.priority, r.position
                limit o.share
                for update of r skip locked
            ) r
            order by r.priority, r.position
            limit _limit
        ) r;

        if cardinality(_tasks) > _wanted then  -- this pass was larger, to drop stale rows
            _valid := _valid[:_wanted];
            _tasks := _tasks[:_wanted];
            _positions := _positions[:_wanted];
        end if;
        delete from peers.ready r where r.ctid = any (_stale || _valid);

        if _maybe_oversized then
            _oversized := array(
                select t.id from peers.task t
                where t.id = any (_tasks) and peers._text_size(t.args) > 1048576
            );
        end if;
        with started as (
            update peers.task t
            set state = 'running', attempt = t.attempt + 1, started_at = _now,
                token = case when t.id = any (_oversized) then _rejected else _token end
            from (select u.id, min(u.position) as position from unnest(_tasks, _positions) u(id, position)
                  group by u.id) p
            where t.id = p.id
            returning t.id, t.attempt, t.kind, t.priority, t.timeout, t.args, p.position
        )
        select array_agg(s.id) as ids, array_agg(s.attempt) as attempts, array_agg(s.kind) as kinds,
               array_agg(s.priority) as priorities,
               array_agg(date_part('epoch', s.timeout)) as timeouts, array_agg(s.args::text) as args
        into _pass
        from (select s.* from started s where s.id <> all (_oversized) order by s.priority, s.position) s;
        task_ids := task_ids || _pass.ids;
        attempts := attempts || _pass.attempts;
        kinds := kinds || _pass.kinds;
        priorities := priorities || _pass.priorities;
        timeouts := timeouts || _pass.timeouts;
        _args := _args || _pass.args;

        if _oversized <> '{}' then
            insert into peers.lease (token, peer_id, task_ids, open, claimed_at)
            values (_rejected, claim.peer_id, _oversized, cardinality(_oversized), _now);
            perform peers._reject_oversized(claim.peer_id, _oversized, _rejected);
            _oversized := '{}';
        end if;
        _wanted := _wanted - coalesce(cardinality(_tasks), 0);
        exit when _wanted = 0 or (_exhaustive and _seen < _limit);
        _total := _total + _seen;
        if _total >= _most_rows or clock_timestamp() > _until then
            more := true;
            exit;
        end if;
        -- there can be thousands of stale rows: a claim of two tasks must not drop them two at a time
        _limit := greatest(_wanted, case when _tasks is null then least(8 * _limit, _largest_pass) else 0 end);
        _offered := _kinds;
        _shares := array_fill(_limit, array[cardinality(_kinds)]);
        _exhaustive := true;
        _last := _end;
    end loop;
    if task_ids <> '{}' then
        token := _token;
        args := '[' || array_to_string(_args, ',') || ']';
        insert into peers.lease (token, peer_id, task_ids, open, claimed_at)
        values (_token, claim.peer_id, task_ids, cardinality(task_ids), _now);
    end if;
    if array_remove(timeouts, null) = '{}' then
        timeouts := null;
    end if;
    if attempts[1] = all (attempts) then
        attempts := attempts[:1];
    end if;
    if kinds[1] = all (kinds) then
        kinds := kinds[:1];
    end if;
    if priorities[1] = all (priorities) then
        priorities := priorities[:1];
    end if;
    return next;
end
$$;

comment on function peers.claim is
    'Leases up to max_tasks ready tasks of a queue to a peer, under one token. Returns one row. No task: token is null. '
    'more: the call spent its limit (10,000 rows or 0.1 s) on stale rows; call again at once.';
