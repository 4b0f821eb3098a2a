-- Peers on one host watch each other's processes. When a peer is killed, another one sees that the process and its
-- workers are gone, and declares it lost at once. Peers on other hosts have to wait until its lease ends.

create or replace function peers.siblings(peer_id uuid)
returns table (sibling_id uuid, pid integer, process_start bigint, liveness_lock text)
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return query
    select s.id, s.pid, s.process_start, s.liveness_lock
    from peers.peer p
    join peers.peer s on s.host_id = p.host_id and s.id <> p.id and s.lost_at is null
    where p.id = siblings.peer_id and p.lost_at is null;
end
$$;

comment on function peers.siblings is
    'Returns the other peers on the host of this one that are not lost, with what it needs to recognize their '
    'processes.';

-- Releases tasks of a lost peer. An element of the arrays is the token of a lease, the index of a task in its claim
-- (from 0), and the number of tasks from there on. What is not a running task of a lease of this peer is ignored: the
-- arrays come from a file. Returns how many tasks it released.
create or replace function peers._release_unstarted(
    _peer_id uuid, _tokens uuid[], _firsts integer[], _numbers integer[]
) returns integer
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most constant integer := 10000;  -- tasks of a claim
    _task_ids bigint[];
    _task_tokens uuid[];
begin
    select array_agg(i.task_id), array_agg(l.token) into _task_ids, _task_tokens
    from unnest(_tokens, _firsts, _numbers) u(token, first, number)
    cross join lateral (
        select l.token, l.task_ids from peers.lease l where l.token = u.token and l.peer_id = _peer_id offset 0
    ) l
    cross join lateral unnest(l.task_ids[u.first + 1 : u.first + u.number]) i(task_id)
    where u.first between 0 and _most and u.number between 1 and _most;
    if _task_ids is null then
        return 0;
    end if;
    return cardinality(
        peers._record_without_waiting(_peer_id, _task_ids, _task_tokens, 'release', null, true)
    );
end
$$;

create or replace function peers.declare_lost(
    peer_id uuid, lost_peer_ids uuid[], unstarted_tokens uuid[] default '{}', unstarted_firsts integer[] default '{}',
    unstarted_numbers integer[] default '{}'
) returns table (lost_peer_id uuid, host text, released integer)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _declared uuid[];
begin
    perform peers._require_read_committed();
    -- A claim keeps its peer's row locked. The server may still finish one for a process that is gone.
    with declared as (
        update peers.peer p
        set lost_at = peers.now(), lost_because = 'ended (peer ' || declare_lost.peer_id || ' on the same host saw it)'
        where p.id = any (array(
            select s.id from peers.peer s
            where s.id = any (declare_lost.lost_peer_ids) and s.id <> declare_lost.peer_id and s.lost_at is null
              and s.host_id = (
                  select w.host_id from peers.peer w where w.id = declare_lost.peer_id and w.lost_at is null
              )
            order by s.id for update skip locked
        ))
        returning p.id
    )
    select array_agg(d.id) into _declared from declared d;
    for lost_peer_id, host in
        select l.id, p.host
        from unnest(declare_lost.lost_peer_ids) l(id) left join peers.peer p on p.id = l.id
        where p.id is null or p.lost_at is not null
        order by l.id
    loop
        released := 0;
        -- in the same transaction: as soon as others see that the peer is lost, they reclaim what it holds
        if lost_peer_id = any (_declared) then
            released := peers._release_unstarted(lost_peer_id, declare_lost.unstarted_tokens,
                                                 declare_lost.unstarted_firsts, declare_lost.unstarted_numbers);
        end if;
        return next;
    end loop;
end
$$;

comment on function peers.declare_lost is
    'Declares peers lost whose processes and workers have ended, as the calling peer knows because it runs on the same '
    'host. unstarted_tokens, unstarted_firsts, unstarted_numbers: tasks of their claims that no handler has started: '
    'token, index of the first task (from 0) and how many. These are released, and their attempts do not count. '
    'peers.reclaim then takes the other tasks. Returns the peers that are lost now, with how many tasks were released. '
    'Call it again for the others: a session has their row locked, or they are not on the caller''s host.';
