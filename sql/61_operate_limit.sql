-- What operators and applications do with limits: set, remove, shut and open.

-- Locks a limit and returns it. Raises PE015 if there is none.
create or replace function peers._lock_limit(_name text) returns peers.limit
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _limit peers.limit;
begin
    perform peers._require_read_committed();
    select l.* into _limit from peers.limit l where l.name = _name for update;
    if not found then
        raise exception 'there is no limit "%"', coalesce(left(_name, 200), '')
            using errcode = 'PE015', hint = 'peers.limit_status lists them.';
    end if;
    return _limit;
end
$$;

create or replace function peers.set_limit(name text, settings jsonb, reason text default null) returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _old peers.limit;
    _is_new boolean;
begin
    perform peers._require_read_committed();
    select l.* into _old from peers.limit l where l.name = set_limit.name for update;
    _is_new := peers._write_limit(
        peers._limit_from_json(
            _old,
            case when _old.name is null then set_limit.settings
                 else jsonb_build_object('fair', _old.fair, 'learns', _old.learns) || set_limit.settings end
            || jsonb_build_object('name', set_limit.name)
        )
    );
    perform peers._record_action(
        'set_limit', jsonb_build_object('limit', set_limit.name, 'settings', set_limit.settings), set_limit.reason)
    where _is_new or exists (
        select from peers.limit l
        where l.name = set_limit.name and peers.limit_settings(l) <> peers.limit_settings(_old));
    return _is_new;
exception when sqlstate 'PE014' then
    -- without the hint of the trigger, which is an example of an INSERT
    raise exception '%', regexp_replace(sqlerrm, '^peers\.limit: ', '') using errcode = 'PE014';
end
$$;

comment on function peers.set_limit is
    'Creates a limit or changes it: SELECT peers.set_limit(''stripe'', ''{"kind": "charge", "max_running": 8}''). The '
    'settings are columns of peers.limit; those that are left out stay as they are, null clears one. Returns '
    'whether the limit is new. A declaration in code that changes later overwrites it. It writes peers.action, with '
    'the reason.';

create or replace function peers.remove_limit(name text, reason text default null) returns void
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _limit constant peers.limit := peers._lock_limit(remove_limit.name);
begin
    delete from peers.limit l where l.name = _limit.name;
    perform peers._record_action(
        'remove_limit', jsonb_build_object('limit', _limit.name), remove_limit.reason);
end
$$;

comment on function peers.remove_limit is
    'Removes a limit. Its tasks run without it as soon as peers have moved them. If code declares it, the next peer '
    'that joins creates it again. It writes peers.action, with the reason.';

create or replace function peers.shut_limit(
    name text, until timestamptz default 'infinity', reason text default null
) returns void
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _limit constant peers.limit := peers._lock_limit(shut_limit.name);
begin
    if coalesce(shut_limit.until <= peers.now(), true) then
        raise exception 'until must be a time in the future, not %', coalesce(shut_limit.until::text, 'null')
            using errcode = 'PE014', hint = 'peers.open_limit opens a limit.';
    end if;
    update peers.limit l set shut_until = shut_limit.until, shut_because = left(shut_limit.reason, 1000)
    where l.name = _limit.name;
    perform peers._record_action(
        'shut_limit', jsonb_build_object('limit', _limit.name, 'until', shut_limit.until), shut_limit.reason);
end
$$;

comment on function peers.shut_limit is
    'Shuts a limit: no task under it starts before this time. Running tasks continue. It replaces an earlier time, and '
    'a limit that learns does not learn from it. Without a time it is shut until peers.open_limit. It writes '
    'peers.action, with the reason.';

create or replace function peers.open_limit(name text, reason text default null) returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _limit constant peers.limit := peers._lock_limit(open_limit.name);
begin
    update peers.limit l set shut_until = null, shut_because = null where l.name = _limit.name;
    if coalesce(_limit.shut_until > peers.now(), false) then
        perform peers._record_action('open_limit', jsonb_build_object('limit', _limit.name), open_limit.reason);
        return true;
    end if;
    return false;
end
$$;

comment on function peers.open_limit is
    'Opens a limit that is shut. Returns whether it was shut. It writes peers.action, with the reason.';

create or replace function peers.shut_limit_of_task(task_id bigint, duration interval, reason text default null)
returns interval
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '1s'
as $$
declare
    _names text[];
begin
    select array_agg(l.name order by l.name) into _names
    from peers.task t join peers.limit l on l.kind = t.kind or l.queue = t.queue
    where t.id = shut_limit_of_task.task_id;
    if cardinality(_names) = 1 then
        return peers.start_cooldown(_names[1], shut_limit_of_task.duration, shut_limit_of_task.reason);
    end if;
    raise exception 'task % is under %', shut_limit_of_task.task_id,
        coalesce('several limits: ' || array_to_string(_names, ', '), 'no limit')
        using errcode = 'PE014',
              hint = 'Give the name of one, or of the external system that needs a cooldown.';
end
$$;

comment on function peers.shut_limit_of_task is
    'What a peer calls for current_task().cooldown() without a name: starts a cooldown of the only limit that the task '
    'is under. Returns how long it lasts from now.';
