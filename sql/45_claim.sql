-- peers.claim: moves tasks from the table ready to a lease.

do $$
begin
    create type peers.claim_call as (
        peer_id uuid, queue text, token uuid, claimed_at timestamptz, any_graph_paused boolean, until timestamptz
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.claim_call is
    'One call of peers.claim. any_graph_paused: whether it must look at the graphs of tasks. until: when it gives up '
    'looking at rows that it cannot claim.';

do $$
begin
    create type peers.claim_tasks as (
        ids bigint[], attempts smallint[], kinds text[], priorities smallint[], positions bigint[],
        timeouts double precision[], args text[], ready_at timestamptz[]
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.claim_tasks is
    'Tasks that a claim has started, sorted by priority and position. One element of each array is one task. kinds and '
    'priorities may have a single element that stands for all tasks.';

-- Reads the args of the tasks that have none in _args yet, one task at a time, because each may be large. Returns null
-- if it finds args that exceed 1 MiB, or if all together exceed 16 MiB. It does not measure args of up to 16 kB before
-- it reads them. Only an INSERT without triggers can produce args that exceed 1 MiB, and then these are up to 180 MB.
create or replace function peers._add_large_args(_ids bigint[], _args text[]) returns text[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _total bigint := pg_column_size(_args);
    _text text;
begin
    for _n in 1..cardinality(_ids) loop
        continue when _args[_n] is not null;
        select case
                   when pg_column_size(t.args #> '{}') <= 16384 or peers._text_size(t.args) <= 1048576
                       then t.args::text
               end
        into _text
        from peers.task t where t.id = _ids[_n];
        _total := _total + octet_length(_text);
        if _text is null or _total > 16777216 then
            return null;
        end if;
        _args[_n] := _text;
    end loop;
    return _args;
end
$$;

-- Claims the first tasks of ranges, all or none. The usual case is that all rows are valid and no other session has one
-- of their tasks locked, so it does not examine or lock the tasks first: that would cost a quarter of the claim.
-- finished: the ranges have no more tasks that can be claimed now, or it has as many as it wanted.
--
-- What is the same for all tasks is not returned for each of them: every column costs each task some CPU time.
create or replace function peers._claim_at_once(
    _call peers.claim_call, _ranges peers.claim_range[], _wanted integer,
    out tasks peers.claim_tasks, out finished boolean
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '5ms'
as $$
declare
    _several_kinds constant boolean := _ranges[1].kind <> _ranges[cardinality(_ranges)].kind;
    _uniform boolean;  -- all rows have one kind and one priority
    _spots tid[];
    _ids bigint[];
    _kinds text[];
    _priorities smallint[];
    _positions bigint[];
    _ready_at timestamptz[];
    _peer_locked boolean;
begin
    finished := true;
    if _several_kinds then
        select p.planned, p.exhaustive into _ranges, finished from peers._plan_claim(_call.queue, _ranges, _wanted) p;
    end if;
    -- Without the lock on its peer, a claim at the same moment as a reclaim would leave a lease without a peer. A
    -- heartbeat does not wait for the lock. If another session has the peer's row locked, the claim takes nothing.
    select array_agg(r.spot), array_agg(r.task_id), array_agg(r.kind) filter (where _several_kinds),
           array_agg(r.priority), array_agg(r.position), array_agg(r.ready_at),
           case when count(*) > 0 then exists (
               select from peers.peer p
               where p.id = _call.peer_id and p.lost_at is null and p.heartbeat_at + p.lease_timeout > _call.claimed_at
               for key share skip locked)
           end
    into _spots, _ids, _kinds, _priorities, _positions, _ready_at, _peer_locked
    from (
        select r.spot, r.task_id, p.kind, r.priority, r.position, r.ready_at
        from unnest(_ranges) p
        cross join lateral (
            select r.ctid as spot, r.task_id, r.priority, r.position, r.ready_at
            from peers.ready r
            where r.queue = _call.queue and r.kind = p.kind
              and (r.priority, r.position) > (p.after_priority, p.after_position)
              and (r.priority, r.position) <= (p.to_priority, p.to_position)
            order by r.priority, r.position
            limit coalesce(p.share, _wanted)
            for update of r skip locked
        ) r
        limit _wanted
    ) r;
    if _peer_locked is not true then
        return;
    end if;
    _kinds := coalesce(_kinds, array[_ranges[1].kind]);
    _uniform := _kinds[1] = all (_kinds) and _priorities[1] = all (_priorities);

    with started as (
        update peers.task t
        set state = 'running', attempt = t.attempt + 1, started_at = _call.claimed_at, token = _call.token
        where t.id = any (_ids) and t.state = 'ready' and t.queue = _call.queue
          and (not _uniform or t.priority = _priorities[1] and t.kind = _kinds[1])
          and (not _call.any_graph_paused or t.graph_id is null or not exists (
                  select from peers.graph g where g.id = t.graph_id and g.paused_at is not null))
        returning t.id, t.attempt, t.timeout,
                  case when not _uniform then t.kind end as kind,
                  case when not _uniform then t.priority end as priority,
                  case
                      when pg_column_size(t.args) <= 2048 and pg_column_compression(t.args) is null
                      then t.args::text
                  end as args
    ), dropped as (
        delete from peers.ready r where r.ctid = any (_spots)
    )
    select array_agg(s.id), array_agg(s.attempt), array_agg(s.kind) filter (where not _uniform),
           array_agg(s.priority) filter (where not _uniform), _positions, array_agg(date_part('epoch', s.timeout)),
           array_agg(s.args), _ready_at
    into tasks
    from started s;
    if cardinality(tasks.ids) is distinct from cardinality(_ids) then
        raise exception using errcode = 'PE999';
    end if;
    if array_position(tasks.args, null) is not null then
        tasks.args := peers._add_large_args(tasks.ids, tasks.args);
    end if;
    if tasks.args is null or pg_column_size(tasks.args) > 16777216
       or pg_column_size(tasks.args) > 1048576
          and exists (select from unnest(tasks.args) a(args) where octet_length(a.args) > 1048576) then
        raise exception using errcode = 'PE999';
    end if;

    -- the UPDATE returns the tasks by id
    if tasks.ids <> _ids or not _uniform then
        select array_agg(r.task_id), array_agg(r.kind), array_agg(r.priority), array_agg(r.position),
               array_agg(r.ready_at)
        into _ids, _kinds, _priorities, _positions, _ready_at
        from (
            select r.task_id, coalesce(r.kind, _kinds[1]) as kind, r.priority, r.position, r.ready_at
            from unnest(_ids, _kinds, _priorities, _positions, _ready_at) r(task_id, kind, priority, position, ready_at)
            order by r.task_id
        ) r;
        if tasks.ids <> _ids or tasks.kinds <> _kinds or tasks.priorities <> _priorities then
            raise exception using errcode = 'PE999';
        end if;
        select array_agg(t.id), array_agg(t.attempt), array_agg(t.kind), array_agg(t.priority),
               array_agg(t.position), array_agg(t.timeout), array_agg(t.args), array_agg(t.ready_at)
        into tasks
        from (
            select t.*
            from unnest(tasks.ids, tasks.attempts, _kinds, _priorities, _positions, tasks.timeouts, tasks.args,
                        _ready_at)
                 t(id, attempt, kind, priority, position, timeout, args, ready_at)
            order by t.priority, t.position
        ) t;
    end if;
    if _uniform then
        tasks.kinds := _kinds[:1];
        tasks.priorities := _priorities[:1];
    end if;
    finished := finished or cardinality(_ids) = _wanted;
exception when others then
    perform peers._raise_if_fatal(sqlstate, sqlerrm);
    tasks := null;
    finished := false;
end
$$;

-- Stores where this claim has ended, for other claims, if it got all that it wanted and all tasks have one kind and
-- priority. It does not overwrite the place of a later claim. A claim that got less clears the place, so that the
-- others begin where their own peers' last claims ended.
create or replace function peers._share_claim(_queue text, _tasks peers.claim_tasks, _wanted integer) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _place constant bigint := coalesce(pg_sequence_last_value('peers.claim_place'), 0);
    _tag bigint;
    _own bigint := 0;
begin
    if cardinality(_tasks.ids) = _wanted then
        if _tasks.kinds[1] <> any (_tasks.kinds) or _tasks.priorities[1] <> any (_tasks.priorities) then
            return;
        end if;
        _tag := peers._claim_tag(_queue, _tasks.kinds[1], _tasks.priorities[1]);
        _own := (_tag << 40) | least(_tasks.positions[_wanted], 1099511627775);
    end if;
    if _place <> _own and not (_own > 0 and _place >> 40 = _tag and _place > _own) then
        perform setval('peers.claim_place', _own);
    end if;
end
$$;

-- Leases up to max_tasks ready tasks of one queue, of the kinds that the peer can run, by priority and then in the
-- order in which they became ready.
--
-- Usually _claim_at_once does it. If it meets an obstacle, such as a stale row or a locked task, _claim_carefully goes
-- on. A claim that gets less than it wants also looks before the ranges. If nothing is left there, the next claim reads
-- from the start at once, because one pass over everything costs less than two. If dead index entries or locked tasks
-- make the look slow, the next look waits ten times as long as this one took. If a task was refused, it waits a second.
create or replace function peers.claim(
    peer_id uuid, queue text, max_tasks integer, inout resume peers.claim_resume default null,
    out token uuid, out task_ids bigint[], out attempts smallint[], out kinds text[], out priorities smallint[],
    out timeouts double precision[], out args text, out more boolean, out limited boolean,
    out ready_at timestamptz[], out claimed_at timestamptz
)
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
    _large constant integer := 100;  -- claims of this many tasks or more share where they read
    _began constant timestamptz := clock_timestamp();
    _look_began timestamptz;
    _peer record;
    _kinds text[];
    _limited_kinds bigint;
    _call peers.claim_call;
    _ranges peers.claim_range[];
    _unread peers.claim_range[];
    _shared peers.claim_range[];
    _before peers.claim_range[];
    _pass record;
    _tasks peers.claim_tasks;
    _refused integer := 0;
    _all_claimed boolean := false;  -- there is no row left in the ranges or before them
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        perform peers._require_read_committed();
    end if;
    if max_tasks is null or max_tasks not between 1 and 10000 then
        raise exception 'max_tasks must be 1 to 10000, not %', coalesce(max_tasks::text, 'null')
            using errcode = 'PE009';
    end if;
    -- without a lock, so that a claim that finds nothing writes nothing
    select p.kinds, exists (select from peers.paused_queue q where q.queue = claim.queue) as queue_paused,
           exists (select from peers.limit) as any_limit,
           row(p.id, claim.queue, gen_random_uuid(), n.now,
               exists (select from peers.graph g where g.paused_at is not null), _began + interval '100 ms'
           )::peers.claim_call as call
    into _peer
    -- as peers.now() does it, without the cost of a call
    from (select clock_timestamp() + coalesce((select c.shift from peers.clock c), '0') as now offset 0) n
    join peers.peer p on p.id = claim.peer_id and p.lost_at is null and p.heartbeat_at + p.lease_timeout > n.now;
    if not found then
        raise exception 'peer % is unknown, or its heartbeat has expired', claim.peer_id
            using errcode = 'PE010', hint = 'Stop its handlers, then join again.';
    end if;
    _call := _peer.call;
    more := false;
    _kinds := _peer.kinds;
    if _peer.any_limit then
        select coalesce(array_agg(k.kind) filter (where not l.limited), '{}'),
               hashtextextended(string_agg(k.kind, E'\n' order by k.kind) filter (where l.limited), 0)
        into _kinds, _limited_kinds
        from unnest(_peer.kinds) k(kind)
        cross join lateral (
            select exists (
                select from peers.limit l where l.kind = k.kind or l.queue = claim.queue) as limited
        ) l;
    end if;
    limited := _limited_kinds is not null;

    if resume.peer_id is distinct from claim.peer_id or resume.limited_kinds is distinct from _limited_kinds then
        resume := row(claim.peer_id, peers._all_ranges(_kinds), null, _limited_kinds);
    end if;
    _unread := resume.ranges;
    _ranges := _unread;
    if (_began <= resume.look_at + interval '10 s') is not true then
        _ranges := peers._all_ranges(_kinds);
        _look_began := _began;
    end if;
    if not _peer.queue_paused and _ranges <> '{}' then
        if max_tasks >= _large and _look_began is null then
            _shared := peers._skip_claimed(claim.queue, _ranges, max_tasks);
        end if;
        _pass := peers._claim_at_once(_call, coalesce(_shared, _ranges), max_tasks);
        _tasks := _pass.tasks;
        if _tasks.ids is not null then
            _unread := peers._ranges_after(_unread, _tasks.kinds, _tasks.priorities, _tasks.positions);
        end if;
        if max_tasks >= _large
           and (cardinality(_tasks.ids) = max_tasks or pg_sequence_last_value('peers.claim_place') > 0) then
            perform peers._share_claim(claim.queue, _tasks, max_tasks);
        end if;
        if not _pass.finished or _shared is not null and coalesce(cardinality(_tasks.ids), 0) < max_tasks then
            _pass := peers._claim_carefully(_call, _ranges, max_tasks, _tasks, _unread);
            _tasks := _pass.tasks;
            _unread := _pass.unread;
            _refused := _pass.refused;
            more := _pass.more;
        else
            _all_claimed := _look_began is not null;
        end if;
        if _look_began is null and not more and coalesce(cardinality(_tasks.ids), 0) < max_tasks
           and clock_timestamp() >= resume.look_at then
            _look_began := clock_timestamp();
            _before := peers._ranges_before(_ranges);
            _all_claimed := peers._read_ready(claim.queue, _before, 1) = '{}';
            if not _all_claimed then
                _pass := peers._claim_carefully(_call, _before, max_tasks, _tasks, _unread);
                _tasks := _pass.tasks;
                _refused := _refused + _pass.refused;
                more := _pass.more;
            end if;
            if clock_timestamp() > _look_began + interval '5 ms' then
                _look_began := clock_timestamp() + 10 * (clock_timestamp() - _look_began);
            end if;
        end if;
    end if;
    if _refused > 0 then
        _look_began := coalesce(_look_began, resume.look_at) + interval '1 s';
    elsif _all_claimed and coalesce(cardinality(_tasks.ids), 0) < max_tasks
          and clock_timestamp() <= _began + interval '5 ms' then
        _look_began := _began - interval '10 s';  -- the next claim reads from the start
    end if;
    resume := row(claim.peer_id, _unread, coalesce(_look_began, resume.look_at), _limited_kinds);

    if _tasks.ids is null then
        task_ids := '{}';
        attempts := '{}';
        kinds := '{}';
        priorities := '{}';
        args := '[]';
        return;
    end if;
    insert into peers.lease (token, peer_id, task_ids, open, claimed_at)
    values (_call.token, claim.peer_id, _tasks.ids, cardinality(_tasks.ids), _call.claimed_at);
    token := _call.token;
    task_ids := _tasks.ids;
    attempts := _tasks.attempts;
    kinds := _tasks.kinds;
    priorities := _tasks.priorities;
    if cardinality(task_ids) > 1 then
        attempts := case when attempts[1] = all (attempts) then attempts[:1] else attempts end;
        kinds := case when kinds[1] = all (kinds) then kinds[:1] else kinds end;
        priorities := case when priorities[1] = all (priorities) then priorities[:1] else priorities end;
    end if;
    timeouts := case when array_remove(_tasks.timeouts, null) <> '{}' then _tasks.timeouts end;
    args := '[' || array_to_string(_tasks.args, ',') || ']';
    ready_at := _tasks.ready_at;
    claimed_at := _began;
end
$$;

comment on function peers.claim is
    'Leases up to max_tasks ready tasks of a queue to a peer, under one token. Returns one row; token is null if there '
    'is nothing that the peer can run. The arrays have one element for each task, by priority and position. attempts, '
    'kinds and priorities have a single element if it is the same for all tasks. timeouts (seconds) is null if no task '
    'has a timeout of its own. resume: pass what the last call for this queue returned, unchanged; it saves reading '
    'what was claimed before. Null: read from the start. more: the call spent its limits (10,000 rows, 0.1 s or 16 MiB '
    'of args); call again at once. limited: some kinds of the peer are under limits in this queue; call '
    'peers.claim_limited, which claims these as well. ready_at: since when each task was ready. claimed_at: the time '
    'of the claim, by the same clock.';
