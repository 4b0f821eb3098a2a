-- Tasks that a peer gives back become ready again.

-- Makes the tasks of attempts that the caller has locked ready again. `_reasons`: why the peer stopped each handler.
create or replace function peers._release_attempts(_task_ids bigint[], _tokens uuid[], _reasons jsonb[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
begin
    with released as (
        update peers.task t
        set state = case when a.cancelled then 'cancelled' else 'ready' end::peers.task_state,
            finished_at = case when a.cancelled then _now end,
            attempt = t.attempt - 1,
            stopped_because = coalesce(left(a.reason #>> '{}', 1000) || ' at ' || _now, t.stopped_because)
        from (
            select a.task_id, a.reason,
                   exists (select from peers.cancel_request c
                           where c.token = a.token and c.task_id = a.task_id) as cancelled
            from unnest(_task_ids, _tokens, _reasons) a(task_id, token, reason)
        ) a
        where t.id = a.task_id and t.id = any (_task_ids)
        returning t.id, t.state, t.queue, t.kind, t.priority
    )
    insert into peers.ready (queue, kind, priority, task_id)
    select r.queue, r.kind, r.priority, r.id from released r where r.state = 'ready' order by r.id;
    if found then
        perform peers._notify();
    end if;
end
$$;

create or replace function peers.release(
    peer_id uuid, task_ids bigint[], tokens uuid[], reasons text[] default '{}', patient boolean default false
) returns table (task_id bigint, token uuid, verdict text)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _reasons jsonb[];
    _recorded bigint[];
begin
    if release.reasons <> '{}' then
        _reasons := array(select to_jsonb(r.reason) from unnest(release.reasons) r(reason));
    end if;
    if release.patient then
        perform peers._wait_for_edges();
    end if;
    _recorded := peers._record_without_waiting(
        release.peer_id, release.task_ids, release.tokens, 'release', _reasons
    );
    if cardinality(_recorded) < cardinality(release.task_ids) then
        return query select * from peers._why_not_recorded(
            release.peer_id, release.task_ids, release.tokens, _recorded);
    end if;
end
$$;

comment on function peers.release is
    'Gives back tasks whose handlers never started, or whose handlers the peer stopped itself. The attempt does not '
    'count. reasons: why each handler was stopped; null or missing: it was not stopped. Returns only those that were '
    'not released, each with a verdict: stale or busy. patient: as in peers.complete.';

-- Releases the running tasks of these leases, and deletes the leases that have none. Returns how many tasks it
-- released.
create or replace function peers._release_leases(_peer_id uuid, _leases uuid[], _skip_errors boolean) returns integer
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _task_ids bigint[];
    _tokens uuid[];
    _released integer;
begin
    select array_agg(i.task_id), array_agg(l.token) into _task_ids, _tokens
    from peers.lease l cross join lateral unnest(l.task_ids) i(task_id)
    where l.token = any (_leases);
    _released := cardinality(
        peers._record_without_waiting(_peer_id, _task_ids, _tokens, 'release', null, _skip_errors)
    );
    perform peers._recount_leases(_leases);
    return coalesce(_released, 0);
end
$$;

-- Sets `open` of these leases to what it must be, and deletes those that have no running task. It is needed where tasks
-- were deleted by hand. Leases that another session has locked are left alone.
create or replace function peers._recount_leases(_leases uuid[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    _leases := array(
        select l.token from peers.lease l where l.token = any (_leases) order by l.token for update skip locked
    );
    -- in a new statement: no outcome can be between its task and its lease now
    update peers.lease l set open = c.running
    from (
        select l.token, (select count(*) from unnest(l.task_ids) i(task_id)
                         cross join lateral (select from peers.task t where t.id = i.task_id and t.token = l.token
                                             and t.state = 'running' offset 0) t)::integer as running
        from peers.lease l where l.token = any (_leases)
    ) c
    where l.token = c.token and l.open <> c.running;
    delete from peers.lease l where l.token = any (_leases) and l.open = 0;
end
$$;

create or replace function peers.reconcile(peer_id uuid, tokens uuid[]) returns integer
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _unknown uuid[] := array(
        select l.token from peers.lease l
        where l.peer_id = reconcile.peer_id and l.token <> all (reconcile.tokens)
    );
begin
    if _unknown = '{}' then
        return 0;
    end if;
    return peers._release_leases(reconcile.peer_id, _unknown, false);
end
$$;

comment on function peers.reconcile is
    'Releases the leases that a peer does not know, because the reply to its claim was lost. tokens: all that the peer '
    'knows. Call it while no claim of the peer is in progress. Returns how many tasks it released.';

create or replace function peers.leave(peer_id uuid) returns integer
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _released integer := peers._release_leases(
        leave.peer_id, array(select l.token from peers.lease l where l.peer_id = leave.peer_id), true
    );
begin
    -- if another session has the peer's row locked, the row stays and expires like that of a killed peer
    perform from peers.peer p where p.id = leave.peer_id for update skip locked;
    if found and exists (select from peers.lease l where l.peer_id = leave.peer_id) then
        update peers.peer p set lost_at = peers.now() where p.id = leave.peer_id;
    elsif found then
        delete from peers.peer p where p.id = leave.peer_id;
    end if;
    return _released;
end
$$;

comment on function peers.leave is
    'Removes a peer and releases the tasks that it still holds. Returns how many. Other peers reclaim a task that is '
    'locked now.';
