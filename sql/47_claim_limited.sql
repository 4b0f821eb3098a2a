-- How a claim finds limited tasks that may start. 48_claim_limited.sql takes them.
--
-- What runs under a limit and a key is counted from the leases; there is no counter that could drift. A claim looks for
-- keys that have room, locks them, counts again, and takes what is free. The lock is an advisory lock in a key space of
-- its own. The second count is a new statement of a volatile function, so that it sees every claim that held the lock
-- before. A claim never waits for a lock: it tells its peer that a key was busy.

do $$
begin
    create type peers.limit_rules as (
        kind text, layout bigint, fair_at integer, keyed boolean, names text[], seeds bigint[], paths text[],
        most integer[], starts integer[], pers interval[], weights text[], counts_tasks boolean[], opens timestamptz[],
        before_numbers integer[], before_keys bigint[], before_running numeric[]
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.limit_rules is
    'The limits that hold for the tasks of one kind in a queue, by name. fair_at: which of them is fair. most: how '
    'many tasks may run now. opens: until when a limit is shut. before: tasks that run without a lease under it.';

do $$
begin
    create type peers.limit_room as (room integer, running numeric, opens_at timestamptz);
exception when duplicate_object then null;
end
$$;

comment on type peers.limit_room is
    'How many tasks may start under a limit and key, how many run, and when the next may start if the time decides.';

do $$
begin
    create type peers.limited_key as (
        rules integer, turn smallint, rank smallint, key bigint, limit_keys bigint[], priority smallint,
        "position" bigint, room integer, running numeric, used double precision, share integer
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.limited_key is
    'Ready tasks with the same limits, keys and rank. rules: the number of its limit_rules. turn: its priority among '
    'other keys. priority and position: of its first task. used: how long its tasks ran lately. share: how many a '
    'claim starts.';

-- Returns how many tasks may run under a limit now, if it learns: each quiet minute since the last cooldown raises it
-- by a tenth.
create or replace function peers._most_now(_limit peers.limit, _now timestamptz) returns integer
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if not _limit.learns or _limit.learned_at is null or _limit.learned >= _limit.max_running then
        return _limit.max_running;
    end if;
    return least(
        _limit.max_running,
        _limit.learned + floor(
            greatest(extract(epoch from _now - greatest(
                _limit.learned_at,
                -- Postgres 16 cannot subtract infinity
                case when isfinite(_limit.shut_until) then _limit.shut_until end
            )), 0) / 60 * greatest(_limit.max_running * 0.1, 1)
        )
    );
end
$$;

-- Returns the rules of those kinds that are under a limit.
create or replace function peers._limit_rules(_queue text, _kinds text[], _now timestamptz) returns peers.limit_rules[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return array(
        select row(
            k.kind, hashtextextended(string_agg(l.seed::text, ',' order by l.name), 0),
            case when bool_or(l.fair) then array_position(array_agg(l.fair order by l.name), true) end,
            bool_or(l.key is not null), array_agg(l.name order by l.name), array_agg(l.seed order by l.name),
            array_agg(l.key order by l.name), array_agg(peers._most_now(l, _now) order by l.name),
            array_agg(l.starts order by l.name), array_agg(l.per order by l.name),
            array_agg(l.weight order by l.name), array_agg(l.counts_tasks order by l.name),
            array_agg(case when l.shut_until > _now then l.shut_until end order by l.name), null, null, null
        )::peers.limit_rules
        from unnest(_kinds) k(kind)
        join peers.limit l on l.kind = k.kind or l.queue = _queue
        group by k.kind
        order by k.kind
    );
end
$$;

-- Returns the weight of a task: a number at the path, no more than the limit itself, so that the task can run at all.
create or replace function peers._weight(_args jsonb, _path text, _most integer) returns numeric
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _value constant jsonb := _args #> string_to_array(_path, '.');
begin
    if jsonb_typeof(_value) = 'number' then
        return least(greatest((_value #>> '{}')::numeric, 0), _most);
    end if;
    return 1;
end
$$;

-- Returns the weight of what runs under a limit and key, task by task.
create or replace function peers._running_weight(_limit_key bigint, _path text, _most integer) returns numeric
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return (
        select coalesce(sum(peers._weight(t.args, _path, _most)), 0)
        from peers.lease l
        cross join lateral unnest(l.task_ids) i(task_id)
        cross join lateral (
            select t.args from peers.task t
            where t.id = i.task_id and t.token = l.token and t.state = 'running' offset 0
        ) t
        where l.limit_keys is not null and (
            l.limit_keys[1] = _limit_key or l.limit_keys[2] = _limit_key or l.limit_keys[3] = _limit_key
            or l.limit_keys[4] = _limit_key
        )
    );
end
$$;

-- Adds to rules what runs although its lease was made before a limit held for it, by limit and key. That is so for a
-- while after a limit is added or given another key. A claim counts this once: it only becomes less.
create or replace function peers._count_before(_rules peers.limit_rules) returns peers.limit_rules
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if not true = any (_rules.counts_tasks) then
        return _rules;
    end if;
    select array_agg(b.n), array_agg(b.key), array_agg(b.running)
    into _rules.before_numbers, _rules.before_keys, _rules.before_running
    from (
        select r.n::integer as n, k.key,
               sum(case when m.weight is null then 1 else peers._weight(t.args, m.weight, m.max_running) end) as running
        from peers.lease l
        cross join lateral unnest(l.task_ids) i(task_id)
        cross join lateral (
            select t.kind, t.queue, t.args from peers.task t
            where t.id = i.task_id and t.token = l.token and t.state = 'running' offset 0
        ) t
        cross join lateral unnest(_rules.names, _rules.counts_tasks) with ordinality r(name, counts, n)
        join peers.limit m on m.name = r.name and (m.kind = t.kind or m.queue = t.queue)
        cross join lateral (select peers._limit_key(m.seed, m.key, t.args) as key) k
        where r.counts and l.limit_layout is distinct from _rules.layout
          and k.key <> all (coalesce(l.limit_keys, '{}'))
        group by r.n, k.key
    ) b;
    return _rules;
end
$$;

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
    _enough constant integer := _chunk * case when _rules.fair_at is null then 1 else 4 end;
    _rank smallint;
    _from bigint;
    _at bigint;
    _wrapped boolean;
    _single constant boolean := cardinality(_rules.names) = 1;
    _ones constant integer[] := array_fill(1, array[_chunk]);
    _count integer;
    _last bigint;
    _firsts bigint[];
    _open integer;
    _seen peers.limited_key[];
    _rooms peers.limit_room[];
    _found peers.limited_key[];
    _full boolean;
    _opens timestamptz;
    _looked integer := 0;
    _total integer := 0;
begin
    keys := '{}';
    complete := true;
    any_full := false;
    _rank := (
        select r.rank from peers.ready_limited r
        where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout
        order by r.rank limit 1
    );
    while _rank is not null loop
        _from := (random() * 18e18 - 9e18)::bigint;
        _at := _from;
        _wrapped := false;
        loop
            with recursive hop as (
                (
                    select r.key, r.limit_keys, r.priority, r.position, 1 as n
                    from peers.ready_limited r
                    where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = _rank
                      and r.key > _at
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
                where hop.n < _chunk
            )
            select count(*), max(h.key), array_agg(h.limit_keys[1]) filter (where _single),
                   array_agg(row(_number, _rank, _rank, h.key, h.limit_keys, h.priority, h.position, 0, 0, 0, 0)
                                 ::peers.limited_key) filter (where not _single)
            into _count, _last, _firsts, _seen
            from hop h
            where not _wrapped or h.key <= _from;
            if _count > 0 and _single then
                -- as below; a claim may see hundreds of keys, and most of them full
                _rooms := peers._limit_rooms(_rules, _ones[:_count], _firsts, _now);
                _open := (select count(*) from unnest(_rooms) r where r.room > 0);
                any_full := any_full or _open < _count;
                opens_at := least(opens_at, (select min(r.opens_at) from unnest(_rooms) r));
                if _open > 0 then
                    keys := keys || array(
                        select row(_number, _rank, _rank, k.key, array[f.key], h.priority, h.position, f.room,
                                   f.running, 0, 0)::peers.limited_key
                        from unnest(_firsts, _rooms) f(key, room, running, opens_at)
                        cross join lateral (select hash_array_extended(array[f.key], 0) as key) k
                        cross join lateral (
                            select r.priority, r.position
                            from peers.ready_limited r
                            where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout
                              and r.rank = _rank and r.key = k.key
                            order by r.priority, r.position limit 1
                        ) h
                        where f.room > 0
                    );
                end if;
            elsif _count > 0 then
                _rooms := peers._key_rooms(_rules, _seen, _now);
                select array_agg(row(k.rules, k.turn, k.rank, k.key, k.limit_keys, k.priority, k.position, r.room,
                                     r.running, 0, 0)::peers.limited_key) filter (where r.room > 0),
                       bool_or(r.room = 0), min(r.opens_at)
                into _found, _full, _opens
                from rows from (unnest(_seen), unnest(_rooms)) k(
                    rules, turn, rank, key, limit_keys, priority, "position", no_room, none_running, used, share,
                    room, running, opens_at)
                cross join lateral (select k.room, k.running, k.opens_at) r;
                any_full := any_full or _full;
                opens_at := least(opens_at, _opens);
                keys := keys || coalesce(_found, '{}');
            end if;
            -- of the keys that it has seen, the one that waits longest is next; of few keys it sees all
            _total := _total + _count;
            exit when cardinality(keys) >= _wanted and _total >= _enough;
            _looked := _looked + 1;
            if _looked >= _most_chunks or clock_timestamp() > _until then
                complete := cardinality(keys) >= _wanted;
                return;
            end if;
            if _count < _chunk then
                exit when _wrapped;
                _wrapped := true;
                _at := _lowest;
            else
                _at := _last;
            end if;
        end loop;
        exit when cardinality(keys) >= _wanted;
        _rank := (
            select r.rank from peers.ready_limited r
            where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank > _rank
            order by r.rank limit 1
        );
    end loop;
end
$$;
