-- Schedules that a JSON object describes: peers.add_schedule, and what the code of the peers declares.

create or replace function peers.schedule_settings(_schedule peers.schedule) returns jsonb
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return jsonb_build_object(
        'cron', _schedule.cron, 'every', extract(epoch from _schedule.every), 'timezone', _schedule.timezone,
        'kind', _schedule.kind, 'args', _schedule.args, 'queue', _schedule.queue, 'priority', _schedule.priority,
        'max_attempts', _schedule.max_attempts, 'timeout', extract(epoch from _schedule.timeout),
        'metadata', _schedule.metadata, 'misfire', _schedule.misfire,
        'catch_up', extract(epoch from _schedule.catch_up), 'overlap', _schedule.overlap,
        'jitter', extract(epoch from _schedule.jitter), 'expect_within', extract(epoch from _schedule.expect_within)
    ) || case when _schedule.anchor is null then '{}'
              else jsonb_build_object('anchor', extract(epoch from _schedule.anchor)) end;
end
$$;

comment on function peers.schedule_settings is
    'Returns what users set in a schedule, in a form that can be compared: without the pause. The view '
    'peers.schedule_status calls it.';

-- Returns a schedule that is described by a JSON object, with its defaults.
create or replace function peers._schedule_from_json(_declaration jsonb) returns peers.schedule
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _fields constant text[] := '{name, cron, every, anchor, timezone, kind, args, queue, priority, max_attempts,
                                 timeout, metadata, misfire, catch_up, overlap, jitter, expect_within}';
    _unknown text[];
    _nested text;
begin
    if jsonb_typeof(_declaration) is distinct from 'object' then
        raise exception 'a schedule must be a JSON object, not %', coalesce(jsonb_typeof(_declaration), 'null')
            using errcode = 'PE013', hint = 'For example: {"name": "nightly", "kind": "etl", "cron": "0 2 * * *"}.';
    elsif jsonb_typeof(_declaration -> 'name') is distinct from 'string' then
        raise exception 'a schedule needs a name, which is a string'
            using errcode = 'PE013', hint = 'For example: {"name": "nightly", "kind": "etl", "cron": "0 2 * * *"}.';
    end if;
    _unknown := array(select k.key from jsonb_object_keys(_declaration) k(key) where k.key <> all (_fields));
    if _unknown <> '{}' then
        raise exception 'a schedule has no field %', array_to_string(_unknown, ', ')
            using errcode = 'PE013', hint = 'Its fields are ' || array_to_string(_fields, ', ') || '.';
    end if;
    select d.key into _nested
    from jsonb_each(_declaration) d
    where jsonb_typeof(d.value) in ('object', 'array') and d.key not in ('args', 'metadata')
    limit 1;
    if _nested is not null then
        raise exception 'peers.schedule "%": % must be a string or a number', left(_declaration ->> 'name', 200),
            _nested using errcode = 'PE013';
    end if;
    return jsonb_populate_record(
        null::peers.schedule,
        '{"timezone": "UTC", "args": {}, "queue": "default", "priority": 100, "misfire": "latest",
          "catch_up": "1 day", "overlap": "allow", "jitter": "0"}'
        || (select jsonb_object_agg(d.key, d.value) from jsonb_each(_declaration) d where d.value <> 'null')
    );
exception when data_exception then
    raise exception 'peers.schedule "%": %', left(_declaration ->> 'name', 200), sqlerrm using errcode = 'PE013';
end
$$;

-- Inserts a schedule. Returns false if there is one of this name.
create or replace function peers._insert_schedule(_new peers.schedule) returns boolean
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    insert into peers.schedule (name, kind, cron, every, anchor, timezone, args, queue, priority, max_attempts, timeout,
                                metadata, misfire, catch_up, overlap, jitter, expect_within)
    values (_new.name, _new.kind, _new.cron, _new.every, _new.anchor, _new.timezone, _new.args, _new.queue,
            _new.priority, _new.max_attempts, _new.timeout, _new.metadata, _new.misfire, _new.catch_up, _new.overlap,
            _new.jitter, _new.expect_within)
    on conflict (name) do nothing;
    return found;
end
$$;

-- Changes the schedule of this name. Without an anchor it keeps its own for as long as every is the same, so that a
-- repeated call changes nothing.
create or replace function peers._update_schedule(_new peers.schedule) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    update peers.schedule s
    set kind = _new.kind, cron = _new.cron, every = _new.every, timezone = _new.timezone,
        anchor = coalesce(_new.anchor, case when _new.every = s.every then s.anchor end),
        args = _new.args, queue = _new.queue, priority = _new.priority, max_attempts = _new.max_attempts,
        timeout = _new.timeout, metadata = _new.metadata, misfire = _new.misfire, catch_up = _new.catch_up,
        overlap = _new.overlap, jitter = _new.jitter, expect_within = _new.expect_within
    where s.name = _new.name;
end
$$;

create or replace function peers.add_schedule(schedule jsonb, replace boolean default false) returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _new constant peers.schedule := peers._schedule_from_json(add_schedule.schedule);
    _old peers.schedule;
begin
    if peers._insert_schedule(_new) then
        return true;
    end if;
    if not add_schedule.replace then
        raise exception 'there is already a schedule "%"', left(_new.name, 200)
            using errcode = 'PE013', hint = 'To change it, pass replace => true; in Python: replace=True; in a shell: '
                                             '--replace.';
    end if;
    _old := peers._lock_schedule(_new.name);
    if _old.created_by <> session_user and not peers._is_trusted(session_user) then
        raise exception 'the schedule "%" belongs to another role: % cannot change it', left(_new.name, 200),
            session_user
            using errcode = 'PE013', hint = 'Begin the names of your schedules with a name of your own.';
    end if;
    perform peers._update_schedule(_new);
    return false;
end
$$;

comment on function peers.add_schedule is
    'Adds a schedule that a JSON object describes: name, kind, cron or every, and any other column that users set. '
    'replace: changes the schedule of this name if there is one; a pause stays. A role that only submits changes its '
    'own schedules alone. Returns whether it was added.';

-- Makes a schedule what the code declares. Returns whether it was created or changed; null: neither. Raises
-- lock_not_available if a session has locked it.
create or replace function peers._declare_schedule(_new peers.schedule) returns text
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _settings constant jsonb := peers.schedule_settings(_new);
    _declared jsonb;
begin
    loop
        select s.declared into _declared from peers.schedule s where s.name = _new.name for update nowait;
        exit when found;
        if peers._insert_schedule(_new) then
            update peers.schedule s set declared = _settings where s.name = _new.name;
            return 'created';
        end if;
        -- another session has inserted it just now
    end loop;
    -- what an operator has changed since is kept for as long as the code declares the same
    if _declared is not distinct from _settings then
        return null;
    end if;
    perform peers._update_schedule(_new);
    update peers.schedule s set declared = _settings where s.name = _new.name;
    return 'changed';
end
$$;

-- It waits for no session that has locked a schedule: the row of the peer is locked meanwhile, and a heartbeat would
-- have to wait, too.
create or replace function peers.declare_schedules(peer_id uuid, schedules jsonb)
returns table (schedule text, change text)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '100ms'
as $$
#variable_conflict use_column
declare
    _new peers.schedule;
begin
    perform peers._require_read_committed();
    update peers.peer p
    set schedules = array(
        select e.declaration ->> 'name' from jsonb_array_elements(declare_schedules.schedules) e(declaration)
        order by 1)
    where p.id = declare_schedules.peer_id;
    for _new in
        select d.*
        from jsonb_array_elements(declare_schedules.schedules) e(declaration)
        cross join lateral peers._schedule_from_json(e.declaration) d
        order by d.name
    loop
        schedule := _new.name;
        begin
            change := peers._declare_schedule(_new);
        exception when lock_not_available then
            change := 'locked';
            -- it waits only once: another session may be adding hundreds of schedules
            perform set_config('lock_timeout', '1ms', true);
        end;
        if change is not null then
            return next;
        end if;
    end loop;
end
$$;

comment on function peers.declare_schedules is
    'What a peer calls when it has joined: the schedules that its code declares, each an object with name, kind, cron '
    'or every, and any other column that users set. A declaration that is new or has changed overwrites the schedule; '
    'one that has not changed leaves it as it is, with the changes of operators. A pause stays in any case. Returns '
    'the schedules that were created, changed, or not declared because a session has locked them: call again.';
