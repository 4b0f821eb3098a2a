-- Tasks of lost peers become ready again.

-- Locks and returns running tasks whose peer is lost or gone, without those in _except. Tasks that another session has
-- locked are skipped and do not count for the limit, so that they cannot hide the free ones behind them.
create or replace function peers._lock_lost_attempts(
    _except bigint[], _most integer,
    out peer_ids uuid[], out task_ids bigint[], out tokens uuid[], out attempts smallint[]
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
    set jit = off
as $$
begin
    select array_agg(a.peer_id), array_agg(a.id), array_agg(a.token), array_agg(a.attempt)
    into peer_ids, task_ids, tokens, attempts
    from (
        select l.peer_id, t.id, l.token, t.attempt
        from peers.lease l
        cross join lateral unnest(l.task_ids) i(task_id)
        cross join lateral (
            select t.id, t.attempt from peers.task t
            where t.id = i.task_id and t.token = l.token and t.state = 'running'
            for no key update skip locked
        ) t
        where not exists (select from peers.peer p where p.id = l.peer_id and p.lost_at is null)
          and i.task_id <> all (_except)
        limit _most
    ) a;
end
$$;

-- After the database's clock was set back, a heartbeat can lie in the future, and its peer would seem alive until then.
-- Such a heartbeat is set to now, once. If its peer is gone, the peer is lost one lease_timeout later.
create or replace function peers._correct_future_heartbeats(_now timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _skew constant interval := '1 second';  -- a heartbeat may be sent while this call runs
begin
    update peers.peer p set heartbeat_at = _now
    where p.id = any (array(
        select f.id from peers.peer f
        where f.lost_at is null and f.heartbeat_at > _now + _skew
        order by f.id for no key update skip locked
    ));
end
$$;

-- Returns when a peer is lost unless it sends another heartbeat. That is when its lease ends. But after an outage of
-- the database the leases of all peers have ended, although the peers live: they have killed their workers, and will
-- release the tasks. So each peer has at least half of its lease since the database is reachable. A peer sends a
-- heartbeat every third of its lease. While that fails it tries again, at most a sixth of a lease later.
-- Other peers, the witnesses, know since when the database is reachable (healthy_since), but a witness overlooks an
-- outage that is shorter than half of its own lease. Such an outage began at most a third of the peer's lease after its
-- last heartbeat, and then the peer needs a sixth for the next try. These are half of its lease and half of the
-- witness's: not more than its lease, unless the witness has a longer one. The best witness counts. Without any, the
-- database may have been away until now.
create or replace function peers._lost_at(_heartbeat_at timestamptz, _lease interval, _now timestamptz)
    returns timestamptz
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return greatest(_heartbeat_at + _lease, coalesce(
        (select min(greatest(least(w.healthy_since, _now) + _lease / 2,
                             _heartbeat_at + (_lease + w.lease_timeout) / 2))
         from peers.peer w
         where w.heartbeat_at between _now - w.lease_timeout / 2 and _now),
        _now + _lease / 2
    ));
end
$$;

-- First declares those peers lost whose leases have ended (_lost_at). Then takes the leases of all lost peers.
create or replace function peers.reclaim(peer_id uuid, max_tasks integer default 1000)
returns table (
    task_id bigint, kind text, attempt smallint, token uuid, lost_peer_id uuid, host text, queue text, outcome text
)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _most_rounds constant integer := 10;  -- each task may be free while a row that its outcome locks is not
    _now timestamptz := peers.now();
    _lost record;
    _recorded bigint[];
    _left integer := reclaim.max_tasks;
    _busy bigint[] := '{}';
begin
    perform peers._require_read_committed();
    perform peers._correct_future_heartbeats(_now);
    if not exists (select from peers.peer p where p.id = reclaim.peer_id and peers._is_alive(p, _now)) then
        return;
    end if;
    update peers.peer p set lost_at = _now, lost_because = 'stopped sending heartbeats'
    where p.id = any (array(
        select e.id from peers.peer e
        where e.lost_at is null and e.heartbeat_at + e.lease_timeout <= _now
          and peers._lost_at(e.heartbeat_at, e.lease_timeout, _now) <= _now
        order by e.id for update skip locked
    ));

    for _round in 1 .. _most_rounds loop
        select * into _lost from peers._lock_lost_attempts(_busy, _left);
        exit when _lost.task_ids is null;
        _recorded := peers._record_lost(_lost.peer_ids, _lost.task_ids, _lost.tokens);
        return query
            select l.task_id, t.kind, l.attempt, l.token, l.peer_id, p.host, t.queue,
                   case when t.state in ('dead', 'cancelled') then t.state::text else 'retried' end
            from unnest(_lost.peer_ids, _lost.task_ids, _lost.attempts, _lost.tokens)
                l(peer_id, task_id, attempt, token)
            cross join lateral (select t.* from peers.task t where t.id = l.task_id offset 0) t
            left join peers.peer p on p.id = l.peer_id
            where l.task_id = any (_recorded)
            order by l.task_id;
        exit when cardinality(_lost.task_ids) < _left;
        _left := _left - cardinality(_recorded);
        exit when _left = 0;
        _busy := _busy || array(select unnest(_lost.task_ids) except select unnest(_recorded));
    end loop;
    perform peers._recount_leases(array(
        select l.token from peers.lease l
        where not exists (select from peers.peer p where p.id = l.peer_id and p.lost_at is null)
    ));
end
$$;

-- Records running tasks of lost peers as failures of type lost. Returns the tasks for which it did.
create or replace function peers._record_lost(_peer_ids uuid[], _task_ids bigint[], _tokens uuid[]) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _recorded bigint[] := '{}';
    _of_peer record;
begin
    for _of_peer in
        select l.peer_id, array_agg(l.task_id) as task_ids, array_agg(l.token) as tokens,
               array_agg(jsonb_build_object(
                   'error_type', 'lost', 'retry_in', 0,
                   'error_message', 'peer ' || l.peer_id || ' on host ' || coalesce(p.host, '(unknown)')
                       || ' ' || coalesce(p.lost_because, 'left') || ' while it held this task')) as reports
        from unnest(_peer_ids, _task_ids, _tokens) l(peer_id, task_id, token)
        left join peers.peer p on p.id = l.peer_id
        group by l.peer_id
    loop
        _recorded := _recorded || peers._record_without_waiting(
            _of_peer.peer_id, _of_peer.task_ids, _of_peer.tokens, 'fail', _of_peer.reports, true
        );
    end loop;
    return _recorded;
end
$$;

comment on function peers.reclaim is
    'Takes back the leases of lost peers: of those that were declared lost, and of those whose lease has ended. Each '
    'is recorded as a failure of type lost, and the task is ready again at once if it has attempts left. After an '
    'outage of the database, peers have half a lease_timeout to send a heartbeat before they are lost. Returns these '
    'attempts; outcome says what became of the task: retried, dead or cancelled.';

create or replace function peers.next_reclaim(peer_id uuid) returns double precision
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _busy_again constant double precision := 1;  -- a lease of a lost peer whose task another session has locked
    _now timestamptz := peers.now();
begin
    return case
        when exists (
            select from peers.lease l
            where not exists (select from peers.peer p where p.id = l.peer_id and p.lost_at is null)
        ) then _busy_again
        else (
            select greatest(extract(epoch from min(peers._lost_at(f.heartbeat_at, f.lease_timeout, _now)) - _now), 0)
                   ::double precision
            from (
                select p.lease_timeout, min(p.heartbeat_at) as heartbeat_at from peers.peer p
                where p.lost_at is null and p.id <> next_reclaim.peer_id
                group by p.lease_timeout
            ) f
            having count(*) > 0
        )
    end;
end
$$;

comment on function peers.next_reclaim is
    'Returns in how many seconds peers.reclaim can find something if no peer sends a heartbeat before. Null: there is '
    'no other peer.';
