-- One narrow table for each state that is queried often, so that queueing does not bloat the wide table peers.task.
-- Rows of these tables are short-lived, so they are vacuumed often.

create table if not exists peers.ready (
    queue text collate "C" not null,
    kind text collate "C" not null,
    priority smallint not null,
    position bigint generated always as identity,
    task_id bigint not null,
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
    -- serves complete, fail and release: the lease that an outcome belongs to
    token uuid primary key,
    peer_id uuid not null,
    task_ids bigint[] not null,
    open integer not null,
    claimed_at timestamptz not null,
    constraint "a lease with no open task is deleted" check (open > 0)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- bigint[] of a claim is never compressed: it is read and written as it is
alter table peers.lease alter task_ids set storage external;

-- serves reconcile, reclaim and leave: the leases of a peer
create index if not exists lease_peer on peers.lease (peer_id);

comment on table peers.lease is
    'One row is one claim: the right of one peer to run these tasks now. Each running task has the token of exactly '
    'one lease.';
comment on column peers.lease.token is
    'The fence: every claim has a token of its own. An outcome is recorded only together with the current token.';
comment on column peers.lease.peer_id is 'The peer that runs them.';
comment on column peers.lease.task_ids is 'The tasks that it claimed, in the order of the claim.';
comment on column peers.lease.open is 'How many of them still run. A lease is deleted when none does.';
comment on column peers.lease.claimed_at is 'When they were claimed.';

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
