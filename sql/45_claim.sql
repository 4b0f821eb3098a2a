-- Claim: from the table ready to a lease.

-- Where the next tasks lie: how many of the first _wanted are of which kind, and the place of the last of them,
-- [priority, position]. Read without locks, so it only says where to begin. exhaustive: a claim of these
-- shares that comes back short has seen all there is.
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

-- Args that were inserted past the triggers can be too large to be written out, as which they would be sent:
-- these tasks die instead of stopping every claim. One whose death has to wait stays leased, unknown to its
-- peer, until that reconciles.
create or replace function peers._reject_unwritable(_peer_id uuid, _tasks bigint[], _token uuid) returns void
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

-- Takes up to max_tasks ready tasks of one queue, of the kinds that the peer can run, by priority and then in
-- the order of becoming ready.
--
-- The first pass takes what it can where the best tasks lie (_plan_claim). If it comes back short, because others
-- hold those or because rows were stale, further passes take what there is. A task whose row an application
-- has locked is passed over and keeps its place; a row whose task was pruned is dropped like a stale one.
create or replace function peers.claim(peer_id uuid, queue text, max_tasks integer)
returns table (
    task_id bigint, token uuid, attempt smallint, kind text, args jsonb, timeout interval, priority smallint
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
declare
    -- These bound how long one call works off stale rows. The caller's time limit would roll back a longer one.
    _most_rows constant integer := 10000;
    _until constant timestamptz := clock_timestamp() + interval '100 milliseconds';
    _widest constant integer := 250;
    _now timestamptz := peers.now();
    _token uuid := gen_random_uuid();
    _kinds text[] := peers._require_live_peer(claim.peer_id);
    _wanted integer := claim.max_tasks;
    _limit integer;
    _offered text[];
    _shares integer[];
    _exhaustive boolean;
    _end constant bigint[] := array[32767, 9223372036854775807];
    _last bigint[];  -- how far this pass goes: [priority, position]
    _seen integer;
    _total integer := 0;
    _stale tid[];
    _valid tid[];
    _tasks bigint[];
    _positions bigint[];
    _suspect boolean;
    _unwritable bigint[] := '{}';
begin
    perform peers._require_read_committed();
    if _wanted is null or _wanted not between 1 and _most_rows then
        raise exception 'max_tasks must be 1 to %, not %',
            _most_rows, coalesce(_wanted::text, 'null') using errcode = 'PE009';
    end if;
    if _kinds is null or exists (select from peers.paused_queue p where p.queue = claim.queue) then
        return;
    end if;
    select s.kinds, s.shares, s.exhaustive, coalesce(s.last, _end) into _offered, _shares, _exhaustive, _last
    from peers._plan_claim(claim.queue, _kinds, _wanted) s;

    _limit := _wanted;
    loop
        -- lock tasks, then their rows in ready; what somebody else has locked does not count for the limits
        select count(*), array_agg(r.spot) filter (where r.valid is not true), array_agg(r.spot) filter (where r.valid),
               array_agg(r.task_id) filter (where r.valid), array_agg(r.position) filter (where r.valid),
               bool_or(r.suspect)
        into _seen, _stale, _valid, _tasks, _positions, _suspect
        from (
            select r.spot, r.task_id, r.position, r.valid, r.suspect
            from unnest(_offered, _shares) o(kind, share)
            cross join lateral (
                select r.ctid as spot, r.task_id, r.priority, r.position, t.valid, t.suspect
                from peers.ready r
                left join lateral (
                    select t.id, t.state = 'ready' and t.priority = r.priority and t.kind = r.kind
                                 and t.queue = claim.queue as valid,
                           pg_column_size(t.args) > 1000 or pg_column_compression(t.args) is not null as suspect
                    from peers.task t where t.id = r.task_id
                    for no key update skip locked
                ) t on true
                left join peers.task known on known.id = r.task_id
                where r.queue = claim.queue and r.kind = o.kind
                  and (r.priority, r.position) <= (_last[1], _last[2])
                  and (t.id is not null or known.id is null)
                order by r.priority, r.position
                limit o.share
                for update of r skip locked
            ) r
            order by r.priority, r.position
            limit _limit
        ) r;

        if cardinality(_tasks) > _wanted then  -- of a pass that was wide for the sake of stale rows
            _valid := _valid[:_wanted];
            _tasks := _tasks[:_wanted];
            _positions := _positions[:_wanted];
        end if;
        delete from peers.ready r where r.ctid = any (_stale || _valid);

        if _suspect then
            _unwritable := array(
                select t.id from peers.task t
                where t.id = any (_tasks) and peers._written_size(t.args) > 1048576
            );
        end if;
        return query
            with picked as materialized (
                -- a task can have two rows: one from before it waited for parents, one from its release
                select distinct on (t.id)
                       t.id, (t.attempt + 1)::smallint as attempt, t.kind, t.args, t.priority, p.position,
                       coalesce(t.max_attempts, k.max_attempts, 5) as max_attempts,
                       coalesce(t.timeout, k.timeout) as timeout,
                       coalesce(k.backoff_base, '1 second') as backoff_base,
                       coalesce(k.backoff_cap, '1 hour') as backoff_cap
                from unnest(_tasks, _positions) p(id, position)
                cross join lateral (select t.* from peers.task t where t.id = p.id offset 0) t
                left join peers.kind k on k.kind = t.kind
                order by t.id, p.position
            ), started as (
                update peers.task t
                set state = 'running', attempt = t.attempt + 1, started_at = _now, token = _token
                where t.id = any (_tasks)
            ), leased as (
                insert into peers.lease (task_id, token, peer_id, attempt, max_attempts, timeout,
                                         backoff_base, backoff_cap, claimed_at)
                select p.id, _token, claim.peer_id, p.attempt, p.max_attempts, p.timeout,
                       p.backoff_base, p.backoff_cap, _now
                from picked p
            )
            select p.id, _token, p.attempt, p.kind, p.args, p.timeout, p.priority
            from picked p
            where p.id <> all (_unwritable)
            order by p.priority, p.position;

        if _unwritable <> '{}' then
            perform peers._reject_unwritable(claim.peer_id, _unwritable, _token);
            _unwritable := '{}';
        end if;
        _wanted := _wanted - coalesce(cardinality(_tasks), 0);
        exit when _wanted = 0 or (_exhaustive and _seen < _limit);
        _total := _total + _seen;
        if _total >= _most_rows or clock_timestamp() > _until then
            perform peers._notify();  -- so that the peers soon go on
            exit;
        end if;
        -- stale rows come by the thousand: a claim of two tasks must not work them off two at a time
        _limit := greatest(_wanted, case when _tasks is null then least(8 * _limit, _widest) else 0 end);
        _offered := _kinds;
        _shares := array_fill(_limit, array[cardinality(_kinds)]);
        _exhaustive := true;
        _last := _end;
    end loop;
end
$$;

comment on function peers.claim is
    'Leases up to max_tasks ready tasks of a queue to a peer. No rows: there is nothing that it could run, or the '
    'call had 10,000 stale rows, or 0.1 s of them, to work off; then it notifies the peers, to be called again.';
