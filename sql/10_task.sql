-- What applications insert: tasks, the edges between them, and the graphs that tasks belong to.
--
-- Files 10 to 18 create tables. They are applied once; a later change of a table is a file 19_NNNN_reason.sql.

do $$
begin
    create type peers.task_state as enum
        ('blocked', 'scheduled', 'ready', 'running', 'completed', 'dead', 'cancelled');
exception when duplicate_object then null;
end
$$;

comment on type peers.task_state is
    'blocked: waits for parents. scheduled: waits for its time. ready: waits for a peer. running: leased to a '
    'peer. completed, cancelled: ended. dead: used up its attempts or was rejected; retry or discard it.';

do $$
begin
    create type peers.parent_failure_policy as enum ('hold', 'cancel', 'run');
exception when duplicate_object then null;
end
$$;

comment on type peers.parent_failure_policy is
    'What happens to the child when its parent dies or is cancelled. hold: the child waits until the parent is '
    'retried, and is cancelled when the parent is cancelled or discarded. cancel: the child is cancelled. run: '
    'the child runs anyway.';

-- A state change should be a HOT update, which writes no index entry. That needs free space in each page
-- (fillfactor) and no index on a column that changes. Measured with 60,000 no-op tasks: at fillfactor 70 half
-- of the updates are HOT and the table takes 35 MB; at 40 all are HOT and it takes 28 MB.
--
-- The columns that change stand side by side: an update logs what is between the first and the last byte that changed.
create table if not exists peers.task (
    id bigint generated always as identity primary key,
    state peers.task_state not null default 'ready',
    pending_parents integer not null default 0,
    attempt smallint not null default 0,
    started_at timestamptz,
    finished_at timestamptz,
    token uuid,
    result jsonb,
    stopped_because text,
    kind text not null,
    args jsonb not null default '{}',
    queue text not null default 'default',
    priority smallint not null default 100,
    max_attempts smallint,
    scheduled_at timestamptz not null default now(),
    timeout interval,
    -- serves submit() and ON CONFLICT: one task for each key, while its row exists
    idempotency_key text unique,
    graph_id bigint,
    metadata jsonb,
    submitter name not null default session_user,
    created_at timestamptz not null default now(),
    created_xid xid8 not null default pg_current_xact_id(),
    constraint "pending_parents never falls below 0" check (pending_parents >= 0)
) with (fillfactor = 40, autovacuum_vacuum_scale_factor = 0.05);

-- serves graph_status, the verbs for graphs and prune: the tasks of a graph (graph_id never changes); and find: the
-- newest tasks of a graph
create index if not exists task_graph on peers.task (graph_id, id) where graph_id is not null;

comment on table peers.task is
    'One row is one unit of work. INSERT (kind, args, ...) submits a task. After that only verbs change it: '
    'peers.cancel, peers.change, peers.retry, peers.discard. peers.explain(id) says why it is not running.';
comment on column peers.task.id is 'The task''s number, assigned by the database.';
comment on column peers.task.kind is 'The name of the handler that can run it, 1 to 200 characters.';
comment on column peers.task.state is 'Kept by the scheduler. See the type peers.task_state.';
comment on column peers.task.args is 'The handler''s input: a JSON object of at most 1 MiB.';
comment on column peers.task.queue is 'The queue in which it waits, 1 to 200 characters.';
comment on column peers.task.priority is 'Tasks with a smaller number run first.';
comment on column peers.task.scheduled_at is
    'It does not run before this time. A retry sets it to the end of the backoff.';
comment on column peers.task.max_attempts is '1 to 1000. Null: the value that the kind''s handler declares, or 5.';
comment on column peers.task.timeout is
    'The time limit of each attempt, 1 ms to 30 days. Null: the value that the handler declares, or no limit.';
comment on column peers.task.idempotency_key is
    'At most one task has this key, as long as that task''s row exists. ON CONFLICT DO NOTHING leaves a second one '
    'out.';
comment on column peers.task.graph_id is 'The graph that it belongs to; null: none. It never changes.';
comment on column peers.task.metadata is 'A JSON object for the application''s own use. The scheduler never reads it.';
comment on column peers.task.pending_parents is 'How many parents it still waits for. Kept by the scheduler.';
comment on column peers.task.attempt is 'The number of the current attempt; the first is 1. Kept by the scheduler.';
comment on column peers.task.submitter is 'The database role of the session that submitted it.';
comment on column peers.task.created_at is 'When the submitting transaction began.';
comment on column peers.task.created_xid is
    'The submitting transaction. With created_at, it tells edges into new tasks from edges into older tasks.';
comment on column peers.task.started_at is 'When the last attempt was claimed.';
comment on column peers.task.finished_at is 'When it was completed, died or was cancelled.';
comment on column peers.task.token is
    'The token of its last lease. With it a peer can ask whether an outcome was recorded.';
comment on column peers.task.stopped_because is
    'Why a peer last stopped the handler and released the task, or why the handler snoozed it, with the time. That '
    'attempt did not count. Kept by the scheduler.';
comment on column peers.task.result is 'What the handler returned: JSON of at most 1 MiB.';

-- There are no foreign keys: two would cost two row triggers for each edge. The trigger on this table checks
-- both ends of a whole batch in one statement, and prune deletes edges together with their tasks.
create table if not exists peers.dependency (
    parent_id bigint not null,
    child_id bigint not null,
    on_parent_failure peers.parent_failure_policy not null default 'hold',
    waived boolean not null default false,
    added_later boolean not null default false,
    created_xid xid8 not null default pg_current_xact_id(),
    -- serves unblocking: the edges of the parents that have just ended
    primary key (parent_id, child_id)
);

-- serves parent_results, explain, check and prune: the parents of a child
create index if not exists dependency_child on peers.dependency (child_id);

-- serves the trigger on edges: has this transaction written an edge that could close a cycle? (nearly empty)
create index if not exists dependency_not_ascending on peers.dependency (created_xid)
    where added_later or parent_id >= child_id;

comment on table peers.dependency is
    'One row is one edge: the child waits for the parent. Insert it in the child''s own transaction, or later '
    'while the child has not started. Until that transaction ends, no peer can claim or complete the parents: give '
    'roles that submit an idle_in_transaction_session_timeout.';
comment on column peers.dependency.parent_id is 'The task that the child waits for.';
comment on column peers.dependency.child_id is 'The task that waits.';
comment on column peers.dependency.on_parent_failure is
    'What happens to the child when the parent dies or is cancelled.';
comment on column peers.dependency.waived is
    'The parent was dead or cancelled at some time and the policy is run: the child never waits for this edge again. '
    'Kept by the scheduler.';
comment on column peers.dependency.added_later is
    'The child is older than the transaction that inserted the edge. Kept by the scheduler.';
comment on column peers.dependency.created_xid is 'The transaction that inserted the edge.';

create table if not exists peers.graph (
    -- serves the check of graph_id at submission
    id bigint generated always as identity primary key,
    name text not null,
    -- serves submit_graph and ON CONFLICT: one graph for each key, while its row exists
    idempotency_key text unique,
    metadata jsonb,
    submitter name not null default session_user,
    created_at timestamptz not null default now(),
    paused_at timestamptz,
    nodes jsonb
) with (fillfactor = 80);

-- serves claim: is the graph of this task paused? (nearly empty)
create index if not exists graph_paused on peers.graph (id) where paused_at is not null;

-- serves find_graphs: the newest graphs of a name
create index if not exists graph_name on peers.graph (name, id);

comment on table peers.graph is
    'One row is one graph: tasks that belong together. INSERT (name) RETURNING id, then insert tasks with this '
    'graph_id; or call peers.submit_graph. peers.graph_status shows its progress. peers.prune deletes a graph '
    'that is older than the given age and has no task left.';
comment on column peers.graph.id is 'The graph''s number, assigned by the database.';
comment on column peers.graph.name is
    'A name for people, 1 to 200 characters. It need not be unique: "nightly" may run each night.';
comment on column peers.graph.idempotency_key is 'At most one graph has this key, as long as that graph''s row exists.';
comment on column peers.graph.metadata is 'A JSON object for the application''s own use. The scheduler never reads it.';
comment on column peers.graph.submitter is 'The database role of the session that created it.';
comment on column peers.graph.created_at is 'When the creating transaction began.';
comment on column peers.graph.paused_at is
    'Since when no peer claims its tasks: peers.pause_graph and peers.resume_graph. Null: it is not paused.';
comment on column peers.graph.nodes is
    'The id of the task of each node name, so that peers.submit_graph under the same idempotency_key returns the '
    'same ids. Null without such a key. Kept by the scheduler.';

do $$
begin
    create type peers.submitted_node as (name text, task_id bigint, graph_id bigint, is_new boolean);
exception when duplicate_object then null;
end
$$;

comment on type peers.submitted_node is
    'What peers.submit_graph returns for each node. is_new: the node is a new task, not one that was there already.';
