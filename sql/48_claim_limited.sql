-- peers.claim_limited: claims limited tasks for free slots, and other tasks as peers.claim does.

do $$
begin
    create type peers.limited_lease as (token uuid, limit_keys bigint[], tasks peers.claim_tasks, share integer);
exception when duplicate_object then null;
end
$$;

comment on type peers.limited_lease is
    'Tasks with the same limits and keys that a claim has started. share: how many of them the peer runs at once.';

-- Tries to lock the keys of a task, until the end of the transaction. The first number of an advisory lock keeps these
-- locks apart from those of applications. The second one is half of the key's hash: two keys that share it exclude each
-- other for a moment.
create or replace function peers._try_lock_keys(_limit_keys bigint[]) returns boolean
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _space constant integer := 1886152051;  -- 'plim' and a digit
    _key bigint;
begin
    foreach _key in array _limit_keys loop
        if not pg_try_advisory_xact_lock(_space, (_key >> 32)::integer) then
            return false;
        end if;
    end loop;
    return true;
end
$$;

-- Waits a moment for the locks of a task's keys. Returns whether it got them.
create or replace function peers._wait_for_keys(_limit_keys bigint[]) returns boolean
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '10ms'
as $$
declare
    _space constant integer := 1886152051;  -- as in _try_lock_keys
    _key bigint;
begin
    foreach _key in array _limit_keys loop
        perform pg_advisory_xact_lock(_space, (_key >> 32)::integer);
    end loop;
    return true;
exception when lock_not_available then
    return false;
end
$$;

-- Orders keys: by turn, then by how few of their tasks run where a limit is fair, then by who waits longest. Locks them
-- in this order, up to _wanted, and returns those that it could lock. If it could lock none, it waits for the first
-- one: tasks that started together end together, and then each of their peers claims the next one.
create or replace function peers._lock_keys(_keys peers.limited_key[], _wanted integer) returns peers.limited_key[]
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _locked peers.limited_key[];
begin
    _keys := array(
        select row(k.rules, k.turn, k.rank, k.key, k.limit_keys, k.priority, k.position, k.room, k.running, k.used, 0)
                   ::peers.limited_key
        from unnest(_keys) k
        order by k.turn, k.running, k.used, k.position
    );
    _locked := array(select k from unnest(_keys) k where peers._try_lock_keys(k.limit_keys) limit _wanted);
    if _locked = '{}' and peers._wait_for_keys(_keys[1].limit_keys) then
        return _keys[:1];
    end if;
    return _locked;
end
$$;

-- Decides how many tasks of each key to start: one of each key, then a second one, and so on, while the key has room.
-- A key with more running tasks than another joins in when the other has as many, if they are of a fair limit. Keys
-- that share a limit share its room: _rooms has the room of each distinct limit key. _before: for each key, how many
-- unlimited tasks come before its first one; these need a slot, too.
create or replace function peers._share_slots(
    inout _keys peers.limited_key[], _limit_keys bigint[], _rooms integer[], _before integer[], _slots integer,
    out slots_short boolean
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _count constant integer := coalesce(cardinality(_keys), 0);
    _place integer;
    _first integer := 1;
    _last integer;
    _taken integer := 0;
    _level numeric;
    _next numeric;
    _progress boolean;
    _has_room boolean;
    _key peers.limited_key;
    _one bigint;
begin
    slots_short := false;
    while _first <= _count loop  -- the keys of one turn
        _last := _first;
        while _last < _count and _keys[_last + 1].turn = _keys[_first].turn loop
            _last := _last + 1;
        end loop;
        _level := (select min(k.running) from unnest(_keys[_first:_last]) k);
        loop
            _progress := false;
            _next := null;
            for _i in _first .. _last loop
                _key := _keys[_i];
                continue when _key.share >= _key.room;
                if _key.running + _key.share > _level then
                    _next := least(_next, _key.running + _key.share);
                    continue;
                end if;
                _has_room := true;
                foreach _one in array _key.limit_keys loop
                    if _rooms[array_position(_limit_keys, _one)] < 1 then
                        _has_room := false;
                    end if;
                end loop;
                continue when not _has_room;
                if _taken + _before[_i] >= _slots then
                    slots_short := true;
                    continue;
                end if;
                foreach _one in array _key.limit_keys loop
                    _place := array_position(_limit_keys, _one);
                    _rooms[_place] := _rooms[_place] - 1;
                end loop;
                _keys[_i].share := _key.share + 1;
                _taken := _taken + 1;
                _progress := true;
                _next := least(_next, _key.running + _key.share + 1);
            end loop;
            exit when _next is null or (not _progress and _next <= _level);
            _level := greatest(_next, _level);
            exit when _taken >= _slots and slots_short;
        end loop;
        _first := _last + 1;
    end loop;
end
$$;

-- Starts tasks of keys of one kind, _keys[i].share times _depth of each. The usual case is that all rows are valid and
-- no other session has one of their tasks locked. If not, it starts none and returns null.
create or replace function peers._start_keys_at_once(
    _call peers.claim_call, _rules peers.limit_rules, _keys peers.limited_key[], _depth integer
) returns peers.limited_lease[]
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '5ms'
as $$
declare
    _tokens constant uuid[] := array(select gen_random_uuid() from unnest(_keys));
    _single constant boolean := cardinality(_rules.seeds) = 1;
    _path constant text[] := string_to_array(_rules.paths[1], '.');
    _seed constant bigint := _rules.seeds[1];
    _hashes bigint[];
    _spots tid[];
    _ids bigint[];
    _priorities smallint[];
    _positions bigint[];
    _places integer[];
    _leases peers.limited_lease[];
    _started bigint;
    _plain boolean;
begin
    select array_agg(r.spot), array_agg(r.task_id), array_agg(r.priority), array_agg(r.position), array_agg(r.n)
    into _spots, _ids, _priorities, _positions, _places
    from (
        select r.spot, r.task_id, r.priority, r.position, k.n::integer as n
        from unnest(_keys) with ordinality k(
            rules, turn, rank, key, limit_keys, priority, "position", room, running, used, share, n)
        cross join lateral (
            select r.ctid as spot, r.task_id, r.priority, r.position
            from peers.ready_limited r
            where r.queue = _call.queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = k.rank
              and r.key = k.key
            order by r.priority, r.position
            limit k.share * _depth
            for update of r skip locked
        ) r
        order by r.task_id, r.position
    ) r;
    if _ids is null then
        return '{}';
    end if;
    _hashes := array(select case when _single then k.limit_keys[1] else k.key end from unnest(_keys) k);
    with started as (
        update peers.task t
        set state = 'running', attempt = t.attempt + 1, started_at = _call.claimed_at,
            token = _tokens[_places[width_bucket(t.id, _ids)]]
        where t.id = any (_ids) and t.state = 'ready' and t.queue = _call.queue and t.kind = _rules.kind
          and t.priority = _priorities[width_bucket(t.id, _ids)]
          and (not _call.any_graph_paused or t.graph_id is null or not exists (
                  select from peers.graph g where g.id = t.graph_id and g.paused_at is not null))
          and (not _rules.keyed or _hashes[_places[width_bucket(t.id, _ids)]] = case
                  when _single then hashtextextended(coalesce('=' || (t.args #>> _path), ''), _seed)
                  else peers._keys_hash(_rules, t.args)
              end)
        returning t.id, t.attempt, t.kind, t.priority, _positions[width_bucket(t.id, _ids)] as position, t.timeout,
                  _places[width_bucket(t.id, _ids)] as n,
                  case
                      when pg_column_size(t.args) <= 1000 and pg_column_compression(t.args) is null then t.args::text
                  end as args
    ), dropped as (
        delete from peers.ready_limited r where r.ctid = any (_spots)
    )
    select array_agg(row(_tokens[k.n], _keys[k.n].limit_keys, k.tasks, _keys[k.n].share)::peers.limited_lease),
           sum(k.started), bool_and(k.plain)
    into _leases, _started, _plain
    from (
        select s.n, count(*) as started, bool_and(s.args is not null) as plain,
               row(array_agg(s.id), array_agg(s.attempt), array_agg(s.kind), array_agg(s.priority),
                   array_agg(s.position), array_agg(date_part('epoch', s.timeout)), array_agg(s.args)
               )::peers.claim_tasks as tasks
        from (select s.* from started s order by s.n, s.priority, s.position) s
        group by s.n
    ) k;
    if _started is distinct from cardinality(_ids) or not _plain then
        raise exception using errcode = 'PE999';
    end if;
    return _leases;
exception when others then
    perform peers._raise_if_fatal(sqlstate, sqlerrm);
    return null;
end
$$;

-- Returns the hash of a task's keys, as ready_limited.key has it.
create or replace function peers._keys_hash(_rules peers.limit_rules, _args jsonb) returns bigint
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return hash_array_extended(array(
        select hashtextextended(coalesce('=' || (_args #>> string_to_array(r.path, '.')), ''), r.seed)
        from unnest(_rules.paths, _rules.seeds) with ordinality r(path, seed, n)
        order by r.n
    ), 0);
end
$$;

-- Locks those of the rows of ready_limited that no other session has locked or deleted, and returns them.
create or replace function peers._lock_limited_rows(_rows peers.claim_row[]) returns peers.claim_row[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return array(
        select r
        from unnest(_rows) r
        cross join lateral (
            select from peers.ready_limited y
            where y.ctid = r.spot and y.task_id = r.task_id and y.position = r.position
            for update skip locked
        ) y
    );
end
$$;

-- Returns the first of the rows, whose tasks the claim has locked, that fit under the weights of their limits.
create or replace function peers._fit_weights(
    _rules peers.limit_rules, _key peers.limited_key, _rows peers.claim_row[], _now timestamptz
) returns peers.claim_row[]
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _numbers constant integer[] := array(select generate_series(1, cardinality(_rules.names)));
    _rooms constant peers.limit_room[] := peers._limit_rooms(_rules, _numbers, _key.limit_keys, _now);
    _used numeric[] := array(select r.running from unnest(_rooms) r);
    _args jsonb;
    _n integer;
begin
    if array_remove(_rules.weights, null) = '{}' then
        return _rows;
    end if;
    for _i in 1 .. cardinality(_rows) loop
        _args := (select t.args from peers.task t where t.id = _rows[_i].task_id);
        foreach _n in array _numbers loop
            continue when _rules.most[_n] is null;
            _used[_n] := _used[_n] + case
                when _rules.weights[_n] is null then 1
                else peers._weight(_args, _rules.weights[_n], _rules.most[_n])
            end;
            if _used[_n] > _rules.most[_n] then
                return _rows[:_i - 1];
            end if;
        end loop;
    end loop;
    return _rows;
end
$$;

-- Starts tasks of one key, and gets past what stops _start_keys_at_once: stale rows, locked tasks, large args, tasks
-- whose start a trigger refuses, and weights. refused: how many tasks a trigger has refused.
create or replace function peers._start_key_carefully(
    _call peers.claim_call, _rules peers.limit_rules, _key peers.limited_key, _depth integer, _room bigint,
    out lease peers.limited_lease, out refused integer, out unfinished boolean
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _wanted constant integer := _key.share * _depth;
    _size constant integer := least(1000, greatest(100, _wanted));
    _after_priority smallint := -32768;
    _after_position bigint := -9223372036854775808;
    _rows peers.claim_row[];
    _sorted record;
    _locked peers.claim_row[];
    _changed peers.claim_row[];
    _measured record;
    _result record;
    _tasks peers.claim_tasks;
    _started bigint[];
    _spots tid[];
begin
    refused := 0;
    unfinished := false;
    _call.token := gen_random_uuid();
    loop
        _rows := array(
            select row(r.ctid, r.task_id, r.kind, r.priority, r.position)::peers.claim_row
            from peers.ready_limited r
            where r.queue = _call.queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = _key.rank
              and r.key = _key.key and (r.priority, r.position) > (_after_priority, _after_position)
            order by r.priority, r.position
            limit _size
        );
        exit when _rows = '{}';
        _sorted := peers._examine_rows(_call, _rows);
        _locked := peers._lock_tasks(_sorted.valid, _wanted - coalesce(cardinality(_tasks.ids), 0));
        -- args may have changed before the lock
        select coalesce(array_agg(l) filter (where k.same), '{}'), array_agg(l) filter (where not k.same)
        into _locked, _changed
        from unnest(_locked) l
        cross join lateral (
            select peers._keys_hash(_rules, t.args) = _key.key as same from peers.task t where t.id = l.task_id
        ) k;
        _spots := array(select r.spot from unnest(peers._lock_limited_rows(_sorted.stale || _changed)) r);
        _locked := peers._fit_weights(_rules, _key, _locked, _call.claimed_at);
        _measured := peers._measure_args(_locked, _room);
        _locked := peers._lock_limited_rows(_measured.fitting);
        _result := peers._start_locked(_call, _locked, null);
        _tasks := peers._merge_tasks(_tasks, _result.tasks);
        refused := refused + _result.refused;
        _started := (_result.tasks).ids;
        if _measured.oversized <> '{}' then
            _measured.oversized := peers._lock_limited_rows(_measured.oversized);
            _started := _started || peers._reject_oversized(_call, _measured.oversized);
        end if;
        _spots := _spots || array(
            select r.spot from unnest(_locked || _measured.oversized) r where r.task_id = any (_started)
        );
        delete from peers.ready_limited r where r.ctid = any (_spots);
        -- rows whose tasks have another key now took the place of others
        continue when _changed is not null and _started is null and clock_timestamp() < _call.until;
        exit when cardinality(_rows) < _size or cardinality(_tasks.ids) >= _key.share or not _measured.all_fit
            or array_remove(_rules.weights, null) <> '{}' and _started is not null;
        unfinished := clock_timestamp() > _call.until;
        exit when unfinished;
        _after_priority := _rows[_size].priority;
        _after_position := _rows[_size].position;
    end loop;
    if _tasks.ids is not null then
        lease := row(_call.token, _key.limit_keys, _tasks, _key.share);
    end if;
end
$$;

-- Starts tasks of keys that have a share, and makes a lease for each key. Returns the leases. fewer: a key that has
-- room gave no task. unfinished: it ran out of time before it had looked at all rows.
create or replace function peers._start_keys(
    _call peers.claim_call, _rules peers.limit_rules, _keys peers.limited_key[], _depth integer,
    out leases peers.limited_lease[], out refused integer, out fewer boolean, out unfinished boolean
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most_args constant integer := 16777216;  -- bytes of text in one answer
    _by_weight constant boolean := array_remove(_rules.weights, null) <> '{}';
    _key peers.limited_key;
    _one record;
begin
    refused := 0;
    fewer := false;
    unfinished := false;
    if not _by_weight then
        leases := peers._start_keys_at_once(_call, _rules, _keys, _depth);
        perform peers._insert_leases(_call, _rules, leases);
        if leases is not null then
            return;
        end if;
    end if;
    leases := '{}';
    foreach _key in array _keys loop
        unfinished := clock_timestamp() > _call.until and leases <> '{}';
        exit when unfinished;
        _one := peers._start_key_carefully(
            _call, _rules, _key, _depth, _most_args - coalesce(pg_column_size(leases), 0)
        );
        refused := refused + _one.refused;
        fewer := fewer or _one.lease is null;
        if _one.lease is not null then
            leases := leases || _one.lease;
            perform peers._insert_leases(_call, _rules, array[_one.lease]);
        end if;
        unfinished := _one.unfinished;
        exit when unfinished;
    end loop;
end
$$;

-- Inserts leases, and the starts that a limit with a rate counts.
create or replace function peers._insert_leases(
    _call peers.claim_call, _rules peers.limit_rules, _leases peers.limited_lease[]
) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    insert into peers.lease (token, peer_id, task_ids, open, claimed_at, limit_keys, most_running, fair_key,
                             limit_layout)
    select l.token, _call.peer_id, (l.tasks).ids, cardinality((l.tasks).ids), _call.claimed_at, l.limit_keys,
           case when l.share < cardinality((l.tasks).ids) then l.share end, l.limit_keys[_rules.fair_at],
           _rules.layout
    from unnest(_leases) l;
    if array_remove(_rules.starts, null) <> '{}' then
        insert into peers.limit_start (limit_key, started_at, tasks)
        select k.key, _call.claimed_at + peers._start_hold(), sum(cardinality((l.tasks).ids))
        from unnest(_leases) l
        cross join lateral unnest(l.limit_keys, _rules.starts) k(key, starts)
        where k.starts is not null
        group by k.key;
    end if;
end
$$;

-- Returns how long the tasks of a key have run lately. What was longer ago counts less.
create or replace function peers._used_lately(_limit_key bigint, _now timestamptz) returns double precision
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return (
        select coalesce(sum(u.seconds * exp(-greatest(extract(epoch from _now - u.ended_at), 0)::float8 / 300)), 0)
        from peers.limit_use u where u.limit_key = _limit_key
    ) + (
        select coalesce(sum(least(l.open, l.most_running) * extract(epoch from _now - l.claimed_at)::float8), 0)
        from peers.lease l where l.fair_key = _limit_key
    );
end
$$;

-- Returns the keys of one kind that have room (as _find_keys does), with their turn. Keys of a fair limit take the turn
-- of the most urgent of them, and among themselves that of those with the fewest running tasks.
create or replace function peers._find_turns(
    _call peers.claim_call, _number integer, _rules peers.limit_rules, _wanted integer,
    inout keys peers.limited_key[], inout complete boolean, inout any_full boolean, inout opens_at timestamptz
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _look record;
begin
    _look := peers._find_keys(
        _call.queue, _number, _rules, _wanted, _call.claimed_at, _call.until
    );
    if _rules.fair_at is not null then
        keys := keys || array(
            select row(k.rules, min(k.priority) over (), k.rank, k.key, k.limit_keys, k.priority, k.position, k.room,
                       k.running, peers._used_lately(k.limit_keys[_rules.fair_at], _call.claimed_at), 0)
                       ::peers.limited_key
            from unnest(_look.keys) k
        );
    else
        keys := keys || array(
            select row(k.rules, k.turn, k.rank, k.key, k.limit_keys, k.priority, k.position, k.room, 0, 0, 0)
                       ::peers.limited_key
            from unnest(_look.keys) k
        );
    end if;
    complete := complete and _look.complete;
    any_full := any_full or _look.any_full;
    opens_at := least(opens_at, _look.opens_at);
end
$$;

-- Locks keys, counts again what runs under them, and divides the slots. Returns the keys that have a share.
create or replace function peers._share_locked(
    _call peers.claim_call, _rules peers.limit_rules[], _keys peers.limited_key[], _heads peers.claim_row[],
    _slots integer, out keys peers.limited_key[], out busy boolean, out slots_short boolean, out claimed_at timestamptz
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _limit_keys bigint[] := '{}';
    _rooms integer[] := '{}';
    _before integer[];
    _numbers integer[];
    _own bigint[];
    _shared record;
begin
    keys := peers._lock_keys(_keys, _slots);
    busy := cardinality(keys) < least(_slots, cardinality(_keys));
    slots_short := cardinality(keys) < cardinality(_keys);
    claimed_at := peers.now();
    if keys = '{}' then
        return;
    end if;
    for _i in 1 .. cardinality(_rules) loop
        select array_agg(d.n), array_agg(d.key) into _numbers, _own
        from (
            select distinct l.n::integer as n, l.key
            from unnest(keys) k cross join lateral unnest(k.limit_keys) with ordinality l(key, n)
            where k.rules = _i and l.key <> all (_limit_keys)
        ) d;
        continue when _own is null;
        _limit_keys := _limit_keys || _own;
        _rooms := _rooms || array(
            select r.room from unnest(peers._limit_rooms(_rules[_i], _numbers, _own, claimed_at)) with ordinality
                r(room, running, opens_at, n) order by r.n
        );
    end loop;
    if cardinality(keys) > 1 then
        -- what one key cannot use is left for the others
        keys := array(
            select row(k.rules, k.turn, k.rank, k.key, k.limit_keys, k.priority, k.position, a.available, k.running,
                       k.used, 0)::peers.limited_key
            from unnest(keys) with ordinality k(
                rules, turn, rank, key, limit_keys, priority, "position", room, running, used, share, n)
            cross join lateral (
                select count(*)::integer as available
                from (
                    select from peers.ready_limited r
                    where r.queue = _call.queue and r.kind = _rules[k.rules].kind
                      and r.layout = _rules[k.rules].layout and r.rank = k.rank and r.key = k.key
                    limit least(k.room, _slots)
                ) r
            ) a
            order by k.n
        );
    end if;
    _before := array(
        select (
            select count(*)::integer from unnest(_heads) h
            where (h.priority, h.position) < (k.priority, k.position)
        )
        from unnest(keys) with ordinality k(
            rules, turn, rank, key, limit_keys, priority, "position", room, running, used, share, n)
        order by k.n
    );
    _shared := peers._share_slots(keys, _limit_keys, _rooms, _before, _slots);
    slots_short := slots_short or _shared.slots_short;
    keys := array(select k from unnest(_shared._keys) k where k.share > 0);
end
$$;

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

-- Claims limited tasks for the free slots, then unlimited ones as peers.claim does. A limited task goes before an
-- unlimited one by priority, then by position, if its limits have room.
create or replace function peers.claim_limited(
    peer_id uuid, queue text, max_tasks integer, free_slots integer, tasks_per_slot jsonb default '{}',
    inout resume peers.claim_resume default null,
    out token uuid, out task_ids bigint[], out attempts smallint[], out kinds text[], out priorities smallint[],
    out timeouts double precision[], out args text, out more boolean, out limited boolean,
    out most_running integer, out start_in double precision, out waits text, out opens_in double precision
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
    _began constant timestamptz := clock_timestamp();
    _resume constant peers.claim_resume := resume;
    _peer record;
    _call peers.claim_call;
    _rules peers.limit_rules[];
    _limited_kinds text[];
    _unlimited_kinds text[];
    _heads peers.claim_row[];
    _look record;
    _shared record;
    _result record;
    _lease peers.limited_lease;
    _taken integer := 0;
    _unfinished boolean := false;
    _waits text;
    _opens_in double precision;
begin
    perform peers._require_read_committed();
    if max_tasks is null or max_tasks not between 1 and 10000 or free_slots < 0 then
        raise exception 'max_tasks must be 1 to 10000, not %, and free_slots null or 0 or more, not %',
            coalesce(max_tasks::text, 'null'), coalesce(free_slots::text, 'null') using errcode = 'PE009';
    end if;
    select p.kinds, exists (select from peers.paused_queue q where q.queue = claim_limited.queue) as queue_paused,
           row(p.id, claim_limited.queue, gen_random_uuid(), n.now,
               exists (select from peers.graph g where g.paused_at is not null), _began + interval '100 ms'
           )::peers.claim_call as call
    into _peer
    from peers.now() n(now)
    join peers.peer p on p.id = claim_limited.peer_id and p.lost_at is null
        and p.heartbeat_at + p.lease_timeout > n.now;
    if not found then
        raise exception 'peer % is unknown, or its heartbeat has expired', claim_limited.peer_id
            using errcode = 'PE010', hint = 'Stop its handlers, then join again.';
    end if;
    _call := _peer.call;
    _rules := peers._limit_rules(claim_limited.queue, _peer.kinds, _call.claimed_at);
    _limited_kinds := array(select r.kind from unnest(_rules) r);
    _unlimited_kinds := array(select k.kind from unnest(_peer.kinds) k(kind) where k.kind <> all (_limited_kinds));

    if _limited_kinds <> '{}' and free_slots is not null and not _peer.queue_paused then
        if exists (
            select from unnest(_limited_kinds) k(kind)
            cross join lateral (
                select from peers.ready r where r.queue = claim_limited.queue and r.kind = k.kind limit 1
            ) r
        ) then
            perform peers._move_to_limited(claim_limited.queue, _limited_kinds, 256);
        end if;
        select '{}'::peers.limited_key[] as keys, true as complete, false as any_full, null::timestamptz as opens_at
        into _look;
        for _i in 1 .. cardinality(_rules) loop
            _rules[_i] := peers._count_before(_rules[_i]);
            _look := peers._find_turns(_call, _i, _rules[_i], greatest(free_slots, 1), _look.keys, _look.complete,
                                       _look.any_full, _look.opens_at);
        end loop;
        _waits := case when not _look.complete then 'more' when _look.any_full then 'full' end;
        _opens_in := extract(epoch from _look.opens_at - _call.claimed_at);
        if _look.keys <> '{}' then
            _heads := peers._unlimited_heads(
                claim_limited.queue, _unlimited_kinds, _resume, claim_limited.peer_id, greatest(free_slots, 1)
            );
        end if;
        if _look.keys <> '{}' and free_slots = 0 then
            _waits := case when exists (
                select from unnest(_look.keys) k
                where _heads = '{}' or (k.priority, k.position) < (_heads[1].priority, _heads[1].position)
            ) then 'slots' else _waits end;
        elsif _look.keys <> '{}' and exists (
            select from peers.peer p
            where p.id = _call.peer_id and p.lost_at is null and p.heartbeat_at + p.lease_timeout > _call.claimed_at
            for key share skip locked
        ) then
            _shared := peers._share_locked(_call, _rules, _look.keys, _heads, free_slots);
            _call.claimed_at := _shared.claimed_at;
            for _i in 1 .. cardinality(_rules) loop
                continue when not exists (select from unnest(_shared.keys) k where k.rules = _i);
                _result := peers._start_keys(
                    _call, _rules[_i], array(select k from unnest(_shared.keys) k where k.rules = _i),
                    case
                        when array_remove(_rules[_i].weights, null) <> '{}'
                             or array_remove(_rules[_i].starts, null) <> '{}' then 1
                        else greatest(1, least(1000, coalesce((tasks_per_slot ->> _rules[_i].kind)::integer, 1)))
                    end
                );
                foreach _lease in array _result.leases loop
                    token := _lease.token;
                    task_ids := (_lease.tasks).ids;
                    attempts := (_lease.tasks).attempts;
                    kinds := array[_rules[_i].kind];
                    priorities := (_lease.tasks).priorities;
                    attempts := case when attempts[1] = all (attempts) then attempts[:1] else attempts end;
                    priorities := case when priorities[1] = all (priorities) then priorities[:1] else priorities end;
                    timeouts := case
                        when array_remove((_lease.tasks).timeouts, null) <> '{}' then (_lease.tasks).timeouts
                    end;
                    args := '[' || array_to_string((_lease.tasks).args, ',') || ']';
                    resume := null;
                    more := false;
                    limited := true;
                    most_running := case when _lease.share < cardinality(task_ids) then _lease.share end;
                    start_in := case when array_remove(_rules[_i].starts, null) <> '{}' then
                        extract(epoch from _call.claimed_at + peers._start_hold() - peers.now())
                    end;
                    waits := null;
                    opens_in := null;
                    _taken := _taken + cardinality(task_ids);
                    return next;
                end loop;
                if _result.fewer then
                    _waits := coalesce(_waits, 'full');
                end if;
                _unfinished := _unfinished or _result.unfinished;
            end loop;
            _waits := case
                when _unfinished then 'more'
                when _shared.busy then 'busy'
                when _shared.slots_short then 'slots'
                else _waits
            end;
        end if;
    end if;

    token := null;
    task_ids := '{}';
    attempts := '{}';
    kinds := '{}';
    priorities := '{}';
    timeouts := null;
    args := '[]';
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
    limited := _limited_kinds <> '{}';
    most_running := null;
    start_in := null;
    waits := _waits;
    opens_in := case when _opens_in is not null then greatest(_opens_in, 0) end;
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
    'seconds after the call must be released. The last row also tells about the tasks that wait. waits: full (each key '
    'has as many tasks as it may), busy (call again in some milliseconds), more (call again soon), slots (tasks that '
    'may start come before the next unlimited one, and no slot was free). opens_in: in how many seconds a limit opens. '
    'limited: whether to call claim_limited again; false: call peers.claim.';
