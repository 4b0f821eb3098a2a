-- How a claim finds, locks and starts limited tasks, and remembers where it ended.

-- Returns the first unlimited tasks of a queue, with which limited ones are compared.
create or replace function peers._unlimited_heads(
    _queue text, _kinds text[], _resume peers.claim_resume, _peer_id uuid, _wanted integer
) returns peers.claim_row[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _ranges peers.claim_range[] := _resume.ranges;
begin
    if _kinds = '{}' then
        return '{}';
    end if;
    if _resume.peer_id is distinct from _peer_id
       or exists (select from unnest(_ranges) r where r.kind <> all (_kinds)) then
        _ranges := peers._all_ranges(_kinds);
    end if;
    return peers._read_ready(_queue, (peers._plan_claim(_queue, _ranges, _wanted)).planned, _wanted);
end
$$;

-- Moves tasks that became ready again to where limited tasks wait. Returns whether there are more: too many for one
-- call, or another claim is moving them, and this one cannot see them before that has committed.
create or replace function peers._move_ready(_queue text, _kinds text[]) returns boolean
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most constant integer := 256;  -- the claim is short, and maintenance moves large backlogs
    _moved integer;
begin
    if exists (
        select from unnest(_kinds) k(kind)
        cross join lateral (select from peers.ready r where r.queue = _queue and r.kind = k.kind limit 1) r
    ) then
        _moved := peers._move_to_limited(_queue, _kinds, _most);
        return _moved = 0 or _moved >= _most;
    end if;
    return false;
end
$$;

-- Locks the peer's row, so that it cannot be declared lost until the claim has committed. Returns whether it could.
create or replace function peers._lock_live_peer(_peer_id uuid, _now timestamptz) returns boolean
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform from peers.peer p
    where p.id = _peer_id and p.lost_at is null and p.heartbeat_at + p.lease_timeout > _now
    for key share skip locked;
    return found;
end
$$;

-- Claims limited tasks for the free slots, and tells why others wait. A limited task goes before an unlimited one by
-- priority, then by position, if its limits have room. slots_left: it has claimed tasks for fewer slots than are free.
create or replace function peers._claim_under_limits(
    _call peers.claim_call, _rules peers.limit_rules[], _unlimited_kinds text[], _resume peers.claim_resume,
    _limited_resume peers.limited_resume, _free_slots integer, _tasks_per_slot jsonb, _try bigint[],
    out leases peers.limited_lease[], out waits text, out opens_at timestamptz, out slots_left boolean
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _wanted constant integer := greatest(_free_slots, 1);
    _unmoved boolean;
    _look record;
    _heads peers.claim_row[];
    _shared record;
    _started record;
begin
    leases := '{}';
    slots_left := _free_slots > 0;
    _unmoved := peers._move_ready(_call.queue, array(select r.kind from unnest(_rules) r));
    _look := peers._find_in_all_kinds(_call, _rules, _limited_resume, _wanted, _try);
    waits := case when _unmoved or not _look.complete then 'more' when _look.any_full then 'full' end;
    opens_at := _look.opens_at;
    if _look.keys = '{}' then
        return;
    end if;
    _heads := peers._unlimited_heads(_call.queue, _unlimited_kinds, _resume, _call.peer_id, _wanted);
    if _free_slots = 0 then
        if _heads = '{}' or exists (
            select from unnest(_look.keys) k where (k.priority, k.position) < (_heads[1].priority, _heads[1].position)
        ) then
            waits := 'slots';
        end if;
        return;
    end if;
    if not peers._lock_live_peer(_call.peer_id, _call.claimed_at) then
        return;
    end if;
    _shared := peers._share_locked(_call, _look.rules, _look.keys, _heads, _free_slots);
    _call.claimed_at := _shared.claimed_at;
    _started := peers._start_shared(_call, _look.rules, _shared.keys, _tasks_per_slot);
    leases := _started.leases;
    slots_left := (
        select coalesce(sum(least(l.share, cardinality((l.tasks).ids))), 0) from unnest(leases) l
    ) < _free_slots;
    waits := case
        when _started.unfinished then 'more'
        when _shared.busy then 'busy'
        when _shared.slots_short then 'slots'
        -- the keys that it found had less room than it seemed, or share a limit
        when _look.any_unseen and slots_left then 'more'
        when _shared.keys = '{}' then 'more'
        when _started.fewer then coalesce(waits, 'full')
        else waits
    end;
end
$$;

-- Claims limited tasks as _claim_under_limits does, and keeps the places of what it has claimed. If it leaves slots
-- free, there may be rows before these places: it looks for them, and waits says that another claim may find more.
create or replace function peers._claim_and_remember(
    _call peers.claim_call, _rules peers.limit_rules[], _unlimited_kinds text[], _resume peers.claim_resume,
    _free_slots integer, _tasks_per_slot jsonb, _try bigint[], inout limited_resume peers.limited_resume,
    out leases peers.limited_lease[], out waits text, out opens_at timestamptz
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _found record;
    _look record;
begin
    _found := peers._claim_under_limits(
        _call, _rules, _unlimited_kinds, _resume, limited_resume, _free_slots, _tasks_per_slot, _try
    );
    leases := _found.leases;
    waits := _found.waits;
    opens_at := _found.opens_at;
    limited_resume := peers._remember_places(limited_resume, _rules, leases);
    if limited_resume.kinds is null then
        return;
    end if;
    limited_resume.look_at := coalesce(limited_resume.look_at, clock_timestamp());
    if clock_timestamp() >= limited_resume.look_at
       + (case when _found.slots_left then '0' else interval '10 s' end) then
        _look := peers._look_before_places(_call.queue, _rules, limited_resume);
        limited_resume := _look._resume;
        if _look.moved and _found.slots_left then
            waits := 'more';
        end if;
    elsif _found.slots_left and leases = '{}' then
        waits := coalesce(waits, 'more');
    end if;
end
$$;
