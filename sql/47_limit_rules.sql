-- The limits that a claim has to keep. How a claim under limits works:
--
-- What runs under a limit and a key is counted from the leases; there is no counter that could drift. A claim looks for
-- keys that have room, locks them, counts again, and takes what is free. The lock is an advisory lock in a key space of
-- its own. The second count is a new statement of a volatile function, so that it sees every claim that held the lock
-- before. A claim waits for a lock for 10 ms at most; if it gets none, it tells its peer that the key was busy.

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

do $$
begin
    create type peers.seen_keys as (
        number integer, last_key bigint, limit_keys bigint[], priorities smallint[], positions bigint[],
        keys peers.limited_key[]
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.seen_keys is
    'Keys that a claim has read, and the place of the first task of each. For a kind under several limits they are in '
    'keys; for a kind under one limit, which may have hundreds of full keys, only the limit keys are collected.';

do $$
begin
    create type peers.limited_lease as (
        token uuid, limit_keys bigint[], tasks peers.claim_tasks, share integer, start_at timestamptz
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.limited_lease is
    'Tasks with the same limits and keys that a claim has started. share: how many of them the peer runs at once. '
    'start_at: when they may start, if a limit has a rate.';

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
            k.kind, hash_array_extended(array_agg(l.seed order by l.name), 0),
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
