-- Limits as JSON: what the code of a peer declares, and what peers.set_limit sets.

create or replace function peers.limit_settings(_limit peers.limit) returns jsonb
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return jsonb_strip_nulls(jsonb_build_object(
        'name', _limit.name, 'kind', _limit.kind, 'queue', _limit.queue, 'key', _limit.key,
        'max_running', _limit.max_running, 'starts', _limit.starts, 'per', extract(epoch from _limit.per),
        'weight', _limit.weight, 'fair', _limit.fair, 'learns', _limit.learns
    ));
end
$$;

comment on function peers.limit_settings is
    'Returns what users set in a limit, in a form that can be compared. The view peers.limit_status calls it.';

-- Returns a limit with these columns, which a JSON object describes, and otherwise those of _base.
create or replace function peers._limit_from_json(_base peers.limit, _columns jsonb) returns peers.limit
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _fields constant text[] := '{name,kind,queue,key,max_running,starts,per,weight,fair,learns}';
    _unknown text;
begin
    select string_agg(k.key, ', ') into _unknown
    from jsonb_object_keys(_columns) k(key)
    where k.key <> all (_fields);
    if _unknown is not null then
        raise exception 'a limit has no field %; its fields are %', _unknown, array_to_string(_fields, ', ')
            using errcode = 'PE014';
    end if;
    return jsonb_populate_record(_base, '{"fair": false, "learns": false}' || _columns);
end
$$;

-- Writes what users set in a limit. Returns whether it is new.
create or replace function peers._write_limit(_new peers.limit) returns boolean
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    update peers.limit l
    set queue = _new.queue, kind = _new.kind, key = _new.key, max_running = _new.max_running, starts = _new.starts,
        per = _new.per, weight = _new.weight, fair = _new.fair, learns = _new.learns
    where l.name = _new.name;
    if found then
        return false;
    end if;
    insert into peers.limit (name, queue, kind, key, max_running, starts, per, weight, fair, learns)
    values (_new.name, _new.queue, _new.kind, _new.key, _new.max_running, _new.starts, _new.per, _new.weight, _new.fair,
            _new.learns)
    on conflict (name) do update  -- another session has created it just now
    set queue = excluded.queue, kind = excluded.kind, key = excluded.key, max_running = excluded.max_running,
        starts = excluded.starts, per = excluded.per, weight = excluded.weight, fair = excluded.fair,
        learns = excluded.learns;
    return true;
end
$$;

create or replace function peers.declare_limits(peer_id uuid, limits jsonb)
returns table (limit_name text, change text, error text)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '5s'
as $$
declare
    _declaration jsonb;
    _new peers.limit;
    _settings jsonb;
begin
    perform peers._require_read_committed();
    update peers.peer p
    set limits = array(
        select d.value ->> 'name' from jsonb_array_elements(declare_limits.limits) d order by 1)
    where p.id = declare_limits.peer_id;
    for _declaration in
        select d.value from jsonb_array_elements(declare_limits.limits) d order by d.value ->> 'name' collate "C"
    loop
        limit_name := _declaration ->> 'name';
        error := null;
        -- one that is refused does not keep the others from being declared
        begin
            _new := peers._limit_from_json(null, _declaration);
            _settings := peers.limit_settings(_new);
            -- What an operator has changed since is kept for as long as the code declares the same. Nothing is written
            -- then, so that peers that start together do not wait for each other.
            continue when exists (
                select from peers.limit l where l.name = _new.name and l.declared = _settings
            );
            change := case when peers._write_limit(_new) then 'created' else 'changed' end;
            update peers.limit l set declared = _settings where l.name = _new.name;
        exception when sqlstate 'PE014' then
            change := 'refused';
            error := sqlerrm;
        end;
        return next;
    end loop;
end
$$;

comment on function peers.declare_limits is
    'What a peer calls when it has joined: the limits that its code declares, each an object with name, kind or queue, '
    'key, max_running, starts, per, weight, fair and learns. A declaration that is new or has changed overwrites the '
    'limit; one that has not changed leaves it as it is, with the changes of operators. Returns the limits that were '
    'created, changed or refused.';
