-- Records what operators did, and groups dead letters by their cause.

-- Writes down an action in the transaction of its effect.
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
        peers.now(), session_user, nullif(current_setting('application_name'), ''), inet_client_addr(), _verb, _target,
        _tasks, _children, _task_ids[:100], left(_reason, 1000)
    );
end
$$;

-- Of chained exceptions it is the last one's, which is the one that ended the attempt. Of a group it is that of the
-- first member that has frames. A peer indents the members of a group with "  | ", and cuts off the beginning of a
-- long traceback.
create or replace function peers.innermost_frame(traceback text) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _frame constant text := '  File "([^"\n]+)", line (\d+), in ([^\n]+)$';
    _joint constant text := '(The above exception was the direct cause of|During handling of the above exception, )';
    _part text := traceback;
    _indent text := '^';
    _found text[];
    _last text[];
begin
    if strpos(traceback, e'\n  | ') = 0 then
        -- nearly always: no group, so that the last frame of all is the one
        _last := regexp_match(
            '  File "' || split_part(traceback, e'\n  File "', -1), '(?n)^' || _frame);
        _part := null;
    end if;
    while _part is not null loop
        -- the block of each exception at this depth begins with its header; one that leads to another ends in a joint
        _part := (
            select b.block
            from regexp_split_to_table(_part, _indent || 'Traceback \(most recent call last\):$', 'n')
                 with ordinality b(block, number)
            where b.number > 1 or b.block ~ ('(?n)' || _indent || _frame)
            order by b.block ~ ('(?n)' || _indent || _joint), b.number
            limit 1
        );
        _found := (
            select m.found from regexp_matches(_part, _indent || _frame, 'gn') with ordinality m(found, number)
            order by m.number desc limit 1
        );
        _last := coalesce(_found, _last);
        _indent := _indent || '  \| ';
        exit when _part !~ ('(?n)' || _indent || 'Traceback');
    end loop;
    if _last is null then  -- cut, or written by another program
        _last := (
            select m.found from regexp_matches(traceback, '^[ |]*' || _frame, 'gn') with ordinality m(found, number)
            order by m.number desc limit 1
        );
    end if;
    -- of the path the last folder and the file
    return regexp_replace(_last[1], '^.*/(?=[^/]+/[^/]+$)', '') || ':' || _last[2] || ' in ' || _last[3];
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
cross join lateral (select peers.innermost_frame(f.traceback) as frame) c
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
