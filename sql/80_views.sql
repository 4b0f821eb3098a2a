-- The views that people read.

create or replace view peers.running as
select t.id as task_id, t.kind, t.queue, l.peer_id, p.host, p.pid, t.attempt,
       coalesce(t.max_attempts, k.max_attempts, 5::smallint) as max_attempts,
       l.claimed_at as since,
       least(p.heartbeat_at, c.now) + p.lease_timeout as lease_expires_at,
       -- a value that was written by hand must not make the view fail for all rows
       case when coalesce(t.timeout, k.timeout) is not null
            then l.claimed_at + least(coalesce(t.timeout, k.timeout), interval '30 days') end as times_out_at,
       g.done as progress_done, g.total as progress_total,
       r.token is not null as cancel_requested
from peers.lease l
cross join lateral unnest(l.task_ids) i(task_id)
join peers.task t on t.id = i.task_id and t.token = l.token and t.state = 'running'
cross join (select peers.now() as now) c
left join peers.kind k on k.kind = t.kind
left join peers.peer p on p.id = l.peer_id
left join peers.task_progress g on g.token = l.token and g.task_id = t.id
left join peers.cancel_request r on r.token = l.token and r.task_id = t.id;

comment on view peers.running is 'The tasks that are running now, and where.';
comment on column peers.running.task_id is 'The task.';
comment on column peers.running.kind is 'Its kind.';
comment on column peers.running.queue is 'Its queue.';
comment on column peers.running.peer_id is 'The peer that runs it.';
comment on column peers.running.host is 'The peer''s host.';
comment on column peers.running.pid is 'The peer''s process id.';
comment on column peers.running.attempt is 'The number of this attempt.';
comment on column peers.running.max_attempts is
    'How many attempts it may have, by what the task and its kind say now.';
comment on column peers.running.since is 'When the peer claimed it.';
comment on column peers.running.lease_expires_at is
    'When other peers may reclaim it, unless the peer sends a heartbeat before that.';
comment on column peers.running.times_out_at is
    'When the attempt exceeds its timeout, counted from the claim. A kind''s timeout is what was declared last; a peer '
    'uses what its own handler declares. Null: never.';
comment on column peers.running.progress_done is 'How much the handler has done, as it last reported.';
comment on column peers.running.progress_total is 'How much there is to do, as the handler last reported.';
comment on column peers.running.cancel_requested is 'Its peer was asked to stop it.';

create or replace view peers.peer_status as
select p.id as peer_id, p.host, p.pid, p.queues, p.kinds,
       (select coalesce(sum(l.open), 0) from peers.lease l where l.peer_id = p.id) as running,
       p.heartbeat_at as last_heartbeat,
       -- the same as peers._is_alive, which a reader may not call
       p.lost_at is null and p.heartbeat_at + p.lease_timeout > c.now as alive,
       p.joined_at, p.lost_at, p.lost_because, p.version
from peers.peer p
cross join (select peers.now() as now) c;

comment on view peers.peer_status is
    'The peers. A peer that left is not listed; a peer that was lost is listed for another day.';
comment on column peers.peer_status.peer_id is 'Its identity, a new one at every start.';
comment on column peers.peer_status.host is 'The host that it runs on.';
comment on column peers.peer_status.pid is 'Its process id on that host.';
comment on column peers.peer_status.queues is 'The queues that it serves, each with its number of slots.';
comment on column peers.peer_status.kinds is 'The kinds that it can run.';
comment on column peers.peer_status.running is 'How many tasks it has claimed.';
comment on column peers.peer_status.last_heartbeat is 'Its last heartbeat.';
comment on column peers.peer_status.alive is 'Its leases have not expired.';
comment on column peers.peer_status.joined_at is 'When it joined.';
comment on column peers.peer_status.lost_at is 'When it was declared lost.';
comment on column peers.peer_status.lost_because is
    'Why: its lease ended, or a peer on the same host saw that it had ended.';
comment on column peers.peer_status.version is 'The version of the package that it runs. Null: not known.';

-- Returns the kinds that have rows in ready. It jumps from one to the next in the primary key.
create or replace function peers._ready_kinds() returns table (queue text, kind text)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return query
    with recursive found as (
        (select r.queue, r.kind from peers.ready r order by r.queue, r.kind limit 1)
        union all
        select n.queue, n.kind
        from found
        cross join lateral (
            select r.queue, r.kind from peers.ready r
            where (r.queue, r.kind) > (found.queue, found.kind)
            order by r.queue, r.kind limit 1
        ) n
    )
    select found.queue, found.kind from found;
end
$$;

-- Returns the same for ready_limited.
create or replace function peers._ready_limited_kinds() returns table (queue text, kind text)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return query select distinct l.queue, l.kind from peers._limited_layouts() l;
end
$$;

-- What live peers can run is computed once, and the tasks of a kind are counted only as far as the alarm needs. With
-- 10,000 kinds and 300,000 ready tasks that takes 0.3 s instead of 9 s. Reading the index in its order takes 8 ms
-- instead of 400 where one of the kinds has 100,000 tasks.
create or replace function peers.unrunnable()
returns table (queue text, kind text, tasks bigint, oldest_ready_at timestamptz)
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _most_counted constant integer := 1000;
    _most_in_all constant integer := 20000;
    _now timestamptz := peers.now();
    _queues text[];
    _kinds text[];
    _most integer;
begin
    select array_agg(k.queue), array_agg(k.kind) into _queues, _kinds
    from (
        select k.queue, k.kind
        from (
            select r.queue, r.kind from peers._ready_kinds() r
            union
            select l.queue, l.kind from peers._ready_limited_kinds() l
        ) k
        where not exists (select from peers.paused_queue p where p.queue = k.queue)
        except
        select q.queue, k.kind
        from (select distinct p.queues, p.kinds from peers.peer p where peers._is_alive(p, _now)) able
        cross join lateral jsonb_object_keys(able.queues) q(queue)
        cross join lateral unnest(able.kinds) k(kind)
    ) k;
    _most := greatest(1, least(_most_counted, _most_in_all / greatest(cardinality(_kinds), 1)));
    return query
    select k.queue, k.kind, r.tasks, r.oldest
    from unnest(_queues, _kinds) k(queue, kind)
    cross join lateral (
        select count(*) as tasks, min(greatest(r.created_at, r.scheduled_at)) as oldest
        from (
            select t.created_at, t.scheduled_at
            from (
                (
                    select y.task_id, y.priority from peers.ready y
                    where y.queue = k.queue and y.kind = k.kind order by y.priority, y.position
                )
                union all
                (select y.task_id, y.priority from peers.ready_limited y where y.queue = k.queue and y.kind = k.kind)
            ) r
            cross join lateral (select t.* from peers.task t where t.id = r.task_id offset 0) t
            where t.state = 'ready' and t.priority = r.priority
              and not exists (select from peers.graph g where g.id = t.graph_id and g.paused_at is not null)
            limit _most
        ) r
    ) r
    where r.tasks > 0
    order by k.queue, k.kind;
end
$$;

comment on function peers.unrunnable is
    'An alarm: the kinds that have ready tasks in a queue which no live peer serves for that kind. It counts at most '
    '1,000 tasks of each kind, and fewer if there are more than 20 such kinds.';

create or replace view peers.queue_status as
with waiting as (
    select t.queue collate "C" as queue, count(*) as ready, min(greatest(t.created_at, t.scheduled_at)) as oldest
    from peers.task t
    where t.state = 'ready'
      and t.id in (select r.task_id from peers.ready r union all select l.task_id from peers.ready_limited l)
      and not exists (select from peers.graph g where g.id = t.graph_id and g.paused_at is not null)
    group by t.queue
), paused as (
    select t.queue, count(*) as paused_ready
    from peers.graph g join peers.task t on t.graph_id = g.id
    where g.paused_at is not null and t.state = 'ready'
    group by t.queue
), later as (
    select t.queue, count(*) as scheduled
    from peers.task t
    where t.state = 'scheduled' and t.id in (select s.task_id from peers.scheduled s)
    group by t.queue
), leased as (
    select t.queue, count(*) as running
    from peers.lease l
    cross join lateral unnest(l.task_ids) i(task_id)
    join peers.task t on t.id = i.task_id and t.token = l.token and t.state = 'running'
    group by t.queue
), held as (
    select b.queue, count(*) as blocked from peers.blocked b group by b.queue
), died as (
    select d.queue, count(*) as dead from peers.dead d group by d.queue
), name as (
    select w.queue from waiting w
    union select l.queue from later l
    union select r.queue from leased r
    union select h.queue from held h
    union select d.queue from died d
    union select p.queue from paused p
    union select p.queue from peers.paused_queue p
    union select jsonb_object_keys(p.queues) from peers.peer p where p.lost_at is null
)
select name.queue,
       coalesce(w.ready, 0) as ready,
       coalesce(l.scheduled, 0) as scheduled,
       coalesce(r.running, 0) as running,
       coalesce(h.blocked, 0) as blocked,
       coalesce(d.dead, 0) as dead,
       case when isfinite(w.oldest) then greatest(c.now - w.oldest, '0') end as oldest_ready,
       p.queue is not null as paused,
       coalesce(g.paused_ready, 0) as ready_in_paused_graphs
from name
cross join (select peers.now() as now) c
left join waiting w on w.queue = name.queue
left join later l on l.queue = name.queue
left join leased r on r.queue = name.queue
left join held h on h.queue = name.queue
left join died d on d.queue = name.queue
left join peers.paused_queue p on p.queue = name.queue
left join paused g on g.queue = name.queue
order by name.queue;

comment on view peers.queue_status is
    'One row for each queue: how many of its tasks are in each state that has not ended.';
comment on column peers.queue_status.queue is 'The queue.';
comment on column peers.queue_status.ready is 'Waiting for a peer, without the tasks of paused graphs.';
comment on column peers.queue_status.scheduled is 'Waiting for their time, including retries.';
comment on column peers.queue_status.running is 'Leased to peers.';
comment on column peers.queue_status.blocked is 'Waiting for parents.';
comment on column peers.queue_status.dead is 'Dead letters.';
comment on column peers.queue_status.oldest_ready is 'How long the oldest ready task has been waiting.';
comment on column peers.queue_status.paused is 'No peer claims from it until peers.resume.';
comment on column peers.queue_status.ready_in_paused_graphs is
    'Ready, but no peer claims them until peers.resume_graph.';

-- For views: without it, one value that cannot be converted to text would be an error for all rows.
create or replace function peers.readable(value jsonb) returns jsonb
    language plpgsql immutable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if pg_column_size(value #> '{}') > 1000 and peers._text_size(value) > 1048576 then
        return '{"error": "more than 1 MiB of text, or nested 1000 levels deep"}';
    end if;
    return value;
end
$$;

comment on function peers.readable is
    'Returns the value, or a note in its place if its text exceeds 1 MiB or it is nested 1000 levels deep.';

create or replace view peers.dead_letter as
select d.task_id, d.kind, d.queue,
       peers.readable(t.args) as args,
       (select count(*)::integer from peers.failure x where x.task_id = d.task_id) as attempts, d.died_at,
       f.last ->> 'error_type' as error_type,
       f.last ->> 'error_message' as error_message,
       f.last ->> 'traceback' as traceback,
       f.last ->> 'exit_signal' as exit_signal,
       (f.last ->> 'peer_id')::uuid as peer,
       f.last ->> 'host' as host,
       (select count(*) from peers.dependency e
        where e.parent_id = d.task_id and e.on_parent_failure = 'hold'
          and exists (select from peers.task c where c.id = e.child_id and c.state = 'blocked')) as held_children,
       f.failures,
       peers.readable(t.metadata) as metadata, t.submitter, t.created_at
from peers.dead d
join peers.task t on t.id = d.task_id
left join lateral (
    -- a limit, because the tracebacks of a task that was retried very often would exceed what jsonb can hold
    select jsonb_agg(to_jsonb(x) - 'id' - 'task_id' order by x.id) as failures,
           (array_agg(to_jsonb(x) order by x.id desc))[1] as last
    from (select * from peers.failure x where x.task_id = d.task_id order by x.id desc limit 100) x
) f on true;

comment on view peers.dead_letter is
    'One wide row for each dead task; in psql, \x shows it well. peers.retry(task_id) runs the task again, '
    'peers.discard(task_id) gives it up.';
comment on column peers.dead_letter.task_id is 'The task.';
comment on column peers.dead_letter.kind is 'Its kind.';
comment on column peers.dead_letter.queue is 'Its queue.';
comment on column peers.dead_letter.args is 'The handler''s input.';
comment on column peers.dead_letter.attempts is 'How many attempts failed, including those before an earlier retry.';
comment on column peers.dead_letter.died_at is 'When it died.';
comment on column peers.dead_letter.error_type is
    'The last failure''s type: the exception''s name, or timeout, crash, lost ...';
comment on column peers.dead_letter.error_message is 'The last failure''s message.';
comment on column peers.dead_letter.traceback is 'The last failure''s traceback.';
comment on column peers.dead_letter.exit_signal is 'The signal that ended the worker at the last failure.';
comment on column peers.dead_letter.peer is 'The peer of the last failure.';
comment on column peers.dead_letter.host is 'The host of that peer.';
comment on column peers.dead_letter.held_children is 'How many children wait until it is retried.';
comment on column peers.dead_letter.failures is 'The last 100 failed attempts, oldest first.';
comment on column peers.dead_letter.metadata is 'The application''s own data.';
comment on column peers.dead_letter.submitter is 'The database role that submitted it.';
comment on column peers.dead_letter.created_at is 'When it was submitted.';
