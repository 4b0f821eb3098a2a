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

create or replace function peers.declare_lost(peer_id uuid, lost_peer_ids uuid[]) returns uuid[]
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform peers._require_read_committed();
    -- A claim keeps its peer's row locked. The server may still finish one for a process that is gone.
    update peers.peer p
    set lost_at = peers.now(), lost_because = 'ended (peer ' || declare_lost.peer_id || ' on the same host saw it)'
    where p.id = any (array(
        select s.id from peers.peer s
        where s.id = any (declare_lost.lost_peer_ids) and s.id <> declare_lost.peer_id and s.lost_at is null
          and s.host_id = (
              select w.host_id from peers.peer w where w.id = declare_lost.peer_id and w.lost_at is null
          )
        order by s.id for update skip locked
    ));
    return array(
        select l.id from unnest(declare_lost.lost_peer_ids) l(id)
        where not exists (select from peers.peer p where p.id = l.id and p.lost_at is null)
    );
end
$$;

comment on function peers.declare_lost is
    'Declares peers lost whose processes and workers have ended, as the calling peer knows because it runs on the same '
    'host. peers.reclaim then takes their leases. Returns those that are lost now. Call it again for the others: a '
    'session has their row locked, or they are not on the caller''s host.';
