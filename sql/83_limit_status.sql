-- What limits do now, for people.

create or replace function peers.limit_most_now(_limit peers.limit) returns integer
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return peers._most_now(_limit, peers.now());
end
$$;

comment on function peers.limit_most_now is
    'Returns how many tasks of each key of a limit may run now: less than max_running for a while after a cooldown, if '
    'it learns. The view peers.limit_status calls it.';

create or replace view peers.limit_status as
select l.name, l.kind, l.queue, l.key, l.max_running, l.starts, l.per, l.weight, l.fair,
       coalesce(r.running, 0) as running, coalesce(w.waiting, 0) as waiting,
       case when l.shut_until > c.now then l.shut_until end as shut_until, l.shut_because,
       l.declared is not null as declared_in_code, l.learns, peers.limit_most_now(l) as most_now,
       (
           select count(*) from peers.peer p
           -- the same as peers._is_alive, which a reader may not call
           where p.lost_at is null and p.heartbeat_at + p.lease_timeout > c.now and l.name = any (p.limits)
       ) as declaring_peers,
       coalesce(peers.limit_settings(l) <> l.declared, false) as changed_by_operator, l.changed_at
from peers.limit l
cross join (select peers.now() as now) c
left join lateral (
    select count(*) as running from peers.lease e
    cross join lateral unnest(e.task_ids) i(task_id)
    join peers.task t on t.id = i.task_id and t.token = e.token and t.state = 'running'
    where t.kind = l.kind or t.queue = l.queue
) r on true
left join lateral (
    select count(*) as waiting from peers.ready_limited y where y.kind = l.kind or y.queue = l.queue
) w on true;

comment on view peers.limit_status is 'One row for each limit: what it says, and how many tasks run and wait.';
comment on column peers.limit_status.name is 'The limit''s name.';
comment on column peers.limit_status.kind is 'The kind that it limits.';
comment on column peers.limit_status.queue is 'The queue that it limits.';
comment on column peers.limit_status.key is 'The path into args that tells its keys apart.';
comment on column peers.limit_status.max_running is 'How many tasks of each key may run at once.';
comment on column peers.limit_status.starts is 'How many tasks of each key may start in a period.';
comment on column peers.limit_status.per is 'The length of that period.';
comment on column peers.limit_status.weight is 'The path into args to a task''s weight.';
comment on column peers.limit_status.fair is 'Whether keys take turns.';
comment on column peers.limit_status.running is 'How many of its tasks peers have claimed.';
comment on column peers.limit_status.waiting is 'How many of its ready tasks wait for it or for a peer.';
comment on column peers.limit_status.shut_until is 'No task starts before. Null: it is open.';
comment on column peers.limit_status.shut_because is 'Why it was last shut.';
comment on column peers.limit_status.declared_in_code is 'A peer''s code has declared it.';
comment on column peers.limit_status.learns is 'Whether a cooldown halves how many tasks may run.';
comment on column peers.limit_status.most_now is
    'How many tasks of each key may run now: less than max_running for a while after a cooldown, if it learns.';
comment on column peers.limit_status.declaring_peers is 'How many live peers declare it.';
comment on column peers.limit_status.changed_by_operator is 'Whether it differs from what code declared last.';
comment on column peers.limit_status.changed_at is 'When its row was last changed.';

create or replace function peers.limit_keys(name text, most integer default 10)
returns table (
    key text, running bigint, waiting bigint, weight numeric, started bigint, locked_by integer,
    locked_by_application text
)
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
#variable_conflict use_column
declare
    _most_read constant integer := 100000;
    _now constant timestamptz := peers.now();
    _limit peers.limit;
begin
    select l.* into _limit from peers.limit l where l.name = limit_keys.name;
    if not found then
        raise exception 'there is no limit "%"', coalesce(left(limit_keys.name, 200), '')
            using errcode = 'PE015', hint = 'peers.limit_status lists them.';
    end if;
    return query
    with places as materialized (
        -- where the limit is among the keys of each row
        select y.queue, y.kind, y.layout, (
            select count(*)::integer from peers.limit o
            where (o.kind = y.kind or o.queue = y.queue) and o.name <= _limit.name
        ) as number
        from peers._limited_layouts() y
        where (y.kind = _limit.kind or y.queue = _limit.queue) and y.layout = peers._layout(y.queue, y.kind)
    ), waiting as (
        select r.limit_key, count(*) as waiting, min(r.task_id) as sample
        from (
            select y.limit_keys[p.number] as limit_key, y.task_id
            from places p
            join peers.ready_limited y on y.queue = p.queue and y.kind = p.kind and y.layout = p.layout
            limit _most_read
        ) r
        group by r.limit_key
    ), running as (
        select peers._limit_key(_limit.seed, _limit.key, t.args) as limit_key, count(*) as running,
               sum(peers._weight(t.args, _limit.weight, _limit.max_running)) as weight, min(t.id) as sample
        from peers.lease e
        cross join lateral unnest(e.task_ids) i(task_id)
        cross join lateral (
            select t.* from peers.task t where t.id = i.task_id and t.token = e.token and t.state = 'running' offset 0
        ) t
        where t.kind = _limit.kind or t.queue = _limit.queue
        group by 1
    ), locks as materialized (
        select distinct on (h.object) h.object, h.pid, h.application_name from peers._key_locks() h
        order by h.object, h.pid
    ), top as (
        select k.*, h.pid, h.application_name
        from (
            select coalesce(w.limit_key, r.limit_key) as limit_key, coalesce(r.running, 0) as running,
                   coalesce(w.waiting, 0) as waiting, coalesce(r.weight, 0) as weight,
                   coalesce(r.sample, w.sample) as sample
            from waiting w full join running r on r.limit_key = w.limit_key
        ) k
        left join locks h on h.object = peers._lock_object(k.limit_key)
        order by h.pid is null, k.waiting desc, k.running desc, k.limit_key
        limit limit_keys.most
    )
    select (
               select t.args #>> string_to_array(_limit.key, '.') from peers.task t where t.id = o.sample
           ), o.running, o.waiting, case when _limit.weight is not null then o.weight end,
           case when _limit.starts is not null then (
               select coalesce(sum(s.tasks), 0)::bigint from peers.limit_start s
               where s.limit_key = o.limit_key and s.started_at > _now - _limit.per
           ) end, o.pid, o.application_name
    from top o
    order by o.pid is null, o.waiting desc, o.running desc, 1;
end
$$;

comment on function peers.limit_keys is
    'Returns the keys of a limit that have the most waiting tasks: how many of their tasks run and wait, how much the '
    'running ones weigh, and how many started in the last period. A limit without a key has one row. locked_by: the '
    'pid of a session that holds the advisory lock of the key and is not claiming; no task of the key starts. Locked '
    'keys come first. It reads 100000 waiting tasks at most. Raises PE015 if there is no such limit.';
