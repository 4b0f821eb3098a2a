-- peers.claim_limited: claims limited tasks for free slots, and other tasks as peers.claim does.

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

-- Returns the columns of claim_limited that describe the tasks of a lease, without what is the same for all of them.
create or replace function peers._lease_reply(
    _token uuid, _tasks peers.claim_tasks,
    out token uuid, out task_ids bigint[], out attempts smallint[], out kinds text[], out priorities smallint[],
    out timeouts double precision[], out args text
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
#variable_conflict use_variable
begin
    token := _token;
    task_ids := coalesce(_tasks.ids, '{}');
    attempts := coalesce(_tasks.attempts, '{}');
    kinds := coalesce(_tasks.kinds[:1], '{}');
    priorities := coalesce(_tasks.priorities, '{}');
    attempts := case when attempts[1] = all (attempts) then attempts[:1] else attempts end;
    priorities := case when priorities[1] = all (priorities) then priorities[:1] else priorities end;
    timeouts := case when array_remove(_tasks.timeouts, null) <> '{}' then _tasks.timeouts end;
    args := '[' || array_to_string(coalesce(_tasks.args, '{}'), ',') || ']';
end
$$;

-- Returns the claim of a peer that is alive, the kinds that it can run, and whether the queue is paused.
create or replace function peers._begin_claim(
    _peer_id uuid, _queue text, out call peers.claim_call, out kinds text[], out queue_paused boolean
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
#variable_conflict use_column
declare
    _until constant timestamptz := clock_timestamp() + interval '100 ms';
    _peer record;
begin
    select p.kinds, exists (select from peers.paused_queue q where q.queue = _queue) as queue_paused,
           row(p.id, _queue, gen_random_uuid(), n.now,
               exists (select from peers.graph g where g.paused_at is not null), _until)::peers.claim_call as call
    into _peer
    from peers.now() n(now)
    join peers.peer p on p.id = _peer_id and p.lost_at is null and p.heartbeat_at + p.lease_timeout > n.now;
    if not found then
        raise exception 'peer % is unknown, or its heartbeat has expired', _peer_id
            using errcode = 'PE010', hint = 'Stop its handlers, then join again.';
    end if;
    call := _peer.call;
    kinds := _peer.kinds;
    queue_paused := _peer.queue_paused;
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
-- priority, then by position, if its limits have room.
create or replace function peers._claim_under_limits(
    _call peers.claim_call, _rules peers.limit_rules[], _unlimited_kinds text[], _resume peers.claim_resume,
    _free_slots integer, _tasks_per_slot jsonb, _try bigint[],
    out leases peers.limited_lease[], out waits text, out opens_at timestamptz
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
    _unmoved := peers._move_ready(_call.queue, array(select r.kind from unnest(_rules) r));
    _look := peers._find_in_all_kinds(_call, _rules, _wanted, _try);
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
    waits := case
        when _started.unfinished then 'more'
        when _shared.busy then 'busy'
        when _shared.slots_short then 'slots'
        when _shared.keys = '{}' then 'more'  -- another claim was faster, and other keys were not looked at
        when _started.fewer then coalesce(waits, 'full')
        else waits
    end;
end
$$;

create or replace function peers.claim_limited(
    peer_id uuid, queue text, max_tasks integer, free_slots integer, tasks_per_slot jsonb default '{}',
    inout resume peers.claim_resume default null, try_keys bigint[] default '{}',
    out token uuid, out task_ids bigint[], out attempts smallint[], out kinds text[], out priorities smallint[],
    out timeouts double precision[], out args text, out more boolean, out limited boolean,
    out most_running integer, out start_in double precision, out waits text, out opens_in double precision,
    out key bigint
) returns setof record
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
    _resume constant peers.claim_resume := resume;
    _peer record;
    _rules peers.limit_rules[];
    _unlimited_kinds text[];
    _found record;
    _lease peers.limited_lease;
    _taken integer := 0;
    _waits text;
    _opens_at timestamptz;
    _result record;
begin
    perform peers._require_read_committed();
    if max_tasks is null or max_tasks not between 1 and 10000 or free_slots < 0 then
        raise exception 'max_tasks must be 1 to 10000, not %, and free_slots null or 0 or more, not %',
            coalesce(max_tasks::text, 'null'), coalesce(free_slots::text, 'null') using errcode = 'PE009';
    end if;
    _peer := peers._begin_claim(claim_limited.peer_id, claim_limited.queue);
    _rules := peers._limit_rules(claim_limited.queue, _peer.kinds, (_peer.call).claimed_at);
    _unlimited_kinds := array(
        select k.kind from unnest(_peer.kinds) k(kind)
        where k.kind <> all (array(select r.kind from unnest(_rules) r))
    );
    limited := _rules <> '{}';
    if limited and free_slots is not null and not _peer.queue_paused then
        _found := peers._claim_under_limits(
            _peer.call, _rules, _unlimited_kinds, _resume, claim_limited.free_slots, claim_limited.tasks_per_slot,
            coalesce(claim_limited.try_keys, '{}')
        );
        _waits := _found.waits;
        _opens_at := _found.opens_at;
        resume := null;
        more := false;
        foreach _lease in array _found.leases loop
            select l.* into token, task_ids, attempts, kinds, priorities, timeouts, args
            from peers._lease_reply(_lease.token, _lease.tasks) l;
            most_running := case when _lease.share < cardinality(task_ids) then _lease.share end;
            start_in := extract(epoch from _lease.start_at - peers.now());
            key := hash_array_extended(_lease.limit_keys, 0);
            _taken := _taken + cardinality(task_ids);
            return next;
        end loop;
    end if;

    select l.* into token, task_ids, attempts, kinds, priorities, timeouts, args from peers._lease_reply(null, null) l;
    resume := case when _unlimited_kinds <> '{}' then _resume end;
    more := false;
    if _unlimited_kinds <> '{}' and max_tasks > _taken then
        _result := peers.claim(claim_limited.peer_id, claim_limited.queue, max_tasks - _taken, _resume);
        token := _result.token;
        task_ids := _result.task_ids;
        attempts := _result.attempts;
        kinds := _result.kinds;
        priorities := _result.priorities;
        timeouts := _result.timeouts;
        args := _result.args;
        resume := _result.resume;
        more := _result.more;
    end if;
    most_running := null;
    start_in := null;
    key := null;
    waits := _waits;
    opens_in := case when _opens_at is not null then
        greatest(extract(epoch from _opens_at - (_peer.call).claimed_at), 0)
    end;
    return next;
end
$$;

comment on function peers.claim_limited is
    'Leases tasks as peers.claim does, for a peer whose kinds are under limits. Returns one row for each lease: those '
    'of limited tasks, then one for unlimited tasks (its token is null if there are none). free_slots: how many tasks '
    'can start at once; limited tasks are only claimed for these. 0: it only tells whether some wait. Null: it does '
    'not look for them. tasks_per_slot: how many tasks a slot runs one after the other, of kinds whose tasks are '
    'short, such as {"thumbs.make": 20}. most_running: the peer must run at most so many of this lease''s tasks at '
    'once; null: all. start_in: the tasks must not start before so many seconds; one that cannot start within 0.13 '
    'seconds after the call must be released. key: stands for the limits and keys of the lease''s tasks. When some of '
    'them have ended, pass it in try_keys: the claim looks there first. The last row also tells about the tasks that '
    'wait. waits: full (each key has as many tasks as it may), busy (call again in some milliseconds), more (call '
    'again soon), slots (tasks that may start come before the next unlimited one, and no slot was free). opens_in: in '
    'how many seconds a limit opens. limited: whether to call claim_limited again; false: call peers.claim.';
