-- Peers and their leases. A peer keeps its leases while it sends heartbeats, and loses them when it stops.
--
-- The functions that a peer calls often pin their plans (`set enable_... = off`). Their batches are small and every
-- lookup uses a primary key, but a plan that was made while a table was empty would read the whole table once it is
-- full. They plan once for each session (force_generic_plan), because other arguments need no other plan. They are not
-- compiled (`set jit = off`): before Postgres 18 a disabled plan has such a high cost that Postgres would compile it,
-- at 0.2 s for each call.

-- Returns the first thing that is wrong with a kind's policy. Null: nothing is wrong. Months are refused because they
-- have no fixed length.
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

-- Refuses a peer whose queues, kinds or lease_timeout are malformed.
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
            select c.problem
            from jsonb_to_recordset(_kinds)
                k(kind text, queue text, priority integer, max_attempts integer, timeout interval,
                  backoff_base interval, backoff_cap interval)
            cross join lateral (select coalesce(
                peers._validate_policy(k.kind, k.max_attempts, k.timeout, coalesce(k.backoff_base, '1 second'),
                                       coalesce(k.backoff_cap, '1 hour')),
                case when length(k.queue) not between 1 and 200 then 'the name of a queue must have 1 to 200 characters'
                     when k.priority not between -32768 and 32767 then 'a priority must be -32768 to 32767' end
            )) c(problem)
            where c.problem is not null
            limit 1
        )
    end;
    if _problem is not null then
        raise exception 'peers.join: %', _problem using errcode = 'PE009';
    end if;
end
$$;

-- Returns since when the database has been reachable, as a peer with this lease needs to know it: since then no two
-- heartbeats were further apart than half of this lease. Each peer knows this of its own heartbeats (healthy_since),
-- for its own lease: a peer with a longer one overlooks longer outages. It holds until now if the last of them is
-- recent. A peer that joins takes it over from such peers. If there is none, the database may have been away until now.
-- A heartbeat in the future proves nothing: the clock was set back.
create or replace function peers._reachable_since(_now timestamptz, _lease interval) returns timestamptz
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return coalesce(
        (select min(least(p.healthy_since, _now)) from peers.peer p
         where p.lease_timeout <= _lease
           and p.heartbeat_at between _now - p.lease_timeout / 2 and _now),
        _now
    );
end
$$;

create or replace function peers.join(
    host text, pid integer, queues jsonb, kinds jsonb, lease_timeout interval, contract_version integer,
    process jsonb default null
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
        raise exception 'this peer needs contract version %, the database has version %',
            contract_version, peers.contract_version()
            using errcode = 'PE006',
            hint = 'Run `peers migrate` with the newer of the two versions, then start peers of that version.';
    end if;
    perform peers._check_joining(queues, kinds, lease_timeout);
    perform peers._declare_kinds(kinds, _now);
    insert into peers.peer (host, pid, queues, kinds, lease_timeout, joined_at, heartbeat_at, healthy_since,
                            host_id, process_start, liveness_lock, version)
    values (left(host, 255), pid, queues,
            array(select distinct k ->> 'kind' from jsonb_array_elements(kinds) k order by 1),
            lease_timeout, _now, _now, peers._reachable_since(_now, lease_timeout),
            process ->> 'host_id', (process ->> 'start')::bigint, process ->> 'lock',
            left(process ->> 'version', 100))
    returning id into _id;
    if process ->> 'host_id' is not null then
        perform peers._notify('joined');  -- the other peers of its host watch its process from now on
    end if;
    return _id;
end
$$;

comment on function peers.join is
    'Registers a peer process: its queues {"default": 8}, the kinds that it can run with their policies [{"kind", '
    '"queue", "priority", "max_attempts", "timeout", "backoff_base", "backoff_cap"}], what other peers on its host '
    'need to recognize its process, and the version of its package {"host_id", "start", "lock", "version"}. Returns '
    'its id.';

-- Returns whether a peer's leases are valid. A heartbeat can lie in the future after the clock was set back. It counts
-- as a heartbeat of now, and reclaim corrects it (_correct_future_heartbeats).
create or replace function peers._is_alive(_peer peers.peer, _now timestamptz) returns boolean
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return _peer.lost_at is null and _peer.heartbeat_at + _peer.lease_timeout > _now;
end
$$;

create or replace function peers.heartbeat(peer_id uuid)
returns table (
    contract_version integer, alive boolean, cancelled_tasks bigint[], cancelled_tokens uuid[], peeks jsonb
)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '1s'
as $$
declare
    _now timestamptz := peers.now();
begin
    update peers.peer p
    set heartbeat_at = _now,
        -- it can lie in the future after the clock was set back
        healthy_since = case when p.heartbeat_at + p.lease_timeout / 2 >= _now then least(p.healthy_since, _now)
                             else _now end
    where p.id = heartbeat.peer_id and p.lost_at is null;
    alive := found;
    contract_version := peers.contract_version();
    select coalesce(array_agg(r.task_id order by r.task_id), '{}'),
           coalesce(array_agg(r.token order by r.task_id), '{}')
    into cancelled_tasks, cancelled_tokens
    from peers.cancel_request r
    where exists (select from peers.lease l where l.token = r.token and l.peer_id = heartbeat.peer_id);
    select jsonb_agg(jsonb_build_object('id', k.id, 'task_id', k.task_id, 'token', k.token) order by k.id)
    into peeks
    from peers.peek k
    where k.peer_id = heartbeat.peer_id and k.replied_at is null;
    return next;
end
$$;

comment on function peers.heartbeat is
    'Renews a peer and all of its leases. alive = false: the peer was lost and its leases are gone; it must stop its '
    'handlers and join again. Also returns the tasks that it is asked to cancel, and the requests of '
    'peers.request_peek to which it has not replied: [{"id", "task_id", "token"}], or null. It waits at most a second '
    'for a lock; after that it raises 55P03 and nothing was renewed.';

create or replace function peers.progress(
    peer_id uuid, task_id bigint, token uuid, done bigint, total bigint
) returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '50ms'
as $$
begin
    -- the lock keeps a row from being written after the attempt has ended, when nobody deletes it; it does not wait for
    -- a session that has the task locked, because the handler reports again soon
    perform from peers.task t
    where t.id = progress.task_id and t.token = progress.token and t.state = 'running'
      and exists (select from peers.lease l where l.token = progress.token and l.peer_id = progress.peer_id)
    for share skip locked;
    if not found then
        return false;
    end if;
    insert into peers.task_progress (token, task_id, done, total)
    values (progress.token, progress.task_id, progress.done, progress.total)
    on conflict on constraint task_progress_pkey do update set done = excluded.done, total = excluded.total;
    return true;
exception when lock_not_available then
    return false;
end
$$;

comment on function peers.progress is
    'Records how far a handler is; peers.running shows it. False: not recorded, because the lease is gone or the task '
    'is locked.';

-- The tasks that a handler submits must exist once, and only if its attempt still holds the lease. So the submitting
-- transaction keeps the task's row locked until it commits. A session that would end the lease in the meantime
-- (complete, fail, reclaim) does not wait for the row and tries again later.
create or replace function peers.hold_lease(peer_id uuid, task_id bigint, token uuid) returns xid8
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform peers._require_read_committed();
    perform from peers.task t where t.id = hold_lease.task_id for share;
    -- in a new statement: the session that had the row locked may have ended the lease
    perform from peers.task t
    where t.id = hold_lease.task_id and t.token = hold_lease.token and t.state = 'running'
      and exists (select from peers.lease l where l.token = hold_lease.token and l.peer_id = hold_lease.peer_id);
    if not found then
        raise exception 'task % is no longer leased to this peer: nothing was committed', hold_lease.task_id
            using errcode = 'PE010', hint = 'The next attempt of the task decides.';
    end if;
    return pg_current_xact_id();
end
$$;

comment on function peers.hold_lease is
    'Keeps the lease of a running task until the end of the transaction in which its handler submits tasks. Returns '
    'the transaction''s id, so that a peer can check a COMMIT whose reply was lost. Raises PE010 if the lease is gone.';
