-- Limits: how many tasks run at once, how many start in a period, and whose turn it is.

create table if not exists peers.limit (
    name text collate "C" primary key,
    queue text collate "C",
    kind text collate "C",
    key text,
    max_running integer,
    starts integer,
    per interval,
    weight text,
    fair boolean not null default false,
    shut_until timestamptz,
    shut_because text,
    learns boolean not null default false,
    learned integer,
    learned_at timestamptz,
    declared jsonb,
    created_at timestamptz not null default now(),
    changed_at timestamptz not null default now(),
    -- kept by the trigger check_limit
    seed bigint not null default 0,
    counts_tasks boolean not null default true
) with (fillfactor = 50);

comment on table peers.limit is
    'One row limits a kind or a queue, in all peers together. INSERT, UPDATE and DELETE change limits while tasks run: '
    'INSERT INTO peers.limit (name, kind, key, max_running) VALUES (''stripe'', ''charge'', ''account_id'', 8). A '
    'smaller limit holds as tasks end. A task may be under several limits. peers.explain tells which one it waits for.';
comment on column peers.limit.name is 'A name for people and for cooldowns, 1 to 200 characters.';
comment on column peers.limit.queue is 'The queue whose tasks it limits. Give either queue or kind.';
comment on column peers.limit.kind is 'The kind whose tasks it limits, in all queues. Give either queue or kind.';
comment on column peers.limit.key is
    'A path into args, such as account_id or customer.id: the limit holds for each value on its own. The tasks without '
    'a value there have one limit together. Null: one limit for all tasks of the kind or queue.';
comment on column peers.limit.max_running is
    'How many tasks may run at once for each key; with weight: how much they may weigh together. Null: any number.';
comment on column peers.limit.starts is 'How many tasks may start in any period of length per, for each key.';
comment on column peers.limit.per is 'The period for starts, 10 milliseconds to 30 days.';
comment on column peers.limit.weight is
    'A path into args to a number: how much a task counts for max_running. Null, and tasks without a number there: 1.';
comment on column peers.limit.fair is
    'The next task comes from the key that has the fewest running tasks and was served least lately. Then priority '
    'only orders the tasks of one key.';
comment on column peers.limit.shut_until is
    'No task starts before this time. ''infinity'' stops the tasks until somebody changes it.';
comment on column peers.limit.shut_because is 'Why it is shut, as the handler or the operator said.';
comment on column peers.limit.learns is
    'Each cooldown halves how many tasks may run, and each quiet minute raises it again, up to max_running.';
comment on column peers.limit.learned is 'How many tasks could run after the last cooldown. Kept by the scheduler.';
comment on column peers.limit.learned_at is 'When it was halved. Kept by the scheduler.';
comment on column peers.limit.declared is
    'What a peer''s code declared last. A declaration that equals it changes nothing, so that what an operator changed '
    'is kept. Null: not declared in code.';
comment on column peers.limit.created_at is 'When it was created.';
comment on column peers.limit.changed_at is 'When its row was last changed. Kept by the scheduler.';
comment on column peers.limit.seed is
    'Part of the hash of its keys. It is new whenever the keys of tasks change. Kept by the scheduler.';
comment on column peers.limit.counts_tasks is
    'Tasks run that were claimed before this limit held for them. They are counted one by one. Kept by the scheduler.';

-- The columns from queue to position are the order in which claims read. `rank` is the task's priority, or 0 if a fair
-- limit decides between keys before the priority does. `layout` stands for the limits that held when the row was
-- written: after a limit is added, removed or has another key, the rows of the old layout are moved.
create table if not exists peers.ready_limited (
    queue text collate "C" not null,
    kind text collate "C" not null,
    layout bigint not null,
    rank smallint not null,
    key bigint not null,
    priority smallint not null,
    position bigint not null,
    task_id bigint not null,
    ready_at timestamptz not null default statement_timestamp(),
    limit_keys bigint[] not null,
    -- serves claim_limited: the first tasks of each key. A claim jumps from one key to the next.
    primary key (queue, kind, layout, rank, key, priority, position)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

comment on table peers.ready_limited is
    'The ready tasks that are under a limit. Tasks that become ready again wait in peers.ready at first; claims and '
    'maintenance move them here.';
comment on column peers.ready_limited.queue is 'The task''s queue.';
comment on column peers.ready_limited.kind is 'The task''s kind.';
comment on column peers.ready_limited.layout is 'Which limits held for the task when the row was written.';
comment on column peers.ready_limited.rank is 'The task''s priority; 0 if a fair limit orders the keys.';
comment on column peers.ready_limited.key is 'Stands for the values of the task''s limit keys.';
comment on column peers.ready_limited.priority is 'The task''s priority.';
comment on column peers.ready_limited.position is 'The order in which tasks became ready, the same as in peers.ready.';
comment on column peers.ready_limited.ready_at is 'When the task became ready.';
comment on column peers.ready_limited.task_id is
    'The task. The row is stale unless the task is ready, its graph is not paused and its keys are the same.';
comment on column peers.ready_limited.limit_keys is
    'One hash for each limit, by the limit''s name: of the limit and the value of its key.';

-- Starts are counted for limits with a rate. A claim adds rows, merges them if its key has more than 1,000, and
-- maintenance deletes those that are older than any period.
create table if not exists peers.limit_start (
    limit_key bigint not null,
    started_at timestamptz not null,
    tasks integer not null
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- the table has no key, and a publication needs to tell its rows apart
alter table peers.limit_start replica identity full;

-- serves claim_limited: how many tasks of a key started in the last period
create index if not exists limit_start_key on peers.limit_start (limit_key, started_at);

comment on table peers.limit_start is
    'The starts of tasks under limits with a rate: one row for each key of a claim, or for several that were merged.';
comment on column peers.limit_start.limit_key is 'The hash of the limit and the value of its key.';
comment on column peers.limit_start.started_at is 'The earliest time at which the tasks may start.';
comment on column peers.limit_start.tasks is 'How many tasks.';

-- What fair limits remember. Rows are only added, and claims merge them.
create table if not exists peers.limit_use (
    limit_key bigint not null,
    ended_at timestamptz not null,
    seconds double precision not null
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- the table has no key, and a publication needs to tell its rows apart
alter table peers.limit_use replica identity full;

-- serves claim_limited: how long the slots of a key were in use lately
create index if not exists limit_use_key on peers.limit_use (limit_key);

comment on table peers.limit_use is 'How long the tasks of each key of a fair limit have lately run.';
comment on column peers.limit_use.limit_key is 'The hash of the limit and the value of its key.';
comment on column peers.limit_use.ended_at is 'When they ended.';
comment on column peers.limit_use.seconds is 'How many seconds they ran, all of them together.';

alter table peers.peer add column if not exists limits text[] not null default '{}';

comment on column peers.peer.limits is 'The limits that its code declares.';
