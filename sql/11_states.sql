-- One narrow table for each state that is queried often, so that queueing does not bloat the wide table peers.task.
-- Rows of these tables are short-lived, so they are vacuumed often.

create table if not exists peers.ready (
    queue text collate "C" not null,
    kind text collate "C" not null,
    priority smallint not null,
    position bigint generated always as identity,
    task_id bigint not null,
    ready_at timestamptz not null default statement_timestamp(),
    -- serves claim: the first tasks of each kind that a peer can run. The kind comes before the priority, so that
    -- a claim never walks over tasks of kinds that its peer cannot run.
    primary key (queue, kind, priority, position)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

comment on table peers.ready is 'The tasks that wait for a peer, in the order in which they are claimed.';
comment on column peers.ready.queue is 'The task''s queue.';
comment on column peers.ready.kind is 'The task''s kind.';
comment on column peers.ready.priority is 'The task''s priority. A row whose task has another priority is stale.';
comment on column peers.ready.position is
    'The order in which tasks became ready. A retried task goes to the tail of its priority.';
comment on column peers.ready.ready_at is 'When the task became ready: claims tell how long it has waited.';
comment on column peers.ready.task_id is
    'The task. The row is stale unless the task is ready and its graph is not paused; the next claim drops stale rows.';

create table if not exists peers.scheduled (
    due_at timestamptz not null,
    task_id bigint not null
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- the table has no key, and a publication needs to tell its rows apart
alter table peers.scheduled replica identity full;

-- serves promote: what is due
create index if not exists scheduled_due on peers.scheduled (due_at);

comment on table peers.scheduled is 'The tasks that wait for their time.';
comment on column peers.scheduled.due_at is
    'When the task becomes ready. A row whose task has another scheduled_at is stale.';
comment on column peers.scheduled.task_id is 'The task.';

create table if not exists peers.blocked (
    -- serves unblocking: the children whose last parent has ended
    task_id bigint primary key,
    queue text not null
);

comment on table peers.blocked is
    'The tasks that wait for parents. With this table they can be counted without reading every task.';
comment on column peers.blocked.task_id is 'The task.';
comment on column peers.blocked.queue is 'Its queue.';

create table if not exists peers.lease (
    -- serves complete, fail, release and hold_lease: the lease that an outcome belongs to
    token uuid primary key,
    peer_id uuid not null,
    task_ids bigint[] not null,
    open integer not null,
    claimed_at timestamptz not null,
    limit_keys bigint[],
    most_running integer,
    fair_key bigint,
    limit_layout bigint,
    constraint "open never falls below 0" check (open >= 0)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- an outcome changes `open` only; an array that is stored apart is not written again
alter table peers.lease alter column task_ids set storage external;

-- serves reconcile, reclaim, leave and the view peer_status: the leases of a peer
create index if not exists lease_peer on peers.lease (peer_id);

-- serves claim_limited: what runs under a key. A task is under at most four limits.
create index if not exists lease_limit_1 on peers.lease ((limit_keys[1])) where limit_keys is not null;
-- serves claim_limited: the same for its limit number 2
create index if not exists lease_limit_2 on peers.lease ((limit_keys[2])) where limit_keys[2] is not null;
-- serves claim_limited: the same for its limit number 3
create index if not exists lease_limit_3 on peers.lease ((limit_keys[3])) where limit_keys[3] is not null;
-- serves claim_limited: the same for its limit number 4
create index if not exists lease_limit_4 on peers.lease ((limit_keys[4])) where limit_keys[4] is not null;

-- serves claim_limited: how long the tasks of a key of a fair limit have been running
create index if not exists lease_fair on peers.lease (fair_key) where fair_key is not null;

comment on table peers.lease is
    'The right of one peer to run tasks now. Each claim is one lease, and each running task belongs to the lease whose '
    'token it has.';
comment on column peers.lease.token is
    'The fence: every claim has a token of its own. An outcome is recorded only together with the current token.';
comment on column peers.lease.peer_id is 'The peer that runs the tasks.';
comment on column peers.lease.task_ids is 'The tasks of the claim, in the order of the claim. It never changes.';
comment on column peers.lease.open is
    'How many of its tasks are running under its token. The outcome that ends the last one deletes the lease.';
comment on column peers.lease.limit_keys is
    'The limits and keys that all of its tasks are under (see peers.ready_limited). Null: they are under no limit.';
comment on column peers.lease.most_running is
    'How many of its tasks the peer runs at once. The others wait until one of these has ended. Null: all of them.';
comment on column peers.lease.limit_layout is
    'Which limits held for its tasks when they were claimed (see peers.ready_limited). Null: none.';
comment on column peers.lease.fair_key is
    'The one of limit_keys that is of a fair limit. Null: none is.';
comment on column peers.lease.claimed_at is 'When the tasks were claimed.';

create table if not exists peers.cancel_request (
    task_id bigint not null,
    token uuid not null,
    requested_at timestamptz not null,
    -- serves heartbeat and the end of an attempt: the requests of a lease
    primary key (token, task_id)
);

comment on table peers.cancel_request is
    'The running tasks that should stop. Each ends cancelled, unless it completes first. The end of the attempt '
    'deletes the row.';
comment on column peers.cancel_request.task_id is 'The task.';
comment on column peers.cancel_request.token is 'The token of the attempt that should stop.';
comment on column peers.cancel_request.requested_at is 'When peers.cancel was called first.';

create table if not exists peers.task_progress (
    token uuid not null,
    task_id bigint not null,
    done bigint,
    total bigint,
    -- serves progress and the end of an attempt: the progress of a lease's tasks
    primary key (token, task_id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

comment on table peers.task_progress is
    'How far handlers are, as they last reported. The end of the attempt deletes the row.';
comment on column peers.task_progress.token is 'The token of the attempt.';
comment on column peers.task_progress.task_id is 'The task.';
comment on column peers.task_progress.done is 'How much the handler has done.';
comment on column peers.task_progress.total is 'How much there is to do.';

create table if not exists peers.dead (
    -- serves retry, discard and the view dead_letter
    task_id bigint primary key,
    queue text not null,
    kind text not null,
    died_at timestamptz not null
);

comment on table peers.dead is
    'The tasks that used up their attempts or were rejected. Read them in the view peers.dead_letter.';
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

comment on table peers.failure is 'Every failed attempt, with everything that is known about it.';
comment on column peers.failure.id is 'The failure''s number.';
comment on column peers.failure.task_id is 'The task.';
comment on column peers.failure.attempt is
    'The number of the attempt that failed. After peers.retry the numbers start at 1 again.';
comment on column peers.failure.token is 'The token of the lease under which it failed.';
comment on column peers.failure.error_type is
    'The exception''s name; or ArgsInvalid, ResultInvalid, timeout, crash, cancelled, or lost (the peer''s '
    'heartbeat expired).';
comment on column peers.failure.error_message is 'The exception''s message.';
comment on column peers.failure.traceback is 'The exception''s traceback.';
comment on column peers.failure.exit_signal is 'The signal that ended the worker process, such as SIGSEGV.';
comment on column peers.failure.exit_code is 'The exit code of a worker process that ended by itself.';
comment on column peers.failure.peer_id is 'The peer.';
comment on column peers.failure.host is 'The peer''s host.';
comment on column peers.failure.pid is 'The peer''s process id.';
comment on column peers.failure.started_at is 'When the attempt was claimed.';
comment on column peers.failure.failed_at is 'When the failure was recorded.';
comment on column peers.failure.retry_at is 'When the next attempt is due. Null: there is no next attempt.';
