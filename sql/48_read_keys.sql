-- How a claim reads some keys of a kind and rank, and sees which have room.

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

-- Returns those of the keys of a rank that have room, under one limit or several.
create or replace function peers._open_seen(
    _queue text, _number integer, _rules peers.limit_rules, _rank smallint, _limit_keys bigint[],
    inout keys peers.limited_key[], _now timestamptz, out any_full boolean, out opens_at timestamptz
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _open record;
begin
    if keys is null then
        _open := peers._open_single_keys(_queue, _number, _rules, _rank, _limit_keys, _now);
    else
        _open := peers._open_keys(_rules, keys, _now);
    end if;
    keys := _open.keys;
    any_full := _open.any_full;
    opens_at := _open.opens_at;
end
$$;

-- Returns those of the given keys that have tasks of this rank, as _next_keys does.
create or replace function peers._given_keys(
    _queue text, _number integer, _rules peers.limit_rules, _rank smallint, _given bigint[],
    out seen integer, out limit_keys bigint[], out keys peers.limited_key[]
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _single constant boolean := cardinality(_rules.names) = 1;
begin
    select count(*), array_agg(h.limit_keys[1]) filter (where _single),
           array_agg(row(_number, _rank, _rank, g.key, h.limit_keys, h.priority, h.position, 0, 0, 0, 0)
                         ::peers.limited_key) filter (where not _single)
    into seen, limit_keys, keys
    from (select distinct g.key from unnest(_given) g(key)) g
    cross join lateral (
        select r.limit_keys, r.priority, r.position
        from peers.ready_limited r
        where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = _rank
          and r.key = g.key
        order by r.priority, r.position limit 1
    ) h;
end
$$;
