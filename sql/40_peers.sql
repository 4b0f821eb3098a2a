-- Peers and their leases. Whoever sends heartbeats keeps its leases; whoever stops loses them.
--
-- The functions that a peer calls all the time fix their plans (`set enable_... = off`): their batches are
-- small and every lookup goes by a primary key, but a plan that was made and kept while a table was empty
-- would read the whole of it once it is full. They plan once a session (force_generic_plan): there is no
-- better plan to be found for other arguments. And they are not compiled (`set jit = off`): before Postgres 18
-- the price of a disabled plan is so high that compiling, 0.2 s a call, seems worth it.

-- Names the first thing that is wrong with a kind's policy; null: nothing is. Months have no fixed length.
create or replace function peers._validate_policy(
    _kind text, _max_attempts integer, _timeout interval, _backoff_base interval, _backoff_cap interval
) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case
        when length(_kind) not between 1 and 200 then
            'a kind must have 1 to 200 characters, not ' || length(_kind)
        when _max_attempts not between 1 and 1000 then
            'max_attempts of kind "' || _kind || '" must be 1 to 1000, not ' || _max_attempts
        when _timeout not between interval '1 millisecond' and interval '30 days' then
            'timeout of kind "' || _kind || '" must be 1 millisecond to 30 days, not ' || _timeout
        when _backoff_cap not between interval '0' and interval '365 days'
             or coalesce(extract(month from _backoff_cap) + extract(year from _backoff_cap), 0) <> 0 then
            'backoff_cap of kind "' || _kind || '" must be 0 to 365 days, without months, not ' || _backoff_cap
        when _backoff_base not between interval '0' and _backoff_cap
             or coalesce(extract(month from _backoff_base) + extract(year from _backoff_base), 0) <> 0 then
            'backoff_base of kind "' || _kind || '" must be 0 to its backoff_cap (' || _backoff_cap
            || '), without months, not ' || _backoff_base
    end;
end
$$;

create or replace function peers._check_joining(_queues jsonb, _kinds jsonb, _lease_timeout interval) returns void
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _problem text;
begin
    _problem := case
        when jsonb_typeof(_queues) is distinct from 'object' or _queues = '{}'
             or jsonb_path_exists(_queues, '$.* ? (@.type() != "number" || @ < 1 || @ > 1000000)')
            then 'queues must be a JSON object of slots, 1 to 1000000 each, such as {"default": 8}'
        when exists (select from jsonb_object_keys(_queues) q(name) where length(q.name) not between 1 and 200)
            then 'the name of a queue must have 1 to 200 characters'
        when jsonb_typeof(_kinds) is distinct from 'array'
             or jsonb_path_exists(_kinds, '$[*] ? (@.kind.type() != "string" || !exists (@.kind))')
            then 'kinds must be a JSON array of objects with a "kind", such as [{"kind": "thumbs.make"}]'
        when _lease_timeout is null or _lease_timeout not between interval '1 second' and interval '1 day'
            then 'lease_timeout must be 1 second to 1 day, not ' || coalesce(_lease_timeout::text, 'null')
        else (
            select c.complaint
            from jsonb_to_recordset(_kinds)
                k(kind text, max_attempts integer, timeout interval, backoff_base interval, backoff_cap interval)
            cross join lateral peers._validate_policy(
                k.kind, k.max_attempts, k.timeout, coalesce(k.backoff_base, '1 second'),
                coalesce(k.backoff_cap, '1 hour')
            ) c(complaint)
            where c.complaint is not null
            limit 1
        )
    end;
    if _problem is not null then
        raise exception 'peers.join: %', _problem using errcode = 'PE009';
    end if;
end
$$;

create or replace function peers.join(
    host text, pid integer, queues jsonb, kinds jsonb, lease_timeout interval, contract_version integer
) returns uuid
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '5s'
as $$
declare
    _now timestamptz := peers.now();
    _id uuid;
begin
    perform peers._require_read_committed();
    if contract_version is distinct from peers.contract_version() then
        raise exception 'this peer speaks contract version %, the database version %',
            contract_version, peers.contract_version()
            using errcode = 'PE006',
            hint = 'Run `peers migrate` with the newer of the two, then start peers of the same version.';
    end if;
    perform peers._check_joining(queues, kinds, lease_timeout);
    -- only what has changed: whoever has a kind's row locked is not waited for without need
    insert into peers.kind (kind, max_attempts, timeout, backoff_base, backoff_cap, declared_at)
    select d.kind, d.max_attempts, d.timeout, d.backoff_base, d.backoff_cap, _now
    from (
        select distinct on (k.kind)
               k.kind, coalesce(k.max_attempts, 5) as max_attempts, k.timeout,
               coalesce(k.backoff_base, '1 second') as backoff_base, coalesce(k.backoff_cap, '1 hour') as backoff_cap
        from jsonb_to_recordset(kinds)
            k(kind text, max_attempts smallint, timeout interval, backoff_base interval, backoff_cap interval)
        order by k.kind
    ) d
    left join peers.kind k on k.kind = d.kind
    where (k.max_attempts, k.timeout, k.backoff_base, k.backoff_cap)
          is distinct from (d.max_attempts, d.timeout, d.backoff_base, d.backoff_cap)
    order by d.kind
    on conflict (kind) do update
    set max_attempts = excluded.max_attempts, timeout = excluded.timeout, backoff_base = excluded.backoff_base,
        backoff_cap = excluded.backoff_cap, declared_at = excluded.declared_at;

    insert into peers.peer (host, pid, queues, kinds, lease_timeout, joined_at, heartbeat_at, healthy_since)
    values (left(host, 255), pid, queues,
            array(select distinct k ->> 'kind' from jsonb_array_elements(kinds) k order by 1),
            lease_timeout, _now, _now, _now)
    returning id into _id;
    return _id;
end
$$;

comment on function peers.join is
    'Registers a peer process: its queues {"default": 8}, the kinds that it can run with their policies [{"kind", '
    '"max_attempts", "timeout", "backoff_base", "backoff_cap"}]. Returns its id.';

-- Whether a peer's leases hold: the one place that says so. A heartbeat from the future, after the clock was set
-- back, counts as one of now; reclaim notes it as that (_correct_future_heartbeats).
create or replace function peers._is_alive(_peer peers.peer, _now timestamptz) returns boolean
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return _peer.lost_at is null and _peer.heartbeat_at + _peer.lease_timeout > _now;
end
$$;

create or replace function peers.heartbeat(peer_id uuid)
returns table (contract_version integer, alive boolean, cancelled_tasks bigint[], cancelled_tokens uuid[])
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '1s'
as $$
declare
    _now timestamptz := peers.now();
begin
    update peers.peer p
    set heartbeat_at = _now,
        -- a clock that was set back may leave it in the future
        healthy_since = case when peers._is_alive(p, _now) then least(p.healthy_since, _now) else _now end
    where p.id = heartbeat.peer_id and p.lost_at is null;
    return query
        select peers.contract_version(), found,
               array(select l.task_id from peers.lease l
                     where l.peer_id = heartbeat.peer_id and l.cancel_requested order by l.task_id),
               array(select l.token from peers.lease l
                     where l.peer_id = heartbeat.peer_id and l.cancel_requested order by l.task_id);
end
$$;

comment on function peers.heartbeat is
    'Renews a peer and with it all of its leases. alive = false: it was lost meanwhile, its leases are gone, it '
    'must stop its handlers and join again. Also answers what it is asked to cancel. Nobody is waited for longer than '
    'a second (55P03): it was not renewed then.';

-- Answers what a peer can run. A claim by a peer that is being given up at the same moment would leave leases
-- without a peer: the lock makes the two follow one another (and lets the heartbeat pass). Null: somebody else
-- has the row locked, who is not waited for.
create or replace function peers._require_live_peer(_peer_id uuid) returns text[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
    _kinds text[];
begin
    select p.kinds into _kinds from peers.peer p
    where p.id = _peer_id
      and p.lost_at is null and p.heartbeat_at + p.lease_timeout > _now  -- _is_alive; a call costs a claim of one 2 %
    for key share skip locked;
    if not found and not exists (
        select from peers.peer p where p.id = _peer_id and peers._is_alive(p, _now)
    ) then
        raise exception 'peer % is unknown, or its heartbeat has expired', _peer_id
            using errcode = 'PE010', hint = 'Stop its handlers, then join again.';
    end if;
    return _kinds;
end
$$;

create or replace function peers.progress(
    peer_id uuid, task_id bigint, token uuid, done bigint, total bigint
) returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    -- told again soon enough: somebody who holds the row is not waited for
    perform from peers.lease l
    where l.task_id = progress.task_id and l.token = progress.token and l.peer_id = progress.peer_id
    for no key update skip locked;
    update peers.lease l set progress_done = progress.done, progress_total = progress.total
    where found and l.task_id = progress.task_id;
    return found;
end
$$;

comment on function peers.progress is
    'A handler tells how far it is; seen in peers.running. False: it was not noted, for the lease is gone or locked.';

-- What a handler submits must not exist twice for one attempt, nor without its attempt: the submitting
-- transaction keeps the task's row locked, so that it can commit only while the lease holds. Whoever would
-- end the lease meanwhile (settle, reclaim) passes over the row and comes again.
create or replace function peers.hold_lease(peer_id uuid, task_id bigint, token uuid) returns xid8
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform peers._require_read_committed();
    perform from peers.task t where t.id = hold_lease.task_id for share;
    -- in a new statement: whoever had the row locked may have ended the lease
    perform from peers.lease l
    where l.task_id = hold_lease.task_id and l.token = hold_lease.token and l.peer_id = hold_lease.peer_id;
    if not found then
        raise exception 'task % is not leased to this peer any more: nothing was submitted', hold_lease.task_id
            using errcode = 'PE010', hint = 'Its next attempt submits instead.';
    end if;
    return pg_current_xact_id();
end
$$;

comment on function peers.hold_lease is
    'Keeps the lease of a running task until the end of the transaction, in which its handler submits. Answers the '
    'transaction, so that a COMMIT without an answer can be asked about. Raises PE010 when the lease is gone.';
