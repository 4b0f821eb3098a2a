-- Where a claim reads the table ready.
--
-- A claim reads from where the peer's last claim of the queue ended, because before that place lie the dead index
-- entries of every task that was claimed since the last vacuum. What is left to read is a list of ranges, which the
-- peer keeps between two claims. Two sorts of rows can be before these ranges: rows whose transaction committed late,
-- and rows that were locked. A claim that gets less than it wants finds them, and so does one claim every ten seconds.

do $$
begin
    create type peers.claim_range as (
        kind text, after_priority smallint, after_position bigint, to_priority smallint, to_position bigint,
        share integer
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.claim_range is
    'A part of the table ready: the rows of one kind after (after_priority, after_position) and up to (to_priority, '
    'to_position). A claim takes up to share rows of it; null: as many as it wants.';

do $$
begin
    create type peers.claim_resume as (
        peer_id uuid, ranges peers.claim_range[], look_at timestamptz, limited_kinds bigint
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.claim_resume is
    'Where the next claim of a peer and a queue begins. Pass to peers.claim what its last call returned, unchanged. '
    'ranges: what is left to read, by kind and priority. look_at: when a claim that gets less than it wants looks at '
    'the rows before the ranges. Ten seconds later every claim reads from the start. limited_kinds: a hash of '
    'the kinds of the peer that were left out because they are under a limit.';

do $$
begin
    create type peers.claim_row as (spot tid, task_id bigint, kind text, priority smallint, "position" bigint);
exception when duplicate_object then null;
end
$$;

comment on type peers.claim_row is 'A row of the table ready that a claim has read.';

-- Returns the ranges of the whole queue for these kinds.
create or replace function peers._all_ranges(_kinds text[]) returns peers.claim_range[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return array(
        select row(k.kind, -32768, -9223372036854775808, 32767, 9223372036854775807, null)::peers.claim_range
        from unnest(_kinds) k(kind)
        order by k.kind
    );
end
$$;

-- Returns the parts of the queue that come before ranges.
create or replace function peers._ranges_before(_ranges peers.claim_range[]) returns peers.claim_range[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return array(
        select row(
            r.kind, r.after_priority, -9223372036854775808, r.after_priority, r.after_position, null
        )::peers.claim_range
        from unnest(_ranges) r
        where r.after_position > -9223372036854775808
        order by r.kind, r.after_priority
    );
end
$$;

-- Returns what is left of ranges after (_priority, _position).
create or replace function peers._ranges_beyond(_ranges peers.claim_range[], _priority smallint, _position bigint)
returns peers.claim_range[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return array(
        select row(
            r.kind,
            case when begins.before then _priority else r.after_priority end,
            case when begins.before then _position else r.after_position end,
            r.to_priority, r.to_position, null
        )::peers.claim_range
        from unnest(_ranges) r
        cross join lateral (
            select (r.after_priority, r.after_position) < (_priority, _position) as before
        ) begins
        where (r.to_priority, r.to_position) > (_priority, _position)
    );
end
$$;

-- Returns the ranges that are left after rows have been read, which are sorted by priority and position. A single kind
-- or priority stands for all rows. Each kind and priority that was ever read has a range that begins at its last
-- position. It ends before the next such priority, because urgent tasks may still come in between. With more than 1000
-- ranges the peer starts over: each costs every claim a look.
create or replace function peers._ranges_after(
    _ranges peers.claim_range[], _kinds text[], _priorities smallint[], _positions bigint[]
) returns peers.claim_range[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _lowest constant bigint := -9223372036854775808;
    _place integer;  -- of the range that the rows are in
    _left peers.claim_range[];
begin
    if _kinds is null then
        return _ranges;
    end if;
    if _kinds[1] = all (_kinds) and _priorities[1] = all (_priorities) then
        _place := cardinality(_ranges);  -- a peer of one kind usually reads its last range
        if _ranges[_place].kind <> _kinds[1] or _ranges[_place].after_priority <> _priorities[1] then
            _place := (
                select r.n
                from unnest(_ranges) with ordinality
                    r(kind, after_priority, after_position, to_priority, to_position, share, n)
                where r.kind = _kinds[1] and r.after_priority = _priorities[1]
                limit 1
            );
        end if;
        if _ranges[_place].after_position > _lowest then
            _ranges[_place].after_position := greatest(
                _ranges[_place].after_position, _positions[cardinality(_positions)]
            );
            return _ranges;
        end if;
    end if;
    _left := array(
        select row(r.kind, r.priority, r.position, r.to_priority, 9223372036854775807, null)::peers.claim_range
        from (
            select p.kind, p.priority, p.position,
                   coalesce(lead(p.priority) over (partition by p.kind order by p.priority, p.position) - 1, 32767)
                       as to_priority
            from (
                select p.kind, p.priority, max(p.position) as position
                from (
                    select r.kind, r.after_priority as priority, r.after_position as position
                    from unnest(_ranges) r where r.after_position > _lowest
                    union all
                    select coalesce(p.kind, _kinds[1]), coalesce(p.priority, _priorities[1]), p.position
                    from unnest(_kinds, _priorities, _positions) p(kind, priority, position)
                ) p
                group by p.kind, p.priority
                union all
                select distinct r.kind, -32768, _lowest from unnest(_ranges) r
            ) p
        ) r
        where r.to_priority >= r.priority
        order by r.kind, r.priority
    );
    if cardinality(_left) > 1000 then
        _kinds := array(select distinct r.kind from unnest(_left) r);
        if cardinality(_left) > 1000 + cardinality(_kinds) then
            return peers._all_ranges(_kinds);
        end if;
    end if;
    return _left;
end
$$;

-- Finds the first _wanted rows of several ranges, by priority and position. Returns the ranges that have such rows,
-- each with its share, and the place of the last row. It takes no locks, so the rows may be gone when they are locked.
-- exhaustive: if a claim of these shares gets less than it wanted, there is nothing more.
--
-- It merges the ranges in rounds. Each round reads the same number of rows from each range that can still matter. The
-- next round reads more of the ranges that did not reach the last wanted row. So it reads a few times _wanted rows, not
-- _wanted rows of each of hundreds of kinds.
create or replace function peers._plan_claim(
    _queue text, _ranges peers.claim_range[], _wanted integer,
    out planned peers.claim_range[], out exhaustive boolean, out end_priority smallint, out end_position bigint
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _rows integer;  -- of each range in this round
    _numbers bigint[];
    _shares integer[];
    _found integer;
    _unfinished integer;
begin
    if _ranges[1].kind = _ranges[cardinality(_ranges)].kind then
        -- the ranges of one kind are in order
        planned := _ranges;
        exhaustive := true;
        return;
    end if;
    -- the first row of each range; for a claim of one task that is all
    select array_agg(row(p.kind, p.after_priority, p.after_position, p.to_priority, p.to_position, _wanted)
                         ::peers.claim_range order by r.priority, r.position),
           (array_agg(r.priority order by r.priority, r.position))[1],
           (array_agg(r.position order by r.priority, r.position))[1]
    into planned, end_priority, end_position
    from unnest(_ranges) p
    cross join lateral (
        select r.priority, r.position from peers.ready r
        where r.queue = _queue and r.kind = p.kind
          and (r.priority, r.position) > (p.after_priority, p.after_position)
          and (r.priority, r.position) <= (p.to_priority, p.to_position)
        order by r.priority, r.position
        limit 1
    ) r;
    planned := coalesce(planned, '{}');
    exhaustive := cardinality(planned) <= 1;
    if exhaustive then
        end_priority := null;
        end_position := null;
        return;
    elsif _wanted = 1 then
        planned := planned[:1];
        planned[1].to_priority := end_priority;
        planned[1].to_position := end_position;
        return;
    end if;

    planned := planned[:_wanted];  -- they are sorted by their first rows
    _rows := least(_wanted, 2 + 2 * _wanted / cardinality(planned));
    loop
        select array_agg(s.n), array_agg(s.share), sum(s.found),
               count(*) filter (where s.found = _rows and s.last < _wanted),
               max(s.end_priority), max(s.end_position)
        into _numbers, _shares, _found, _unfinished, end_priority, end_position
        from (
            select r.n, count(*) as found, count(*) filter (where r.place <= _wanted)::integer as share,
                   max(r.place) as last,
                   max(r.priority) filter (where r.place = _wanted) as end_priority,
                   max(r.position) filter (where r.place = _wanted) as end_position
            from (
                select p.n, r.priority, r.position, row_number() over (order by r.priority, r.position) as place
                from unnest(planned) with ordinality
                    p(kind, after_priority, after_position, to_priority, to_position, share, n)
                cross join lateral (
                    select r.priority, r.position from peers.ready r
                    where r.queue = _queue and r.kind = p.kind
                      and (r.priority, r.position) > (p.after_priority, p.after_position)
                      and (r.priority, r.position) <= (p.to_priority, p.to_position)
                    order by r.priority, r.position
                    limit _rows
                ) r
            ) r
            group by r.n
        ) s;
        planned := array(
            select row(
                r.kind, r.after_priority, r.after_position,
                case when ends.first then end_priority else r.to_priority end,
                case when ends.first then end_position else r.to_position end, s.share
            )::peers.claim_range
            from unnest(_numbers, _shares) s(n, share)
            cross join lateral (select (planned[s.n]).*) r
            cross join lateral (
                select (end_priority, end_position) < (r.to_priority, r.to_position) is true as first
            ) ends
            where s.share > 0
        );
        exit when _unfinished = 0;
        _rows := least(_wanted, greatest(4 * _rows, 2 * _wanted / _unfinished));
    end loop;
    exhaustive := _found < _wanted;
end
$$;

-- Returns the rows of planned ranges, by priority and position, without locks. A claim that looks at more rows than it
-- takes must not lock them all: other claims would skip them.
create or replace function peers._read_ready(_queue text, _planned peers.claim_range[], _most integer)
returns peers.claim_row[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return array(
        select row(r.spot, r.task_id, r.kind, r.priority, r.position)::peers.claim_row
        from (
            select r.spot, r.task_id, p.kind, r.priority, r.position
            from unnest(_planned) p
            cross join lateral (
                select r.ctid as spot, r.task_id, r.priority, r.position
                from peers.ready r
                where r.queue = _queue and r.kind = p.kind
                  and (r.priority, r.position) > (p.after_priority, p.after_position)
                  and (r.priority, r.position) <= (p.to_priority, p.to_position)
                order by r.priority, r.position
                limit coalesce(p.share, _most)
            ) r
            limit _most
        ) r
        order by r.priority, r.position
    );
end
$$;
