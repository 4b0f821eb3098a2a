-- Records what operators did, and groups dead letters by their cause.

-- Returns a filter with at most 10 ids. A filter may have thousands, and one row of peers.action would then take as
-- much space as all others.
create or replace function peers._shorten_ids(_filter jsonb) returns jsonb
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most constant integer := 10;
begin
    if _filter -> 'ids' is null or jsonb_array_length(_filter -> 'ids') <= _most then
        return _filter;
    end if;
    return _filter || jsonb_build_object(
        'ids', jsonb_path_query_array(_filter, '$.ids[0 to $last]', jsonb_build_object('last', _most - 1)),
        'more_ids', jsonb_array_length(_filter -> 'ids') - _most);
end
$$;

-- Records an action in the transaction of its effect.
create or replace function peers._record_action(
    _verb text, _target jsonb, _reason text, _tasks bigint default null, _children bigint default null,
    _task_ids bigint[] default null
) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    insert into peers.action (at, role, client, host, verb, target, tasks, children, task_ids, reason)
    values (
        peers.now(), session_user, nullif(current_setting('application_name'), ''), inet_client_addr(), _verb,
        peers._shorten_ids(_target), _tasks, _children, _task_ids[:100], left(_reason, 1000)
    );
end
$$;

-- Takes a line such as `File "/srv/shop/tasks.py", line 42, in charge` without its first 6 characters, and returns its
-- short form. Null: it is no such line. It uses no regular expressions, which take fifty times as long.
create or replace function peers._short_frame(_line text) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _file constant text := split_part(_line, '", line ', 1);
    _rest constant text := split_part(_line, '", line ', 2);
    _folder constant text := split_part(_file, '/', -2);
begin
    if strpos(_rest, ', in ') = 0 then
        return null;
    end if;
    return case when _folder = '' then '' else _folder || '/' end || split_part(_file, '/', -1)
        || ':' || split_part(_rest, ', in ', 1) || ' in ' || split_part(_rest, ', in ', 2);
end
$$;

-- Returns the innermost frame, in short, of the first member of a group that has frames. A peer indents the
-- members of a group with "  | ".
create or replace function peers._innermost_of_group(_traceback text) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _frame constant text := '  File "([^\n]+)$';
    _joint constant text := '(The above exception was the direct cause of|During handling of the above exception, )';
    _part text := _traceback;
    _indent text := '^';
    _last text;
begin
    loop
        -- the block of each exception at this depth begins with its header; one that leads to another ends in a joint
        _part := (
            select b.block
            from regexp_split_to_table(_part, _indent || 'Traceback \(most recent call last\):$', 'n')
                 with ordinality b(block, number)
            where b.number > 1 or b.block ~ ('(?n)' || _indent || _frame)
            order by b.block ~ ('(?n)' || _indent || _joint), b.number
            limit 1
        );
        _last := coalesce(
            (
                select m.found[1] from regexp_matches(_part, _indent || _frame, 'gn') with ordinality m(found, number)
                order by m.number desc limit 1
            ),
            _last
        );
        _indent := _indent || '  \| ';
        exit when _part is null or _part !~ ('(?n)' || _indent || 'Traceback');
    end loop;
    return peers._short_frame(_last);
end
$$;

-- Of chained exceptions it is the last one's, which is the one that ended the attempt; of a group, that of its first
-- member. The beginning of a long traceback is cut off.
create or replace function peers.innermost_frame(traceback text) returns text
    language plpgsql immutable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _in_group text;
begin
    if strpos(traceback, e'\n  | ') > 0 then
        _in_group := peers._innermost_of_group(traceback);
    end if;
    return coalesce(
        _in_group, peers._short_frame(split_part(split_part(traceback, '  File "', -1), e'\n', 1)));
end
$$;

comment on function peers.innermost_frame is
    'Returns the place in the code where the exception of a traceback was raised, such as shop/tasks.py:42 in charge. '
    'Null: the traceback has no frame, or there is none.';

create or replace view peers.dead_cause as
select d.kind, f.error_type, c.frame, count(*) as tasks, min(d.died_at) as oldest, max(d.died_at) as newest,
       max(d.task_id) as example_id
from peers.dead d
left join lateral (
    select x.error_type, x.traceback from peers.failure x where x.task_id = d.task_id order by x.id desc limit 1
) f on true
cross join lateral (select peers.innermost_frame(f.traceback) as frame offset 0) c
group by d.kind, f.error_type, c.frame;

comment on view peers.dead_cause is
    'The dead letters, grouped by what ended their last attempt. SELECT peers.retry_dead(''{"kind": ..., "error_type": '
    '..., "frame": ...}'') runs one group again.';
comment on column peers.dead_cause.kind is 'Their kind.';
comment on column peers.dead_cause.error_type is
    'The type of the last failure: the exception''s name, or timeout, crash, lost ...';
comment on column peers.dead_cause.frame is
    'Where the exception was raised, such as shop/tasks.py:42 in charge. Null: there is no traceback.';
comment on column peers.dead_cause.tasks is 'How many dead letters have this cause.';
comment on column peers.dead_cause.oldest is 'When the first of them died.';
comment on column peers.dead_cause.newest is 'When the last of them died.';
comment on column peers.dead_cause.example_id is 'One of them: the task that was submitted last.';
