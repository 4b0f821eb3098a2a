-- What limits do now, for people.

create or replace view peers.limit_status as
select l.name, l.kind, l.queue, l.key, l.max_running, l.starts, l.per, l.weight, l.fair,
       coalesce(r.running, 0) as running, coalesce(w.waiting, 0) as waiting,
       case when l.shut_until > c.now then l.shut_until end as shut_until, l.shut_because,
       l.declared is not null as declared_in_code
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
