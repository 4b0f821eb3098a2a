-- peers.claim_limited: claims limited tasks for free slots, and other tasks as peers.claim does.

-- Returns the columns of claim_limited that describe a lease, without what is the same for all of its tasks. Null: the
-- columns of a claim that brought nothing.
create or replace function peers._lease_reply(
    _lease peers.limited_lease,
    out token uuid, out task_ids bigint[], out attempts smallint[], out kinds text[], out priorities smallint[],
    out timeouts double precision[], out args text, out most_running integer, out start_in double precision,
    out key bigint, out ready_at timestamptz[]
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
#variable_conflict use_variable
declare
    _tasks constant peers.claim_tasks := _lease.tasks;
begin
    token := _lease.token;
    task_ids := coalesce(_tasks.ids, '{}');
    attempts := coalesce(_tasks.attempts, '{}');
    kinds := coalesce(_tasks.kinds[:1], '{}');
    priorities := coalesce(_tasks.priorities, '{}');
    attempts := case when attempts[1] = all (attempts) then attempts[:1] else attempts end;
    priorities := case when priorities[1] = all (priorities) then priorities[:1] else priorities end;
    timeouts := case when array_remove(_tasks.timeouts, null) <> '{}' then _tasks.timeouts end;
    args := '[' || array_to_string(coalesce(_tasks.args, '{}'), ',') || ']';
    most_running := case when _lease.share < cardinality(task_ids) then _lease.share end;
    start_in := case when _lease.start_at is not null then extract(epoch from _lease.start_at - peers.now()) end;
    key := hash_array_extended(_lease.limit_keys, 0);
    ready_at := _tasks.ready_at;
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

create or replace function peers._check_limited_claim(_max_tasks integer, _free_slots integer) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if _max_tasks is null or _max_tasks not between 1 and 10000 or _free_slots < 0 then
        raise exception 'max_tasks must be 1 to 10000, not %, and free_slots null or 0 or more, not %',
            coalesce(_max_tasks::text, 'null'), coalesce(_free_slots::text, 'null') using errcode = 'PE009';
    end if;
end
$$;

create or replace function peers.claim_limited(
    peer_id uuid, queue text, max_tasks integer, free_slots integer, tasks_per_slot jsonb default '{}',
    inout resume peers.claim_resume default null, try_keys bigint[] default '{}',
    inout limited_resume peers.limited_resume default null,
    out token uuid, out task_ids bigint[], out attempts smallint[], out kinds text[], out priorities smallint[],
    out timeouts double precision[], out args text, out more boolean, out limited boolean,
    out most_running integer, out start_in double precision, out waits text, out opens_in double precision,
    out key bigint, out ready_at timestamptz[], out claimed_at timestamptz
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
    _limited_resume peers.limited_resume := limited_resume;
    _peer record;
    _rules peers.limit_rules[];
    _unlimited_kinds text[];
    _found record;
    _lease peers.limited_lease;
    _taken integer := 0;
    _result record;
begin
    perform peers._require_read_committed();
    perform peers._check_limited_claim(max_tasks, free_slots);
    _peer := peers._begin_claim(claim_limited.peer_id, claim_limited.queue);
    _rules := peers._limit_rules(claim_limited.queue, _peer.kinds, (_peer.call).claimed_at);
    _unlimited_kinds := array(
        select k.kind from unnest(_peer.kinds) k(kind)
        where k.kind <> all (array(select r.kind from unnest(_rules) r))
    );
    limited := _rules <> '{}';
    resume := null;
    limited_resume := null;
    more := false;
    claimed_at := clock_timestamp();
    if limited and free_slots is not null and not _peer.queue_paused then
        _found := peers._claim_and_remember(
            _peer.call, _rules, _unlimited_kinds, _resume, claim_limited.free_slots, claim_limited.tasks_per_slot,
            coalesce(claim_limited.try_keys, '{}'), _limited_resume
        );
        foreach _lease in array _found.leases loop
            select l.*
            into token, task_ids, attempts, kinds, priorities, timeouts, args, most_running, start_in, key, ready_at
            from peers._lease_reply(_lease) l;
            _taken := _taken + cardinality(task_ids);
            return next;
        end loop;
        _limited_resume := _found.limited_resume;
        waits := _found.waits;
        opens_in := case when _found.opens_at is not null then
            -- each extracted for itself: before Postgres 17 there is no difference to infinity
            greatest(extract(epoch from _found.opens_at) - extract(epoch from (_peer.call).claimed_at), 0)
        end;
    end if;

    select l.*
    into token, task_ids, attempts, kinds, priorities, timeouts, args, most_running, start_in, key, ready_at
    from peers._lease_reply(null) l;
    if _unlimited_kinds <> '{}' then
        resume := _resume;
    end if;
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
        ready_at := _result.ready_at;
    end if;
    limited_resume := case when limited then _limited_resume end;
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
    'seconds after the call must be released. key: a hash of the limits and keys of the lease''s tasks. When some of '
    'them have ended, pass it in try_keys: the claim looks there first. limited_resume: pass what the last row of the '
    'last call for this queue returned, as with resume; it saves reading the rows of tasks that have started, which '
    'take long while a session holds an old snapshot. The last row also tells about the tasks that '
    'wait. waits: full (each key has as many tasks as it may), busy (call again in some milliseconds), more (call '
    'again soon), slots (tasks that may start come before the next unlimited one, and no slot was free). opens_in: in '
    'how many seconds a limit opens. limited: whether to call claim_limited again; false: call peers.claim. '
    'ready_at and claimed_at: as in peers.claim.';
