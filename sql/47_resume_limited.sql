-- Where a claim reads the rows of keys from which its peer has claimed many tasks.
--
-- The rows of started tasks are dead until vacuum removes them, and vacuum cannot do that while a session holds an old
-- snapshot. Without this, a claim would pass all of them at every key that it looks at. So the peer keeps, for some
-- keys, the place of the last task that it claimed, and its next claim reads these keys from there. Rows before a place
-- are found later: those whose transaction committed late, and those that were locked. A claim that leaves slots free
-- looks for them, and so does one claim every ten seconds.

do $$
begin
    create type peers.limited_resume as (
        look_at timestamptz, kinds text[], ranks smallint[], keys bigint[], priorities smallint[], positions bigint[],
        tasks bigint[]
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.limited_resume is
    'Where the next claim of limited tasks begins. Pass to peers.claim_limited what its last call returned, unchanged. '
    'look_at: when a claim that leaves slots free looks at the rows before the places. Ten seconds later every claim '
    'does. The arrays have one element for each key and priority that the peer has claimed from, the latest first. '
    'positions: where the last claimed task was. tasks: how many were claimed.';

do $$
begin
    create type peers.known_keys as (keys bigint[], priorities smallint[], positions bigint[]);
exception when duplicate_object then null;
end
$$;

comment on type peers.known_keys is
    'Some keys of one kind and rank, in order, and for each of them the place after which a claim reads.';

-- A claim uses the place of a key if the peer has claimed so many of its tasks. It takes longer to look up a place than
-- to pass fewer rows.
create or replace function peers._least_known() returns bigint language sql immutable return 64;

-- Returns the ranks of a kind of which the peer has claimed many tasks.
create or replace function peers._known_ranks(_resume peers.limited_resume, _kind text) returns smallint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if _resume.kinds is null then
        return '{}';
    end if;
    return array(
        select k.rank from unnest(_resume.kinds, _resume.ranks, _resume.tasks) k(kind, rank, tasks)
        where k.kind = _kind
        group by k.rank
        having sum(k.tasks) >= peers._least_known()
    );
end
$$;

-- Returns the keys of a kind and rank that have a place. Under a fair limit the tasks of a key may have several
-- priorities; then it takes the place in the priority of which most were claimed.
create or replace function peers._known_keys(_resume peers.limited_resume, _kind text, _rank smallint)
returns peers.known_keys
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _known peers.known_keys;
begin
    if peers._least_known() <= any (_resume.tasks) then
        select array_agg(e.key order by e.key), array_agg(e.priority order by e.key),
               array_agg(e.position order by e.key)
        into _known
        from (
            select distinct on (k.key) k.key, k.priority, k.position
            from unnest(_resume.kinds, _resume.ranks, _resume.keys, _resume.priorities, _resume.positions,
                        _resume.tasks) k(kind, rank, key, priority, "position", tasks)
            where k.rank = _rank and k.kind = _kind and k.tasks >= peers._least_known()
            order by k.key, k.tasks desc
        ) e;
    end if;
    return row(coalesce(_known.keys, '{}'), coalesce(_known.priorities, '{}'), coalesce(_known.positions, '{}'))
        ::peers.known_keys;
end
$$;

-- Adds the tasks that a claim has started. It forgets the keys that were not claimed from for longest: each costs every
-- claim a look.
create or replace function peers._remember_places(
    _resume peers.limited_resume, _rules peers.limit_rules[], _leases peers.limited_lease[]
) returns peers.limited_resume
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most_keys constant integer := 100;
begin
    if _leases = '{}' then
        return _resume;
    end if;
    select array_agg(e.kind order by e.n), array_agg(e.rank order by e.n), array_agg(e.key order by e.n),
           array_agg(e.priority order by e.n), array_agg(e.position order by e.n), array_agg(e.tasks order by e.n)
    into _resume.kinds, _resume.ranks, _resume.keys, _resume.priorities, _resume.positions, _resume.tasks
    from (
        select e.kind, e.rank, e.key, e.priority, max(e.position) as position, sum(e.tasks)::bigint as tasks,
               min(e.n) as n
        from (
            select r.kind, case when r.fair_at is null then p.priority else 0 end,
                   hash_array_extended(l.limit_keys, 0), p.priority, p.position, p.n, 0
            from unnest(_leases) l
            cross join lateral (
                select (l.tasks).kinds[1] as kind, cardinality((l.tasks).ids) as n,
                       (l.tasks).priorities[cardinality((l.tasks).priorities)] as priority,
                       (l.tasks).positions[cardinality((l.tasks).positions)] as position
            ) p
            join unnest(_rules) r on r.kind = p.kind
            union all
            select k.* from unnest(_resume.kinds, _resume.ranks, _resume.keys, _resume.priorities, _resume.positions,
                                   _resume.tasks) with ordinality k
        ) e(kind, rank, key, priority, "position", tasks, n)
        group by e.kind, e.rank, e.key, e.priority
        order by min(e.n)
        limit _most_keys
    ) e;
    return _resume;
end
$$;

-- Moves places back to the first rows before them. These looks take a tenth of the time at most. moved: the next claim
-- finds rows that this one has not seen.
create or replace function peers._look_before_places(
    _queue text, _rules peers.limit_rules[], inout _resume peers.limited_resume, out moved boolean
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _began constant timestamptz := clock_timestamp();
begin
    moved := false;
    if peers._least_known() <= any (_resume.tasks) then
        select array_agg(least(k.position, late.position - 1) order by k.n),
               coalesce(bool_or(late.position is not null), false)
        into _resume.positions, moved
        from unnest(_resume.kinds, _resume.ranks, _resume.keys, _resume.priorities, _resume.positions, _resume.tasks)
            with ordinality k(kind, rank, key, priority, "position", tasks, n)
        left join unnest(_rules) r on r.kind = k.kind
        left join lateral (
            select y.position from peers.ready_limited y
            where y.queue = _queue and y.kind = r.kind and y.layout = r.layout and y.rank = k.rank and y.key = k.key
              and y.priority = k.priority and y.position <= k.position and k.tasks >= peers._least_known()
            order by y.position limit 1
        ) late on true;
    end if;
    _resume.look_at := clock_timestamp() + 9 * (clock_timestamp() - _began);
end
$$;
