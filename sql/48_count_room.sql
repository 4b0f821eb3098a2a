-- How many tasks may start under a limit and key.

-- A task under a rate starts this long after its claim, so that its peer has it by then. If it would start later than
-- that by more than the slack, the peer gives it back. So no handlers start closer together than their claims say.
create or replace function peers._start_hold() returns interval
    language sql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$ select interval '30 milliseconds' $$;

create or replace function peers._start_slack() returns interval
    language sql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$ select interval '100 milliseconds' $$;

-- Returns the room under each limit and key, in their order: key number i is one of limit number _numbers[i] of the
-- rules. What runs is the sum over the leases of the key; of a lease with tasks that wait for each other, as many as
-- run at once.
create or replace function peers._limit_rooms(
    _rules peers.limit_rules, _numbers integer[], _limit_keys bigint[], _now timestamptz
) returns peers.limit_room[]
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most constant integer[] := _rules.most;
    _starts constant integer[] := _rules.starts;
    _pers constant interval[] := _rules.pers;
    _weights constant text[] := _rules.weights;
    _before_numbers constant integer[] := _rules.before_numbers;
    _before_keys constant bigint[] := _rules.before_keys;
    _before_running constant numeric[] := _rules.before_running;
    _opens constant timestamptz[] := _rules.opens;
    _any_weight constant boolean := array_remove(_weights, null) <> '{}';
    _any_starts constant boolean := array_remove(_starts, null) <> '{}';
    _any_before constant boolean := _before_keys is not null;
begin
    return array(
        select row(
            greatest(0, case
                when _opens[k.n] is not null then 0
                else least(floor(_most[k.n] - r.running), _starts[k.n] - coalesce(s.started, 0), 1000000)
            end)::integer,
            r.running,
            case
                when _opens[k.n] is not null then _opens[k.n]
                when s.started >= _starts[k.n]
                    then s.first + _pers[k.n] + peers._start_slack() - peers._start_hold()
            end
        )::peers.limit_room
        from unnest(_numbers, _limit_keys) with ordinality k(n, key, i)
        cross join (
            select exists (select from peers.lease l where l.limit_keys[2] is not null) as any_second
        ) several
        cross join lateral (
            select case
                when _any_weight and _weights[k.n] is not null
                    then peers._running_weight(k.key, _weights[k.n], _most[k.n])
                else (
                    select coalesce(sum(least(l.open, l.most_running)), 0) from peers.lease l
                    where l.limit_keys is not null and l.limit_keys[1] = k.key
                ) + case when several.any_second then (
                    select coalesce(sum(least(l.open, l.most_running)), 0) from (
                        select l.open, l.most_running from peers.lease l
                        where l.limit_keys[2] is not null and l.limit_keys[2] = k.key
                        union all
                        select l.open, l.most_running from peers.lease l
                        where l.limit_keys[3] is not null and l.limit_keys[3] = k.key
                        union all
                        select l.open, l.most_running from peers.lease l
                        where l.limit_keys[4] is not null and l.limit_keys[4] = k.key
                    ) l
                ) else 0 end
            end + case
                when _any_before then coalesce((
                    select b.running from unnest(_before_numbers, _before_keys, _before_running) b(n, key, running)
                    where b.n = k.n and b.key = k.key
                ), 0)
                else 0
            end as running
        ) r
        left join lateral (
            select sum(s.tasks) as started, min(s.started_at) as first
            from peers.limit_start s
            where _any_starts and s.limit_key = k.key
              and s.started_at > _now + peers._start_hold() - _pers[k.n] - peers._start_slack()
        ) s on true
        order by k.i
    );
end
$$;

-- Returns the room of several keys, each with all of its limits. opens_at is the time at which the last of those limits
-- opens that only wait for a time.
create or replace function peers._key_rooms(
    _rules peers.limit_rules, _keys peers.limited_key[], _now timestamptz
) returns peers.limit_room[]
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _limits constant integer := cardinality(_rules.names);
    _numbers integer[];
    _limit_keys bigint[];
    _rooms peers.limit_room[];
begin
    if _limits = 1 then
        _limit_keys := array(select k.limit_keys[1] from unnest(_keys) k);
        return peers._limit_rooms(_rules, array_fill(1, array[cardinality(_keys)]), _limit_keys, _now);
    end if;
    select array_agg(d.n), array_agg(d.key) into _numbers, _limit_keys
    from (
        select distinct l.n::integer as n, l.key
        from unnest(_keys) k cross join lateral unnest(k.limit_keys) with ordinality l(key, n)
    ) d;
    _rooms := peers._limit_rooms(_rules, _numbers, _limit_keys, _now);
    return array(
        select row(
            min(r.room), max(r.running) filter (where l.n = coalesce(_rules.fair_at, 1)),
            case when min(r.room) = 0 then max(r.opens_at) filter (where r.room = 0) end
        )::peers.limit_room
        from unnest(_keys) with ordinality k(
            rules, turn, rank, key, limit_keys, priority, "position", room, running, used, share, i)
        cross join lateral unnest(k.limit_keys) with ordinality l(key, n)
        join unnest(_numbers, _limit_keys) with ordinality d(n, key, i) on d.key = l.key and d.n = l.n
        cross join lateral (select (_rooms[d.i]).*) r
        group by k.i
        order by k.i
    );
end
$$;
