-- Schedules: what is to run and when, what became of each due time, backfills, and open alerts.

do $$
begin
    create type peers.misfire_policy as enum ('skip', 'latest', 'all');
exception when duplicate_object then null;
end
$$;

comment on type peers.misfire_policy is
    'What happens to due times that no peer has fired within 10 seconds, because no peer was running. skip: none of '
    'them runs. latest: the latest one runs. all: each of them runs. Times older than catch_up never run.';

do $$
begin
    create type peers.overlap_policy as enum ('allow', 'skip', 'buffer_one', 'cancel_other');
exception when duplicate_object then null;
end
$$;

comment on type peers.overlap_policy is
    'What happens at a due time while an earlier run of the schedule is unfinished. allow: both run. skip: the new run '
    'is skipped. buffer_one: the new run starts when the earlier ones have ended; while one waits like this, further '
    'ones are skipped. cancel_other: the earlier ones are cancelled, and the new run starts when they have ended.';

do $$
begin
    create type peers.schedule_outcome as enum ('fired', 'skipped', 'failed');
exception when duplicate_object then null;
end
$$;

comment on type peers.schedule_outcome is
    'What became of a due time. fired: its task was submitted. skipped: it has no task; the column reason says why. '
    'failed: the database has refused the task, or another session has locked an earlier run; the peers try again.';

do $$
begin
    create type peers.schedule_fire as (
        name text, revision uuid, next_due_at timestamptz, due_times timestamptz[], then_due_at timestamptz,
        skipped_from timestamptz, skipped_until timestamptz, error text
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.schedule_fire is
    'What a peer has computed for a schedule that is due: see peers.fire_schedules.';

-- Each firing updates the row. Free space in the page (fillfactor) keeps the table small.
create table if not exists peers.schedule (
    name text primary key,
    cron text,
    every interval,
    anchor timestamptz,
    timezone text not null default 'UTC',
    kind text not null,
    args jsonb not null default '{}',
    queue text not null default 'default',
    priority smallint not null default 100,
    max_attempts smallint,
    timeout interval,
    metadata jsonb,
    misfire peers.misfire_policy not null default 'latest',
    catch_up interval not null default '1 day',
    overlap peers.overlap_policy not null default 'allow',
    jitter interval not null default '0',
    expect_within interval,
    paused_at timestamptz,
    next_due_at timestamptz,
    computed_from timestamptz,
    revision uuid not null default gen_random_uuid(),
    resumed_at timestamptz,
    failures integer not null default 0,
    error text,
    retry_at timestamptz,
    expected_due_at timestamptz,
    expect_at timestamptz,
    declared jsonb,
    created_by name not null default session_user,
    created_at timestamptz not null default now(),
    changed_at timestamptz not null default now(),
    look_at timestamptz generated always as (
        least(coalesce(greatest(next_due_at, retry_at), '1970-01-01 00:00:00+00'), expect_at)
    ) stored
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- serves due_schedules: the first schedules that a peer has to look at
create index if not exists schedule_look on peers.schedule (look_at);

comment on table peers.schedule is
    'One row is one schedule: it submits a task at each of its due times. INSERT (name, cron, timezone, kind, args) or '
    '(name, every, kind, args) creates it; UPDATE and DELETE change and remove it. peers.schedule_status shows all, '
    'peers.explain_schedule(name) says what became of its last due times.';
comment on column peers.schedule.name is 'Its name, 1 to 200 characters. It cannot be changed.';
comment on column peers.schedule.cron is
    'When it is due, as in a crontab: "0 2 * * *", "*/15 8-18 * * mon-fri", "@daily". Either cron or every is set.';
comment on column peers.schedule.every is
    'The time between two due times, 1 second to 365 days, without months. It counts elapsed time, also when the '
    'clocks change.';
comment on column peers.schedule.anchor is
    'Where every counts from: the schedule is due at the anchor, and at each multiple of every after it. Default: the '
    'time of the INSERT.';
comment on column peers.schedule.timezone is 'The time zone of cron, such as Europe/Berlin.';
comment on column peers.schedule.kind is 'The kind of its tasks.';
comment on column peers.schedule.args is 'The args of its tasks: a JSON object of at most 1 MiB.';
comment on column peers.schedule.queue is 'The queue of its tasks.';
comment on column peers.schedule.priority is 'The priority of its tasks; smaller runs first.';
comment on column peers.schedule.max_attempts is
    'Attempts of each task. Null: the value that the handler declares, or 5.';
comment on column peers.schedule.timeout is
    'The time limit of each attempt. Null: the value that the handler declares, or no limit.';
comment on column peers.schedule.metadata is
    'Metadata of its tasks: a JSON object. Each task also gets the keys schedule and due_at.';
comment on column peers.schedule.misfire is 'What happens to due times that were missed.';
comment on column peers.schedule.catch_up is 'A missed due time that is older than this never runs: 0 to 365 days.';
comment on column peers.schedule.overlap is 'What happens while an earlier run is unfinished.';
comment on column peers.schedule.jitter is
    'Each task starts up to this much later than its due time, 0 to 1 day. The delay depends on the name and the due '
    'time alone.';
comment on column peers.schedule.expect_within is
    'Raises an alert in peers.alert if no run has completed so long after a due time, 1 second to 365 days. Null: no '
    'alert.';
comment on column peers.schedule.paused_at is
    'Since when its due times are skipped: peers.pause_schedule and peers.resume_schedule. Null: it is not paused.';
comment on column peers.schedule.next_due_at is
    'When it is due next. Null: a peer will compute it soon. The year 9000: never. Kept by the scheduler.';
comment on column peers.schedule.computed_from is
    'Due times after this time count: when the schedule was created or its times changed. Kept by the scheduler.';
comment on column peers.schedule.revision is
    'A random value that each change of its times replaces. What a peer has computed from earlier times does not '
    'count. Kept by the scheduler.';
comment on column peers.schedule.resumed_at is
    'When it was last resumed. Due times before this are skipped as paused. Kept by the scheduler.';
comment on column peers.schedule.failures is
    'How often in a row the database has refused the task of the next due time. Kept by the scheduler.';
comment on column peers.schedule.error is 'The last of these errors. Kept by the scheduler.';
comment on column peers.schedule.retry_at is 'When the peers try again after a failure. Kept by the scheduler.';
comment on column peers.schedule.expected_due_at is
    'The due time whose run is expected to complete next. Kept by the scheduler.';
comment on column peers.schedule.expect_at is
    'When the peers check whether that run has completed. Kept by the scheduler.';
comment on column peers.schedule.declared is
    'What the code of the peers declared last; null: it was not declared in code. The view peers.schedule_status '
    'shows whether an operator has changed the schedule since. Kept by the scheduler.';
comment on column peers.schedule.created_by is 'The database role that created it.';
comment on column peers.schedule.created_at is 'When it was created.';
comment on column peers.schedule.changed_at is 'When it was last changed.';
comment on column peers.schedule.look_at is 'When a peer looks at it next. The year 1970: as soon as possible.';

alter table peers.peer add column if not exists schedules text[] not null default '{}';

comment on column peers.peer.schedules is 'The schedules that its code declares.';

-- There are no foreign keys: a run outlives its schedule, and prune deletes its task before it.
create table if not exists peers.schedule_run (
    schedule text not null,
    due_at timestamptz not null,
    outcome peers.schedule_outcome not null,
    reason text,
    task_id bigint,
    skipped_until timestamptz,
    cause text not null default 'due',
    unfinished boolean not null default false,
    recorded_at timestamptz not null,
    -- serves fire_schedules: each due time fires once; and explain_schedule: the last due times
    primary key (schedule, due_at)
);

-- serves task_due_at: the run of a task
create index if not exists schedule_run_task on peers.schedule_run (task_id) where task_id is not null;

-- serves fire_schedules: the unfinished runs of a schedule
create index if not exists schedule_run_unfinished on peers.schedule_run (schedule) where unfinished;

-- serves prune_schedule_runs: the oldest runs
create index if not exists schedule_run_recorded on peers.schedule_run (recorded_at);

comment on table peers.schedule_run is
    'One row for each due time of a schedule: fired with its task, or skipped and why. Rows stay when the schedule is '
    'deleted, until peers.prune_schedule_runs deletes them.';
comment on column peers.schedule_run.schedule is 'The name of the schedule.';
comment on column peers.schedule_run.due_at is 'The due time. For peers.run_schedule: the time of the call.';
comment on column peers.schedule_run.outcome is 'What became of it.';
comment on column peers.schedule_run.reason is
    'Why it has no task. If it was skipped: overlap, misfire, paused, changed (the times of the schedule changed '
    'before a peer fired it) or deleted. If it has failed: the error of the database.';
comment on column peers.schedule_run.task_id is 'The task of a run that fired.';
comment on column peers.schedule_run.skipped_until is
    'This row stands for all due times from due_at to this time. Null: for one.';
comment on column peers.schedule_run.cause is 'Why it ran: due, backfill, or manual (peers.run_schedule).';
comment on column peers.schedule_run.unfinished is
    'Whether its task may be unfinished. It becomes false when the schedule next fires after the task has ended.';
comment on column peers.schedule_run.recorded_at is 'When this was recorded.';

create table if not exists peers.schedule_backfill (
    id bigint generated always as identity primary key,
    schedule text not null,
    from_at timestamptz not null,
    until_at timestamptz not null,
    done_until timestamptz,
    last_task_id bigint,
    fired integer not null default 0,
    failures integer not null default 0,
    retry_at timestamptz,
    error text,
    created_by name not null default session_user,
    created_at timestamptz not null default now()
);

comment on table peers.schedule_backfill is
    'One row is one backfill in progress: peers.backfill_schedule inserts it, and the peers delete it when it is done. '
    'Its runs are in peers.schedule_run.';
comment on column peers.schedule_backfill.id is 'The number of the backfill.';
comment on column peers.schedule_backfill.schedule is 'The name of the schedule.';
comment on column peers.schedule_backfill.from_at is 'The first due time that it may run.';
comment on column peers.schedule_backfill.until_at is 'The last due time that it may run.';
comment on column peers.schedule_backfill.done_until is 'Due times up to this one are done. Null: none.';
comment on column peers.schedule_backfill.last_task_id is
    'Its last task. Unless overlap is allowed, the next one waits for it.';
comment on column peers.schedule_backfill.fired is 'How many tasks it has submitted.';
comment on column peers.schedule_backfill.failures is 'How often in a row the database has refused a task.';
comment on column peers.schedule_backfill.retry_at is 'When the peers try again after a failure.';
comment on column peers.schedule_backfill.error is 'The last error of the database.';
comment on column peers.schedule_backfill.created_by is 'The database role that created it.';
comment on column peers.schedule_backfill.created_at is 'When it was created.';

create table if not exists peers.alert (
    alert text not null,
    subject text not null,
    message text not null,
    details jsonb not null default '{}',
    raised_at timestamptz not null,
    -- serves due_schedules and schedule_status: the open alert of a schedule
    primary key (alert, subject)
);

comment on table peers.alert is
    'One row for each open alert. The row is deleted when the reason is gone. Let your monitoring read it.';
comment on column peers.alert.alert is
    'What the alert is about. schedule_late: no run of a schedule has completed within its expect_within.';
comment on column peers.alert.subject is 'The name of what it concerns, such as a schedule.';
comment on column peers.alert.message is 'A sentence for people.';
comment on column peers.alert.details is 'The same for programs.';
comment on column peers.alert.raised_at is 'Since when it is open.';
