-- What comes back to the room ready: released, reclaimed from the lost, and what is due.

create or replace function peers.release(
    peer_id uuid, task_ids bigint[], tokens uuid[], reasons text[] default '{}'
) returns integer
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _leases peers.lease[];
begin
    _leases := array(
        select l from peers._take_leases(release.peer_id, release.task_ids, release.tokens, 'release') l
    );
    with given_back as (
        update peers.task t
        set state = case when l.cancel_requested then 'cancelled' else 'ready' end::peers.task_state,
            finished_at = case when l.cancel_requested then peers.now() end,
            attempt = t.attempt - 1,
            stopped_because = coalesce(left(r.reason, 1000) || ' at ' || peers.now(), t.stopped_because)
        from unnest(_leases) l
        left join unnest(release.task_ids, release.tokens, release.reasons) r(task_id, token, reason)
            on r.task_id = l.task_id and r.token = l.token
        where t.id = l.task_id and t.id = any (array(select l.task_id from unnest(_leases) l))
        returning t.id, t.state, t.queue, t.kind, t.priority
    )
    insert into peers.ready (queue, kind, priority, task_id)
    select g.queue, g.kind, g.priority, g.id from given_back g where g.state = 'ready' order by g.id;
    if found then
        perform peers._ring();
    end if;
    return cardinality(_leases);
end
$$;

comment on function peers.release is
    'Gives leases back whose handlers never started, or whose peer stopped them itself: the attempt does not '
    'count. reasons: why each was stopped; null, or none at all: it was not. Answers how many; what is busy stays '
    'leased.';

create or replace function peers.reconcile(peer_id uuid, tokens uuid[]) returns integer
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _lost_tasks bigint[];
    _lost_tokens uuid[];
begin
    select array_agg(l.task_id), array_agg(l.token) into _lost_tasks, _lost_tokens
    from peers.lease l
    where l.peer_id = reconcile.peer_id and l.token <> all (reconcile.tokens);
    if _lost_tasks is null then
        return 0;
    end if;
    return peers.release(reconcile.peer_id, _lost_tasks, _lost_tokens);
end
$$;

comment on function peers.reconcile is
    'A peer says which tokens it knows, while no claim of its own is under way; leases under others, whose claim '
    'was never answered, are released. Answers how many.';

-- A peer that is behind itself must not judge others: after an outage of the database everybody's heartbeat is
-- old. So it reclaims only when its own came without a gap for one lease.
create or replace function peers.reclaim(peer_id uuid, max_tasks integer default 1000)
returns table (task_id bigint, attempt smallint, lost_peer_id uuid, host text)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _now timestamptz := peers.now();
    _leases peers.lease[];
begin
    perform peers._require_read_committed();
    if not exists (
        select from peers.peer p
        where p.id = reclaim.peer_id and p.lost_at is null
          and p.steady_since + p.lease_timeout <= _now and p.heartbeat_at + p.lease_timeout > _now
    ) then
        return;
    end if;
    update peers.peer p set lost_at = _now
    where p.id = any (array(
        select e.id from peers.peer e
        where e.lost_at is null and e.heartbeat_at + e.lease_timeout <= _now
        order by e.id for update skip locked
    ));

    select array_agg(taken.lease) into _leases
    from (
        select l.peer_id, array_agg(l.task_id) as task_ids, array_agg(l.token) as tokens
        from (
            select l.peer_id, l.task_id, l.token
            from peers.lease l
            where not exists (select from peers.peer p where p.id = l.peer_id and p.lost_at is null)
            order by l.task_id
            limit reclaim.max_tasks
        ) l
        group by l.peer_id
    ) orphan
    cross join lateral (
        select lease from peers._take_leases(orphan.peer_id, orphan.task_ids, orphan.tokens, 'fail') lease
    ) taken;

    perform peers._record_failures(coalesce(_leases, '{}'), (
        select jsonb_agg(jsonb_build_object(
            'task_id', l.task_id, 'token', l.token, 'error_type', 'lost', 'retry_in', 0,
            'error_message', 'peer ' || l.peer_id || ' on host ' || coalesce(p.host, '(unknown)')
                || ' stopped sending heartbeats while it held this task'))
        from unnest(_leases) l left join peers.peer p on p.id = l.peer_id
    ));
    return query
        select l.task_id, l.attempt, l.peer_id, p.host
        from unnest(_leases) l left join peers.peer p on p.id = l.peer_id;
end
$$;

comment on function peers.reclaim is
    'Takes the leases of peers whose heartbeat has expired: each is a failure of type lost, and runs again at '
    'once if it has attempts left. Nothing happens until the caller itself has been steady for one lease.';

create or replace function peers.leave(peer_id uuid) returns integer
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _released integer := peers.reconcile(leave.peer_id, '{}');
begin
    if exists (select from peers.lease l where l.peer_id = leave.peer_id) then
        update peers.peer p set lost_at = peers.now() where p.id = leave.peer_id;
    else
        delete from peers.peer p where p.id = leave.peer_id;
    end if;
    return _released;
end
$$;

comment on function peers.leave is
    'A peer goes: what it still holds is released (answers how many), what is busy is left for others to reclaim.';

create or replace function peers.promote(max_tasks integer default 1000) returns integer
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
    _now timestamptz := peers.now();
    _spent tid[];
    _due bigint[];
begin
    perform peers._require_read_committed();
    select array_agg(s.spot), array_agg(s.task_id) filter (where s.valid) into _spent, _due
    from (
        select s.ctid as spot, s.task_id, t.valid
        from peers.scheduled s
        left join lateral (
            select t.id, t.state = 'scheduled' and t.scheduled_at = s.due_at as valid
            from peers.task t where t.id = s.task_id
            for no key update skip locked
        ) t on true
        left join peers.task known on known.id = s.task_id
        where s.due_at <= _now and (t.id is not null or known.id is null)
        order by s.due_at
        limit promote.max_tasks
        for update of s skip locked
    ) s;

    delete from peers.scheduled s where s.ctid = any (_spent);
    with promoted as (
        update peers.task t set state = 'ready' where t.id = any (_due)
        returning t.id, t.queue, t.kind, t.priority, t.scheduled_at
    )
    insert into peers.ready (queue, kind, priority, task_id)
    select p.queue, p.kind, p.priority, p.id from promoted p order by p.scheduled_at, p.id;
    if found then
        perform peers._ring();
    end if;
    return coalesce(cardinality(_spent), 0);
end
$$;

comment on function peers.promote is
    'Moves what is due from scheduled to ready. Answers how many rows it worked off; call again while it is max_tasks.';
