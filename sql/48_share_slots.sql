-- How a claim locks keys and divides its slots among them.

-- Returns the first number of the advisory locks of keys. It keeps them apart from those of an application.
create or replace function peers._lock_class() returns integer language sql immutable return 1886152051;

-- Returns the second number of a key's advisory lock: half of its hash. Two keys that share it exclude each other for a
-- moment.
create or replace function peers._lock_object(_limit_key bigint) returns integer
    language sql immutable
    return (_limit_key >> 32)::integer;

-- Tries to lock the keys of a task, until the end of the transaction.
create or replace function peers._try_lock_keys(_limit_keys bigint[]) returns boolean
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _key bigint;
begin
    foreach _key in array _limit_keys loop
        if not pg_try_advisory_xact_lock(peers._lock_class(), peers._lock_object(_key)) then
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
    _key bigint;
begin
    foreach _key in array _limit_keys loop
        perform pg_advisory_xact_lock(peers._lock_class(), peers._lock_object(_key));
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

-- Divides slots among the keys from _first to _last, which have the same turn: one task of each key, then a second one,
-- and so on, while the key has room. A key with more running tasks than another joins in when the other has as many, if
-- they are of a fair limit. taken: how many slots have a task by now.
create or replace function peers._share_turn(
    inout keys peers.limited_key[], inout rooms integer[], inout taken integer, _limit_keys bigint[],
    _before integer[], _slots integer, _first integer, _last integer, out slots_short boolean
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _level numeric := (select min(k.running) from unnest(keys[_first:_last]) k);
    _next numeric;
    _progress boolean;
    _has_room boolean;
    _place integer;
    _key peers.limited_key;
    _one bigint;
begin
    slots_short := false;
    loop
        _progress := false;
        _next := null;
        for _i in _first .. _last loop
            _key := keys[_i];
            continue when _key.share >= _key.room;
            if _key.running + _key.share > _level then
                _next := least(_next, _key.running + _key.share);
                continue;
            end if;
            _has_room := true;
            foreach _one in array _key.limit_keys loop
                if rooms[array_position(_limit_keys, _one)] < 1 then
                    _has_room := false;
                end if;
            end loop;
            continue when not _has_room;
            if taken + _before[_i] >= _slots then
                slots_short := true;
                continue;
            end if;
            foreach _one in array _key.limit_keys loop
                _place := array_position(_limit_keys, _one);
                rooms[_place] := rooms[_place] - 1;
            end loop;
            keys[_i].share := _key.share + 1;
            taken := taken + 1;
            _progress := true;
            _next := least(_next, _key.running + _key.share + 1);
        end loop;
        exit when _next is null or (not _progress and _next <= _level);
        _level := greatest(_next, _level);
        exit when taken >= _slots and slots_short;
    end loop;
end
$$;

-- Decides how many tasks of each key to start, turn by turn. Keys that share a limit share its room: _rooms has the
-- room of each distinct limit key. _before: for each key, how many unlimited tasks come before its first one; these
-- need a slot, too.
create or replace function peers._share_slots(
    inout keys peers.limited_key[], _limit_keys bigint[], _rooms integer[], _before integer[], _slots integer,
    out slots_short boolean
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _count constant integer := coalesce(cardinality(keys), 0);
    _first integer := 1;
    _last integer;
    _taken integer := 0;
    _turn record;
begin
    slots_short := false;
    while _first <= _count loop
        _last := _first;
        while _last < _count and keys[_last + 1].turn = keys[_first].turn loop
            _last := _last + 1;
        end loop;
        _turn := peers._share_turn(keys, _rooms, _taken, _limit_keys, _before, _slots, _first, _last);
        keys := _turn.keys;
        _rooms := _turn.rooms;
        _taken := _turn.taken;
        slots_short := slots_short or _turn.slots_short;
        _first := _last + 1;
    end loop;
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
                      and (r.priority, r.position) >= (k.priority, k.position)
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
    keys := array(select k from unnest(_shared.keys) k where k.share > 0);
end
$$;
