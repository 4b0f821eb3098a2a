-- The starts that limits with a rate count.

-- Returns when the tasks of a claim may start. Null: at once, because no limit has a rate.
create or replace function peers._start_at(_call peers.claim_call, _rules peers.limit_rules) returns timestamptz
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case when array_remove(_rules.starts, null) <> '{}' then _call.claimed_at + peers._start_hold() end;
end
$$;

-- Inserts the starts of a claim, one row for each key of a limit with a rate. The claim has the keys locked.
create or replace function peers._insert_starts(
    _call peers.claim_call, _rules peers.limit_rules, _leases peers.limited_lease[]
) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most_rows constant integer := 1000;
    _key record;
begin
    for _key in
        select k.key, k.per, sum(cardinality((l.tasks).ids)) as tasks
        from unnest(_leases) l
        cross join lateral unnest(l.limit_keys, _rules.starts, _rules.pers) k(key, starts, per)
        where k.starts is not null
        group by k.key, k.per
    loop
        insert into peers.limit_start (limit_key, started_at, tasks)
        values (_key.key, peers._start_at(_call, _rules), _key.tasks);
        if _most_rows < (
            select count(*) from (
                select from peers.limit_start s where s.limit_key = _key.key limit _most_rows + 1
            ) s
        ) then
            perform peers._fold_starts(_key.key, _key.per, peers._start_at(_call, _rules));
        end if;
    end loop;
end
$$;

-- Merges the starts of a key, which the caller has locked: those of each hundredth of the period into one row. That row
-- has the time of the latest of them, so that none leaves the period too early: at most a hundredth of it too late.
-- Starts from before the period count no more; they are kept for a minute, in case the period is made longer.
create or replace function peers._fold_starts(_limit_key bigint, _per interval, _now timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _period constant interval := _per + peers._start_slack();
    _grace constant interval := '1 minute';
begin
    with folded as (
        delete from peers.limit_start s
        where s.ctid = any (array(
            select s.ctid from peers.limit_start s where s.limit_key = _limit_key for update skip locked
        ))
        returning s.started_at, s.tasks
    )
    insert into peers.limit_start (limit_key, started_at, tasks)
    select _limit_key, max(f.started_at), sum(f.tasks)
    from folded f
    where f.started_at > _now - _period - _grace
    group by date_bin(
        case when f.started_at > _now - _period then _period / 100 else interval '1 second' end,
        f.started_at, '2000-01-01 00:00:00+00'
    ), f.started_at > _now - _period;
end
$$;
