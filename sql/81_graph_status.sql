-- The progress of graphs.

-- A query counts the tasks of each graph by an index. Stored counters would be one hot row for each graph, and all of
-- its outcomes would wait for that row. Conditions on the graph are applied before its tasks are counted.
create or replace view peers.graph_status as
select g.id as graph_id, g.name, g.idempotency_key, g.metadata, g.submitter, g.created_at,
       g.paused_at is not null as paused, g.paused_at,
       t.tasks, t.blocked, t.scheduled, t.ready, t.running, t.completed, t.dead, t.cancelled,
       case when t.tasks = 0 then 0 else (t.completed + t.cancelled)::double precision / t.tasks end as done_share,
       t.oldest_running_since, t.last_change,
       case when t.tasks > 0 and t.completed + t.cancelled = t.tasks then t.last_finished end as finished_at,
       case
           when g.paused_at is null and t.completed > 0 and t.ready + t.running > 0
           then c.now + (c.now - least(t.first_started, c.now))
                        * ((t.tasks - t.completed - t.cancelled - t.dead)::double precision / t.completed)
       end as eta
from peers.graph g
cross join (select peers.now() as now) c
cross join lateral (
    select count(*) as tasks,
           count(*) filter (where t.state = 'blocked') as blocked,
           count(*) filter (where t.state = 'scheduled') as scheduled,
           count(*) filter (where t.state = 'ready') as ready,
           count(*) filter (where t.state = 'running') as running,
           count(*) filter (where t.state = 'completed') as completed,
           count(*) filter (where t.state = 'dead') as dead,
           count(*) filter (where t.state = 'cancelled') as cancelled,
           min(t.started_at) filter (where t.state = 'running') as oldest_running_since,
           min(t.started_at) as first_started,
           max(t.finished_at) as last_finished,
           max(greatest(t.created_at, t.started_at, t.finished_at)) as last_change
    from peers.task t
    where t.graph_id = g.id
) t;

comment on view peers.graph_status is
    'One row for each graph: how many of its tasks are in each state, and its progress.';
comment on column peers.graph_status.graph_id is 'The graph.';
comment on column peers.graph_status.name is 'Its name.';
comment on column peers.graph_status.idempotency_key is 'Its idempotency key.';
comment on column peers.graph_status.metadata is 'The application''s own data.';
comment on column peers.graph_status.submitter is 'The database role that created it.';
comment on column peers.graph_status.created_at is 'When it was created.';
comment on column peers.graph_status.paused is 'No peer claims its tasks until peers.resume_graph.';
comment on column peers.graph_status.paused_at is 'When it was paused. Null: it is not paused.';
comment on column peers.graph_status.tasks is 'How many tasks it has. Tasks that were pruned do not count.';
comment on column peers.graph_status.blocked is 'Waiting for parents.';
comment on column peers.graph_status.scheduled is 'Waiting for their time, including retries.';
comment on column peers.graph_status.ready is 'Waiting for a peer, or until the graph is resumed.';
comment on column peers.graph_status.running is 'Leased to peers.';
comment on column peers.graph_status.completed is 'Completed.';
comment on column peers.graph_status.dead is 'Dead letters. peers.retry_graph runs all of them again.';
comment on column peers.graph_status.cancelled is 'Cancelled.';
comment on column peers.graph_status.done_share is 'The share of tasks that are completed or cancelled, 0 to 1.';
comment on column peers.graph_status.oldest_running_since is 'When the task that has been running longest was claimed.';
comment on column peers.graph_status.last_change is 'When a task was last submitted, claimed or ended.';
comment on column peers.graph_status.finished_at is
    'When the last task ended. Null while a task is unfinished or dead.';
comment on column peers.graph_status.eta is
    'When it will finish if tasks continue to complete at the average rate since its first claim. Null while it is '
    'paused, before a task has completed, and while no task is ready or running.';
