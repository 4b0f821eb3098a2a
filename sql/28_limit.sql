-- What a row of peers.limit may say, and what a change of it does.

-- Returns the first thing that is wrong with a limit, with an example. Null: nothing is wrong.
create or replace function peers._limit_problem(_limit peers.limit) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    -- Refuses the operators -> and ->> and the $ of a JSON path: a path that no args have would be one key for all.
    _path constant text := '^(?!\$\.|.*->)[^.[:cntrl:]]{1,100}(\.[^.[:cntrl:]]{1,100}){0,9}$';
begin
    return case
        when _limit.name is null or length(_limit.name) not between 1 and 200 or _limit.name ~ '[[:cntrl:]]' then
            'name must have 1 to 200 characters, without control characters, such as ''stripe'''
        when num_nonnulls(_limit.kind, _limit.queue) <> 1 then
            'give either a kind or a queue, such as kind = ''invoice.charge''; this limit has '
            || case when _limit.kind is null then 'none' else 'both' end
        when length(_limit.kind) not between 1 and 200 or length(_limit.queue) not between 1 and 200 then
            'kind and queue must have 1 to 200 characters'
        when _limit.key !~ _path then
            'key must be a path into args, such as ''account_id'' or ''customer.id'', not ''' || left(_limit.key, 200)
            || ''''
        when _limit.weight !~ _path then
            'weight must be a path into args, such as ''tokens'' or ''image.megabytes'', not '''
            || left(_limit.weight, 200) || ''''
        when _limit.max_running not between 1 and 1000000 then
            'max_running must be 1 to 1000000, not ' || _limit.max_running
            || '; shut_until = ''infinity'' stops all of its tasks'
        when num_nonnulls(_limit.starts, _limit.per) = 1 then
            'starts and per belong together, such as starts = 10, per = ''1 second'''
        when _limit.starts not between 1 and 1000000 then
            'starts must be 1 to 1000000, not ' || _limit.starts
        when _limit.per not between interval '10 milliseconds' and interval '30 days'
             or extract(year from _limit.per) <> 0 or extract(month from _limit.per) <> 0 then
            'per must be 10 milliseconds to 30 days, without months, such as ''1 second'', not ' || _limit.per
        when _limit.weight is not null and _limit.max_running is null then
            'weight needs max_running, which bounds the sum of the weights, such as max_running = 100'
        when _limit.fair and _limit.key is null then
            'fair needs a key: the next task comes from another value of it, such as key = ''account_id'''
        when _limit.learns and _limit.max_running is null then
            'learns needs max_running, the most that it may rise to, such as max_running = 20'
        when num_nonnulls(_limit.max_running, _limit.starts, _limit.shut_until) = 0 and not _limit.fair then
            'a limit needs max_running, or starts and per, or fair, such as max_running = 4'
    end;
end
$$;

-- Returns the values that decide where the tasks of a limit wait. When they change, these tasks are moved.
create or replace function peers._limit_place(_limit peers.limit) returns jsonb
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return jsonb_build_array(_limit.name, _limit.queue, _limit.kind, _limit.key, _limit.fair);
end
$$;

-- Before a row of peers.limit is written: refuses what is malformed, and keeps the columns that are the scheduler's.
create or replace function peers.check_limit() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most_together constant integer := 4;
    _problem text := peers._limit_problem(new);
begin
    if _problem is null and _most_together <= (
        select count(*) filter (where l.kind = new.kind or l.queue = new.queue) + (
            select coalesce(max(o.limits), 0)
            from (
                select count(*) as limits from peers.limit o
                where o.name <> new.name and num_nonnulls(o.kind, new.kind) = 1 group by o.kind, o.queue
            ) o
        )
        from peers.limit l where l.name <> new.name
    ) then
        _problem := 'at most ' || _most_together || ' limits may hold for one task, those of its kind and those of '
                    'its queue: delete one that peers.limit_status lists';
    end if;
    if _problem is not null then
        raise exception 'peers.limit: %', _problem using errcode = 'PE014',
            hint = 'For example: INSERT INTO peers.limit (name, kind, key, max_running) '
                   'VALUES (''stripe'', ''invoice.charge'', ''account_id'', 8);';
    end if;
    if tg_op = 'INSERT' or to_jsonb(new) - 'counts_tasks' <> to_jsonb(old) - 'counts_tasks' then
        new.changed_at := peers.now();
    end if;
    if tg_op = 'INSERT' or peers._limit_place(new) <> peers._limit_place(old) then
        new.seed := (random() * 18e18 - 9e18)::bigint;
        new.counts_tasks := true;
    end if;
    return new;
end
$$;

comment on function peers.check_limit() is 'Trigger: refuses malformed limits, with an example (PE014).';

create or replace trigger check_limit before insert or update on peers.limit
    for each row execute function peers.check_limit();

-- After a change of peers.limit: notifies the peers, which move tasks to where they wait now, and claim.
create or replace function peers.limits_changed() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if tg_op = 'UPDATE' and to_jsonb(new) - 'counts_tasks' = to_jsonb(old) - 'counts_tasks' then
        return null;
    end if;
    perform peers._notify('limits');
    return null;
end
$$;

comment on function peers.limits_changed() is 'Trigger: notifies the peers that limits have changed.';

create or replace trigger limits_changed after insert or update or delete on peers.limit
    for each row execute function peers.limits_changed();
