-- How a claim finds the keys that have room.

-- Returns the next _most keys of a rank after the key _after, and no later one than _upto. It jumps from one key to the
-- next in the primary key. For a kind under one limit it returns only the limit keys: a claim may see hundreds of keys,
-- most of them full, and does not need the rest of those.
create or replace function peers._next_keys(
    _queue text, _number integer, _rules peers.limit_rules, _rank smallint, _after bigint, _upto bigint,
    _most integer, out seen integer, out last_key bigint, out limit_keys bigint[], out keys peers.limited_key[]
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _single constant boolean := cardinality(_rules.names) = 1;
begin
    with recursive hop as (
        (
            select r.key, r.limit_keys, r.priority, r.position, 1 as n
            from peers.ready_limited r
            where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = _rank
              and r.key > _after
            order by r.key, r.priority, r.position limit 1
        )
        union all
        select x.key, x.limit_keys, x.priority, x.position, hop.n + 1
        from hop
        cross join lateral (
            select r.key, r.limit_keys, r.priority, r.position
            from peers.ready_limited r
            where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = _rank
              and r.key > hop.key
            order by r.key, r.priority, r.position limit 1
        ) x
        where hop.n < _most
    )
    select count(*), max(h.key), array_agg(h.limit_keys[1]) filter (where _single),
           array_agg(row(_number, _rank, _rank, h.key, h.limit_keys, h.priority, h.position, 0, 0, 0, 0)
                         ::peers.limited_key) filter (where not _single)
    into seen, last_key, limit_keys, keys
    from hop h
    where _upto is null or h.key <= _upto;
end
$$;

-- Returns those of the keys of a kind under one limit that have room.
create or replace function peers._open_single_keys(
    _queue text, _number integer, _rules peers.limit_rules, _rank smallint, _limit_keys bigint[], _now timestamptz,
    out keys peers.limited_key[], out any_full boolean, out opens_at timestamptz
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _ones constant integer[] := array_fill(1, array[cardinality(_limit_keys)]);
    _rooms constant peers.limit_room[] := peers._limit_rooms(_rules, _ones, _limit_keys, _now);
begin
    select bool_or(r.room = 0), min(r.opens_at), case when bool_or(r.room > 0) then '{}'::peers.limited_key[] end
    into any_full, opens_at, keys
    from unnest(_rooms) r;
    if keys is null then
        keys := '{}';
        return;
    end if;
    keys := array(
        select row(_number, _rank, _rank, k.key, array[f.key], h.priority, h.position, f.room, f.running, 0, 0)
                   ::peers.limited_key
        from unnest(_limit_keys, _rooms) f(key, room, running, opens_at)
        cross join lateral (select hash_array_extended(array[f.key], 0) as key) k
        cross join lateral (
            select r.priority, r.position
            from peers.ready_limited r
            where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = _rank
              and r.key = k.key
            order by r.priority, r.position limit 1
        ) h
        where f.room > 0
    );
end
$$;

-- Returns those of the keys of a kind under several limits that have room.
create or replace function peers._open_keys(
    _rules peers.limit_rules, inout keys peers.limited_key[], _now timestamptz,
    out any_full boolean, out opens_at timestamptz
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _rooms constant peers.limit_room[] := peers._key_rooms(_rules, keys, _now);
begin
    select coalesce(array_agg(row(k.rules, k.turn, k.rank, k.key, k.limit_keys, k.priority, k.position, r.room,
                                  r.running, 0, 0)::peers.limited_key) filter (where r.room > 0), '{}'),
           bool_or(r.room = 0), min(r.opens_at)
    into keys, any_full, opens_at
    from rows from (unnest(keys), unnest(_rooms)) k(
        rules, turn, rank, key, limit_keys, priority, "position", no_room, none_running, used, share,
        room, running, opens_at)
    cross join lateral (select k.room, k.running, k.opens_at) r;
end
$$;

-- Returns the rank that comes after another one; the first rank if that is null.
create or replace function peers._next_rank(_queue text, _rules peers.limit_rules, _after smallint) returns smallint
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return (
        select r.rank from peers.ready_limited r
        where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout
          and r.rank > coalesce(_after, -32769)
        order by r.rank limit 1
    );
end
$$;

-- Returns keys of one kind that have room, at least _wanted if there are as many, by rank. Within a rank it begins at a
-- random key, so that claims do not meet, and looks at more keys while it finds too few. It takes no lock. complete: it
-- has looked at all keys until it had enough. any_full: it has seen a key without room. opens_at: when the first of
-- these opens.
create or replace function peers._find_keys(
    _queue text, _number integer, _rules peers.limit_rules, _wanted integer, _now timestamptz, _until timestamptz,
    out keys peers.limited_key[], out complete boolean, out any_full boolean, out opens_at timestamptz
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _lowest constant bigint := -9223372036854775808;
    _chunk constant integer := 64;
    _most_chunks constant integer := 5;
    -- of the keys that it has seen, the one that waits longest is next; of few keys it sees all
    _enough constant integer := _chunk * case when _rules.fair_at is null then 1 else 4 end;
    _rank smallint := peers._next_rank(_queue, _rules, null);
    _from bigint;
    _after bigint;
    _wrapped boolean;
    _next record;
    _open record;
    _looked integer := 0;
    _total integer := 0;
begin
    keys := '{}';
    complete := true;
    any_full := false;
    while _rank is not null loop
        _from := (random() * 18e18 - 9e18)::bigint;
        _after := _from;
        _wrapped := false;
        loop
            _next := peers._next_keys(
                _queue, _number, _rules, _rank, _after, case when _wrapped then _from end, _chunk
            );
            if _next.seen > 0 then
                if _next.keys is null then
                    _open := peers._open_single_keys(_queue, _number, _rules, _rank, _next.limit_keys, _now);
                else
                    _open := peers._open_keys(_rules, _next.keys, _now);
                end if;
                keys := keys || _open.keys;
                any_full := any_full or _open.any_full;
                opens_at := least(opens_at, _open.opens_at);
            end if;
            _total := _total + _next.seen;
            exit when cardinality(keys) >= _wanted and _total >= _enough;
            _looked := _looked + 1;
            if _looked >= _most_chunks or clock_timestamp() > _until then
                complete := cardinality(keys) >= _wanted;
                return;
            end if;
            exit when _next.seen < _chunk and _wrapped;
            _after := case when _next.seen < _chunk then _lowest else _next.last_key end;
            _wrapped := _wrapped or _next.seen < _chunk;
        end loop;
        exit when cardinality(keys) >= _wanted;
        _rank := peers._next_rank(_queue, _rules, _rank);
    end loop;
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

-- Returns keys that _find_keys has found, with their turn. Keys of a fair limit take the turn of the most urgent of
-- them, and among themselves that of those with the fewest running tasks.
create or replace function peers._give_turns(
    _rules peers.limit_rules, _keys peers.limited_key[], _now timestamptz
) returns peers.limited_key[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if _rules.fair_at is null then
        return array(
            select row(k.rules, k.turn, k.rank, k.key, k.limit_keys, k.priority, k.position, k.room, 0, 0, 0)
                       ::peers.limited_key
            from unnest(_keys) k
        );
    end if;
    return array(
        select row(k.rules, min(k.priority) over (), k.rank, k.key, k.limit_keys, k.priority, k.position, k.room,
                   k.running, peers._used_lately(k.limit_keys[_rules.fair_at], _now), 0)::peers.limited_key
        from unnest(_keys) k
    );
end
$$;

-- Returns keys with room of all kinds, and the rules with what runs from before a limit held.
create or replace function peers._find_in_all_kinds(
    _call peers.claim_call, inout rules peers.limit_rules[], _wanted integer,
    out keys peers.limited_key[], out complete boolean, out any_full boolean, out opens_at timestamptz
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _look record;
begin
    keys := '{}';
    complete := true;
    any_full := false;
    for _i in 1 .. cardinality(rules) loop
        rules[_i] := peers._count_before(rules[_i]);
        _look := peers._find_keys(_call.queue, _i, rules[_i], _wanted, _call.claimed_at, _call.until);
        keys := keys || peers._give_turns(rules[_i], _look.keys, _call.claimed_at);
        complete := complete and _look.complete;
        any_full := any_full or _look.any_full;
        opens_at := least(opens_at, _look.opens_at);
    end loop;
end
$$;
