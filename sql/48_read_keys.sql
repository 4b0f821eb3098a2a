-- How a claim reads some keys of a kind and rank, and sees which have room.

-- Returns the next _most keys of a rank after the key _after, and no later one than _upto. It jumps from one key to the
-- next in the primary key. It reads a known key from its place on, and the keys before it as a gap: some may be new.
create or replace function peers._next_keys(
    _queue text, _number integer, _rules peers.limit_rules, _rank smallint, _known peers.known_keys, _after bigint,
    _upto bigint, _most integer
) returns peers.seen_keys
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _highest constant bigint := 9223372036854775807;
    _single constant boolean := cardinality(_rules.names) = 1;
    _known_keys constant bigint[] := _known.keys;
    _priorities constant smallint[] := _known.priorities;
    _positions constant bigint[] := _known.positions;
    _seen peers.seen_keys;
begin
    with recursive hop as (
        select _after as key, null::bigint[] as limit_keys, null::smallint as priority, null::bigint as position,
               0 as n
        union all
        select coalesce(x.key, k.key), x.limit_keys, x.priority, x.position,
               hop.n + case when x.key is null then 0 else 1 end
        from hop
        cross join lateral (select width_bucket(hop.key, _known_keys) + 1 as i) w
        cross join lateral (
            select case when _known_keys[w.i] <= coalesce(_upto, _highest) then _known_keys[w.i] end as key,
                   _priorities[w.i] as priority, _positions[w.i] as position
        ) k
        left join lateral (
            (
                select r.key, r.limit_keys, r.priority, r.position
                from peers.ready_limited r
                where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = _rank
                  and r.key > hop.key and r.key <= coalesce(k.key - 1, _upto, _highest)
                order by r.key, r.priority, r.position limit 1
            )
            union all
            (
                select r.key, r.limit_keys, r.priority, r.position
                from peers.ready_limited r
                where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = _rank
                  and r.key = k.key and _rules.fair_at is not null and r.priority < k.priority
                order by r.priority, r.position limit 1
            )
            union all
            (
                select r.key, r.limit_keys, r.priority, r.position
                from peers.ready_limited r
                where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = _rank
                  and r.key = k.key and (r.priority, r.position) > (k.priority, k.position)
                order by r.priority, r.position limit 1
            )
            limit 1
        ) x on true
        where hop.n < _most and coalesce(x.key, k.key) is not null
    )
    select _number, max(h.key), array_agg(h.limit_keys[1]) filter (where _single),
           array_agg(h.priority) filter (where _single), array_agg(h.position) filter (where _single),
           array_agg(row(_number, _rank, _rank, h.key, h.limit_keys, h.priority, h.position, 0, 0, 0, 0)
                         ::peers.limited_key) filter (where not _single)
    into _seen
    from hop h
    where h.limit_keys is not null;
    return _seen;
end
$$;

-- Returns those of the keys of a kind under one limit that have room.
create or replace function peers._open_single_keys(
    _rules peers.limit_rules, _rank smallint, _seen peers.seen_keys, _now timestamptz,
    out keys peers.limited_key[], out any_full boolean, out opens_at timestamptz
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _ones constant integer[] := array_fill(1, array[cardinality(_seen.limit_keys)]);
    _rooms constant peers.limit_room[] := peers._limit_rooms(_rules, _ones, _seen.limit_keys, _now);
begin
    select bool_or(r.room = 0), min(r.opens_at), case when bool_or(r.room > 0) then '{}'::peers.limited_key[] end
    into any_full, opens_at, keys
    from unnest(_rooms) r;
    if keys is null then
        keys := '{}';
        return;
    end if;
    keys := array(
        select row(_seen.number, _rank, _rank, hash_array_extended(array[f.key], 0), array[f.key], f.priority,
                   f.position, f.room, f.running, 0, 0)::peers.limited_key
        from unnest(_seen.limit_keys, _seen.priorities, _seen.positions, _rooms)
            f(key, priority, "position", room, running, opens_at)
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
    _rules peers.limit_rules, _rank smallint, _seen peers.seen_keys, _now timestamptz,
    out keys peers.limited_key[], out any_full boolean, out opens_at timestamptz
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _open record;
begin
    if _seen.keys is null then
        _open := peers._open_single_keys(_rules, _rank, _seen, _now);
    else
        _open := peers._open_keys(_rules, _seen.keys, _now);
    end if;
    keys := _open.keys;
    any_full := _open.any_full;
    opens_at := _open.opens_at;
end
$$;

-- Returns those of the given keys that have tasks of this rank, as _next_keys does.
create or replace function peers._given_keys(
    _queue text, _number integer, _rules peers.limit_rules, _rank smallint, _known peers.known_keys, _given bigint[]
) returns peers.seen_keys
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _single constant boolean := cardinality(_rules.names) = 1;
    _known_keys constant bigint[] := _known.keys;
    _priorities constant smallint[] := _known.priorities;
    _positions constant bigint[] := _known.positions;
    _seen peers.seen_keys;
begin
    select _number, null, array_agg(h.limit_keys[1]) filter (where _single),
           array_agg(h.priority) filter (where _single), array_agg(h.position) filter (where _single),
           array_agg(row(_number, _rank, _rank, g.key, h.limit_keys, h.priority, h.position, 0, 0, 0, 0)
                         ::peers.limited_key) filter (where not _single)
    into _seen
    from (select distinct g.key, width_bucket(g.key, _known_keys) as i from unnest(_given) g(key)) g
    cross join lateral (
        select case when _known_keys[g.i] = g.key then _priorities[g.i] else -32768 end as priority,
               case when _known_keys[g.i] = g.key then _positions[g.i] else -9223372036854775808 end as position
    ) k
    cross join lateral (
        (
            select r.limit_keys, r.priority, r.position
            from peers.ready_limited r
            where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = _rank
              and r.key = g.key and _rules.fair_at is not null and r.priority < k.priority
            order by r.priority, r.position limit 1
        )
        union all
        (
            select r.limit_keys, r.priority, r.position
            from peers.ready_limited r
            where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = _rank
              and r.key = g.key and (r.priority, r.position) > (k.priority, k.position)
            order by r.priority, r.position limit 1
        )
        limit 1
    ) h;
    return _seen;
end
$$;
