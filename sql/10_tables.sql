-- The nouns. A later change of a table is a numbered migration beside this file, never an edit of it.

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
    'What a parent''s death or cancellation does to the child. hold: wait until the parent is retried, end '
    'cancelled when it is cancelled or discarded. cancel: end cancelled. run: run all the same.';

-- The free space in each page (fillfactor) and the absence of indexes on anything that changes keep every
-- transition a HOT update: a claim of neighbours needs room for a second version of each row of a page.
-- Measured with 60,000 no-op tasks: at 70 half of the updates are HOT and the table takes 35 MB, at 40 all
-- are and it takes 28.
create table if not exists peers.task (
    id bigint generated always as identity primary key,
    kind text not null,
    state peers.task_state not null default 'ready',
    args jsonb not null default '{}',
    queue text not null default 'default',
    priority smallint not null default 100,
    scheduled_at timestamptz not null default now(),
    max_attempts smallint,
    timeout interval,
    -- serves submit() and ON CONFLICT: one task for each key, while its row exists
    idempotency_key text unique,
    metadata jsonb,
    pending_parents integer not null default 0,
    attempt smallint not null default 0,
    submitter name not null default session_user,
    created_at timestamptz not null default now(),
    created_xid xid8 not null default pg_current_xact_id(),
    started_at timestamptz,
    finished_at timestamptz,
    token uuid,
    result jsonb,
    stopped_because text,
    constraint "pending_parents never falls below 0" check (pending_parents >= 0)
) with (fillfactor = 40, autovacuum_vacuum_scale_factor = 0.05);

comment on table peers.task is
    'One row is one unit of work. INSERT (kind, args, ...) submits it; after that only verbs change it: '
    'peers.cancel, peers.change, peers.retry, peers.discard. peers.explain(id) says why it is not running.';
comment on column peers.task.id is 'The task''s number, given by the database.';
comment on column peers.task.kind is 'The name of the handler that can run it, 1 to 200 characters.';
comment on column peers.task.state is 'Kept by the scheduler, always true. See the type peers.task_state.';
comment on column peers.task.args is 'The handler''s input: a JSON object of at most 1 MiB.';
comment on column peers.task.queue is 'The lane it waits in, 1 to 200 characters.';
comment on column peers.task.priority is 'Smaller runs first.';
comment on column peers.task.scheduled_at is 'Not before this time. A retry moves it to the end of its backoff.';
comment on column peers.task.max_attempts is '1 to 1000. Null: what the kind''s handler declares, else 5.';
comment on column peers.task.timeout is
    'For each attempt, 1 ms to 30 days. Null: what the handler declares, else none.';
comment on column peers.task.idempotency_key is 'At most one task has it, as long as that task''s row exists.';
comment on column peers.task.metadata is 'A JSON object for the application''s own use; the scheduler never reads it.';
comment on column peers.task.pending_parents is 'How many parents hold it back. Kept by the scheduler.';
comment on column peers.task.attempt is 'Which try this is; the first run counts as 1. Kept by the scheduler.';
comment on column peers.task.submitter is 'The database role of the session that submitted it.';
comment on column peers.task.created_at is 'When the submitting transaction began.';
comment on column peers.task.created_xid is
    'The submitting transaction: tells edges into new tasks from edges into older ones.';
comment on column peers.task.started_at is 'When the last attempt was claimed.';
comment on column peers.task.finished_at is 'When it was completed, died or was cancelled.';
comment on column peers.task.token is
    'The token of its last lease, so that an outcome with an unknown fate can be asked about.';
comment on column peers.task.stopped_because is
    'Why a peer last stopped it in the middle, with where and when, and gave it back, or why its handler snoozed it: '
    'that attempt did not count. Kept by the scheduler.';
comment on column peers.task.result is 'What the handler returned: JSON of at most 1 MiB.';

-- Two foreign keys would cost two row triggers an edge; the edge trigger checks both ends of a whole batch
-- in one statement, and prune deletes edges with their tasks.
create table if not exists peers.dependency (
    parent_id bigint not null,
    child_id bigint not null,
    on_parent_failure peers.parent_failure_policy not null default 'hold',
    waived boolean not null default false,
    added_later boolean not null default false,
    created_xid xid8 not null default pg_current_xact_id(),
    -- serves the release of children: the edges of the parents that have just ended
    primary key (parent_id, child_id)
);

-- serves parent_results, explain, check and prune: the parents of a child
create index if not exists dependency_child on peers.dependency (child_id);

-- serves the edge trigger: has this transaction written an edge that could close a cycle? (nearly empty)
create index if not exists dependency_not_ascending on peers.dependency (created_xid)
    where added_later or parent_id >= child_id;

comment on table peers.dependency is
    'One row is one edge: the child waits for the parent. Insert it in the child''s own transaction, or later '
    'as long as the child has not started. Until the transaction ends, its parents are neither claimed nor '
    'settled: give roles that submit an idle_in_transaction_session_timeout.';
comment on column peers.dependency.parent_id is 'The task that is waited for.';
comment on column peers.dependency.child_id is 'The task that waits.';
comment on column peers.dependency.on_parent_failure is 'What the parent''s death or cancellation does to the child.';
comment on column peers.dependency.waived is
    'The parent failed and the edge said run: it counts no longer, for good. Kept by the scheduler.';
comment on column peers.dependency.added_later is
    'The child was there before this edge''s transaction. Kept by the scheduler.';
comment on column peers.dependency.created_xid is 'The transaction that inserted the edge.';

-- One narrow table for each state. Its rows are short-lived, so it is vacuumed often.

create table if not exists peers.ready (
    queue text collate "C" not null,
    kind text collate "C" not null,
    priority smallint not null,
    position bigint generated always as identity,
    task_id bigint not null,
    -- serves claim: the first tasks of each kind that a peer can run. The kind comes before the priority so
    -- that tasks nobody can run lie beside the path instead of on it.
    primary key (queue, kind, priority, position)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

comment on table peers.ready is 'The tasks that wait for a peer, in the order in which they are claimed.';
comment on column peers.ready.queue is 'The task''s queue.';
comment on column peers.ready.kind is 'The task''s kind.';
comment on column peers.ready.priority is 'The task''s priority; a row with another one than its task''s is stale.';
comment on column peers.ready.position is
    'The order of becoming ready: a retried task goes to the tail of its priority.';
comment on column peers.ready.task_id is 'The task. Stale, and dropped by the next claim, unless the task is ready.';

create table if not exists peers.scheduled (
    due_at timestamptz not null,
    task_id bigint not null
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- no key tells its rows apart; a publication of this table needs to
alter table peers.scheduled replica identity full;

-- serves promote: what is due
create index if not exists scheduled_due on peers.scheduled (due_at);

comment on table peers.scheduled is 'The tasks that wait for their time.';
comment on column peers.scheduled.due_at is 'When it becomes ready; a row with another time than its task''s is stale.';
comment on column peers.scheduled.task_id is 'The task.';

create table if not exists peers.blocked (
    -- serves release: drop the children whose last parent has ended
    task_id bigint primary key,
    queue text not null
);

comment on table peers.blocked is
    'The tasks that wait for parents, so that they can be counted without reading every task.';
comment on column peers.blocked.task_id is 'The task.';
comment on column peers.blocked.queue is 'Its queue.';

create table if not exists peers.peer (
    -- serves heartbeat and claim
    id uuid primary key default gen_random_uuid(),
    host text not null,
    pid integer not null,
    queues jsonb not null,
    kinds text[] not null,
    lease_timeout interval not null,
    joined_at timestamptz not null,
    heartbeat_at timestamptz not null,
    steady_since timestamptz not null,
    lost_at timestamptz,
    constraint "a lease lasts 1 second to 1 day"
        check (lease_timeout between interval '1 second' and interval '1 day')
) with (fillfactor = 50);

comment on table peers.peer is 'One row is one peer process, under an identity that it gets afresh at every start.';
comment on column peers.peer.id is 'Random, never the host name: two peers are never taken for one.';
comment on column peers.peer.host is 'Where it runs.';
comment on column peers.peer.pid is 'Its process id there.';
comment on column peers.peer.queues is 'The queues that it serves, each with its number of slots.';
comment on column peers.peer.kinds is 'The kinds that it can run; it is never given others.';
comment on column peers.peer.lease_timeout is 'How long its leases outlive its last heartbeat.';
comment on column peers.peer.joined_at is 'When it joined.';
comment on column peers.peer.heartbeat_at is 'Its last heartbeat. One row a peer, however many tasks it holds.';
comment on column peers.peer.steady_since is
    'Since when its heartbeats came without a gap: it may reclaim after one lease of that.';
comment on column peers.peer.lost_at is 'When its leases were reclaimed. A lost peer has to join again.';

create table if not exists peers.lease (
    -- serves settle: the lease that an outcome belongs to
    task_id bigint primary key,
    token uuid not null,
    peer_id uuid not null,
    attempt smallint not null,
    max_attempts smallint not null,
    timeout interval,
    backoff_base interval not null,
    backoff_cap interval not null,
    claimed_at timestamptz not null,
    cancel_requested boolean not null default false,
    progress_done bigint,
    progress_total bigint
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- serves heartbeat: what a peer is asked to stop (nearly empty)
create index if not exists lease_cancel on peers.lease (peer_id) where cancel_requested;

comment on table peers.lease is 'The right to run a task now. A running task has exactly one, and it names the peer.';
comment on column peers.lease.task_id is 'The task.';
comment on column peers.lease.token is 'The fence: unique for every claim ever made. An outcome counts only with it.';
comment on column peers.lease.peer_id is 'The peer that runs it.';
comment on column peers.lease.attempt is 'Which try this is.';
comment on column peers.lease.max_attempts is
    'The effective policy at the claim: the task''s own, else the kind''s, else 5.';
comment on column peers.lease.timeout is 'The effective timeout of this attempt; null: none.';
comment on column peers.lease.backoff_base is
    'The longest wait after the first failure; it doubles with each further one.';
comment on column peers.lease.backoff_cap is 'The longest wait of all.';
comment on column peers.lease.claimed_at is 'When it was claimed.';
comment on column peers.lease.cancel_requested is
    'cancel() was called while it ran: unless it completes first, it ends cancelled.';
comment on column peers.lease.progress_done is 'What the handler last told of its progress.';
comment on column peers.lease.progress_total is 'Out of how much.';

create table if not exists peers.dead (
    -- serves retry, discard and the view dead_letter
    task_id bigint primary key,
    queue text not null,
    kind text not null,
    died_at timestamptz not null
);

comment on table peers.dead is
    'The tasks that used up their attempts or were rejected. Read them in peers.dead_letter.';
comment on column peers.dead.task_id is 'The task.';
comment on column peers.dead.queue is 'Its queue.';
comment on column peers.dead.kind is 'Its kind.';
comment on column peers.dead.died_at is 'When it died.';

create table if not exists peers.failure (
    id bigint generated always as identity primary key,
    task_id bigint not null,
    attempt smallint not null,
    token uuid not null,
    error_type text not null,
    error_message text not null,
    traceback text,
    exit_signal text,
    exit_code integer,
    peer_id uuid not null,
    host text,
    pid integer,
    started_at timestamptz not null,
    failed_at timestamptz not null,
    retry_at timestamptz
);

-- serves dead_letter, explain and prune: the failures of a task
create index if not exists failure_task on peers.failure (task_id);

comment on table peers.failure is 'Every failed attempt, with all that is known of it.';
comment on column peers.failure.id is 'Its number.';
comment on column peers.failure.task_id is 'The task.';
comment on column peers.failure.attempt is 'Which try failed. A retried dead letter starts at 1 again.';
comment on column peers.failure.token is 'The lease under which it failed.';
comment on column peers.failure.error_type is
    'The exception''s name; or ArgsInvalid, ResultInvalid, timeout, crash, cancelled, or lost (the peer''s '
    'heartbeat expired).';
comment on column peers.failure.error_message is 'What the exception said.';
comment on column peers.failure.traceback is 'Where it was raised.';
comment on column peers.failure.exit_signal is 'The signal that ended the worker process, such as SIGSEGV.';
comment on column peers.failure.exit_code is 'The exit code of a worker process that ended by itself.';
comment on column peers.failure.peer_id is 'The peer.';
comment on column peers.failure.host is 'Its host.';
comment on column peers.failure.pid is 'The peer''s process id.';
comment on column peers.failure.started_at is 'When the attempt was claimed.';
comment on column peers.failure.failed_at is 'When the failure was recorded.';
comment on column peers.failure.retry_at is 'When the next attempt becomes due; null: there is none.';

create table if not exists peers.kind (
    -- serves claim: the policy of the tasks that were just claimed
    kind text collate "C" primary key,
    max_attempts smallint not null default 5,
    timeout interval,
    backoff_base interval not null default interval '1 second',
    backoff_cap interval not null default interval '1 hour',
    declared_at timestamptz not null default now(),
    constraint "max_attempts is 1 to 1000" check (max_attempts between 1 and 1000),
    constraint "a timeout is 1 millisecond to 30 days"
        check (timeout between interval '1 millisecond' and interval '30 days'),
    constraint "a backoff is 0 to 365 days, and its base no longer than its cap"
        check (backoff_base between interval '0' and backoff_cap and backoff_cap <= interval '365 days')
);

comment on table peers.kind is 'What handlers declare about their kind, written when a peer joins; the last one wins.';
comment on column peers.kind.kind is 'The kind.';
comment on column peers.kind.max_attempts is 'For tasks that do not say their own.';
comment on column peers.kind.timeout is 'For tasks that do not say their own; null: none.';
comment on column peers.kind.backoff_base is
    'The longest wait after the first failure; it doubles with each further one.';
comment on column peers.kind.backoff_cap is 'The longest wait of all.';
comment on column peers.kind.declared_at is 'When a peer last declared something new.';

create table if not exists peers.paused_queue (
    queue text primary key,
    paused_at timestamptz not null,
    paused_by name not null default session_user
);

comment on table peers.paused_queue is 'The queues from which nothing is claimed: peers.pause and peers.resume.';
comment on column peers.paused_queue.queue is 'The queue.';
comment on column peers.paused_queue.paused_at is 'Since when.';
comment on column peers.paused_queue.paused_by is 'By whom.';

create table if not exists peers.cooldown (
    name text primary key
        constraint name_has_1_to_200_characters check (length(name) between 1 and 200),
    started_at timestamptz not null,
    ends_at timestamptz not null,
    reason text
);

comment on table peers.cooldown is
    'Outside systems (such as the URL of a model) that nobody may call for a while. Handlers ask before they call.';
comment on column peers.cooldown.name is 'The name on which the handlers agreed.';
comment on column peers.cooldown.started_at is 'When the last cooldown was started.';
comment on column peers.cooldown.ends_at is 'Nobody may call the system before this time.';
comment on column peers.cooldown.reason is 'Why, in the words of the outside system.';

create table if not exists peers.edge_turn ();
-- a publication of all tables needs to tell rows apart, even those of a table that has none
alter table peers.edge_turn replica identity full;

comment on table peers.edge_turn is
    'Always empty. A transaction that adds edges into older tasks locks it until it ends: only one at a time may, '
    'because two could close a cycle together.';

create table if not exists peers.prune_cursor (
    one_row boolean primary key default true check (one_row),
    after_id bigint not null
);

insert into peers.prune_cursor (after_id) values (0) on conflict do nothing;

comment on table peers.prune_cursor is 'Where the next prune continues.';
comment on column peers.prune_cursor.one_row is 'Always true: there is one place.';
comment on column peers.prune_cursor.after_id is 'The last task that was looked at.';

create table if not exists peers.migration (
    version integer primary key,
    name text not null,
    applied_at timestamptz not null default now(),
    applied_by name not null default session_user
);

comment on table peers.migration is 'The changes of tables that this database has seen, each applied once.';
comment on column peers.migration.version is 'Its number; 1 is the first installation.';
comment on column peers.migration.name is 'Its file.';
comment on column peers.migration.applied_at is 'When.';
comment on column peers.migration.applied_by is 'By whom.';

insert into peers.migration (version, name) values (1, '10_tables.sql') on conflict do nothing;
