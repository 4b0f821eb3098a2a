-- What people read. Views are replaced whole; their columns are described like those of tables.

create or replace view peers.running as
select l.task_id, t.kind, t.queue, l.peer_id, p.host, p.pid, l.attempt, l.max_attempts,
       l.claimed_at as since,
       least(p.heartbeat_at, c.now) + p.lease_timeout as lease_expires_at,
       -- no value that somebody has put there by hand makes the view fail for all rows
       l.claimed_at + least(l.timeout, interval '30 days') as times_out_at,
       l.progress_done, l.progress_total, l.cancel_requested
from peers.lease l
join peers.task t on t.id = l.task_id
cross join (select peers.now() as now) c
left join peers.peer p on p.id = l.peer_id;

comment on view peers.running is 'What runs now, and where.';
comment on column peers.running.task_id is 'The task.';
comment on column peers.running.kind is 'Its kind.';
comment on column peers.running.queue is 'Its queue.';
comment on column peers.running.peer_id is 'The peer that holds it.';
comment on column peers.running.host is 'The peer''s host.';
comment on column peers.running.pid is 'The peer''s process id.';
comment on column peers.running.attempt is 'Which try this is.';
comment on column peers.running.max_attempts is 'How many it has.';
comment on column peers.running.since is 'When the peer claimed it.';
comment on column peers.running.lease_expires_at is
    'When others may take it, unless the peer''s next heartbeat comes first.';
comment on column peers.running.times_out_at is 'When its peer stops it, counted from the claim; null: never.';
comment on column peers.running.progress_done is 'What the handler last told of its progress.';
comment on column peers.running.progress_total is 'Out of how much.';
comment on column peers.running.cancel_requested is 'It has been asked to stop.';

create or replace view peers.peer_status as
select p.id as peer_id, p.host, p.pid, p.queues, p.kinds,
       (select count(*) from peers.lease l where l.peer_id = p.id) as running,
       p.heartbeat_at as last_heartbeat,
       -- what peers._is_alive says, which a reader may not call
       p.lost_at is null and p.heartbeat_at + p.lease_timeout > c.now as alive,
       p.joined_at, p.lost_at
from peers.peer p
cross join (select peers.now() as now) c;

comment on view peers.peer_status is 'The peers. One that left is gone from here; one that was lost stays for a day.';
comment on column peers.peer_status.peer_id is 'Its identity, fresh at every start.';
comment on column peers.peer_status.host is 'Where it runs.';
comment on column peers.peer_status.pid is 'Its process id there.';
comment on column peers.peer_status.queues is 'The queues that it serves, each with its number of slots.';
comment on column peers.peer_status.kinds is 'The kinds that it can run.';
comment on column peers.peer_status.running is 'How many tasks it holds.';
comment on column peers.peer_status.last_heartbeat is 'Its last heartbeat.';
comment on column peers.peer_status.alive is 'Its lease has not expired.';
comment on column peers.peer_status.joined_at is 'When it joined.';
comment on column peers.peer_status.lost_at is 'When its tasks were reclaimed.';

-- The kinds in the table ready, found by jumping from one to the next in its primary key.
create or replace function peers._ready_kinds() returns table (queue text, kind text)
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return query
    with recursive hop as (
        (select r.queue, r.kind from peers.ready r order by r.queue, r.kind limit 1)
        union all
        select n.queue, n.kind
        from hop
        cross join lateral (
            select r.queue, r.kind from peers.ready r
            where (r.queue, r.kind) > (hop.queue, hop.kind)
            order by r.queue, r.kind limit 1
        ) n
    )
    select hop.queue, hop.kind from hop;
end
$$;

-- What live peers can run is worked out once, and the tasks of a kind are counted only as far as the alarm needs:
-- at 10,000 kinds with 300,000 ready tasks, 0.3 s instead of 9 s.
create or replace function peers.unrunnable()
returns table (queue text, kind text, tasks bigint, oldest_ready_at timestamptz)
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
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
        select k.queue, k.kind from peers._ready_kinds() k
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
            from peers.ready r
            cross join lateral (select t.* from peers.task t where t.id = r.task_id offset 0) t
            where r.queue = k.queue and r.kind = k.kind and t.state = 'ready' and t.priority = r.priority
            order by r.priority, r.position
            limit _most
        ) r
    ) r
    where r.tasks > 0
    order by k.queue, k.kind;
end
$$;

comment on function peers.unrunnable is
    'An alarm: the kinds that have ready tasks in a queue and no live peer that serves both. Of each, the first '
    'tasks are counted: 1,000, or fewer where there are more than 20 such kinds.';

create or replace view peers.queue_status as
with waiting as (
    select t.queue collate "C" as queue, count(*) as ready, min(greatest(t.created_at, t.scheduled_at)) as oldest
    from peers.task t
    where t.state = 'ready' and t.id in (select r.task_id from peers.ready r)
    group by t.queue
), later as (
    select t.queue, count(*) as scheduled
    from peers.task t
    where t.state = 'scheduled' and t.id in (select s.task_id from peers.scheduled s)
    group by t.queue
), leased as (
    select t.queue, count(*) as running from peers.lease l join peers.task t on t.id = l.task_id group by t.queue
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
       p.queue is not null as paused
from name
cross join (select peers.now() as now) c
left join waiting w on w.queue = name.queue
left join later l on l.queue = name.queue
left join leased r on r.queue = name.queue
left join held h on h.queue = name.queue
left join died d on d.queue = name.queue
left join peers.paused_queue p on p.queue = name.queue
order by name.queue;

comment on view peers.queue_status is 'Per queue: what waits, runs, is held back and has died.';
comment on column peers.queue_status.queue is 'The queue.';
comment on column peers.queue_status.ready is 'Waiting for a peer.';
comment on column peers.queue_status.scheduled is 'Waiting for their time (retries among them).';
comment on column peers.queue_status.running is 'Leased to peers.';
comment on column peers.queue_status.blocked is 'Waiting for parents.';
comment on column peers.queue_status.dead is 'Dead letters.';
comment on column peers.queue_status.oldest_ready is 'How long the oldest ready task has been waiting.';
comment on column peers.queue_status.paused is 'Nothing is claimed from it until peers.resume.';

-- For views: one value that cannot be written out would be an error for all rows.
create or replace function peers.readable(value jsonb) returns jsonb
    language plpgsql immutable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if pg_column_size(value #> '{}') > 1000 and peers._written_size(value) > 1048576 then
        return '{"error": "more than 1 MiB of text, or nested 1000 levels deep"}';
    end if;
    return value;
end
$$;

comment on function peers.readable is
    'The value, or a note in its place when its text exceeds 1 MiB or it is nested 1000 levels deep.';

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
    -- of all attempts of a task that was retried again and again, no jsonb could take the tracebacks
    select jsonb_agg(to_jsonb(x) - 'id' - 'task_id' order by x.id) as failures,
           (array_agg(to_jsonb(x) order by x.id desc))[1] as last
    from (select * from peers.failure x where x.task_id = d.task_id order by x.id desc limit 100) x
) f on true;

comment on view peers.dead_letter is
    'One wide row for each dead task, made for \x. peers.retry(task_id) runs it again, peers.discard(task_id) '
    'accepts it.';
comment on column peers.dead_letter.task_id is 'The task.';
comment on column peers.dead_letter.kind is 'Its kind.';
comment on column peers.dead_letter.queue is 'Its queue.';
comment on column peers.dead_letter.args is 'The handler''s input.';
comment on column peers.dead_letter.attempts is 'How many attempts failed, those before an earlier retry included.';
comment on column peers.dead_letter.died_at is 'When it died.';
comment on column peers.dead_letter.error_type is
    'Of the last failure: the exception''s name, or timeout, crash, lost ...';
comment on column peers.dead_letter.error_message is 'Of the last failure: what it said.';
comment on column peers.dead_letter.traceback is 'Of the last failure: where.';
comment on column peers.dead_letter.exit_signal is 'Of the last failure: the signal that ended the worker.';
comment on column peers.dead_letter.peer is 'Of the last failure: the peer.';
comment on column peers.dead_letter.host is 'Of the last failure: the peer''s host.';
comment on column peers.dead_letter.held_children is 'The children that wait for its retry.';
comment on column peers.dead_letter.failures is 'The last 100 failed attempts, the first one first.';
comment on column peers.dead_letter.metadata is 'The application''s own.';
comment on column peers.dead_letter.submitter is 'Who submitted it.';
comment on column peers.dead_letter.created_at is 'When.';
