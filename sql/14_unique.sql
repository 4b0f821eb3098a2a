-- Unique keys: which task holds a key, and for how long.

do $$
begin
    create type peers.unique_rule as (
        unique_while text, span interval, on_duplicate text, wait interval, max_wait interval
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.unique_rule is
    'What a submission says about its unique key. unique_while: waiting, unfinished or interval. span: how long the '
    'interval is. The other fields are the arguments of peers.submit.';

do $$
begin
    create type peers.unique_decision as (
        place integer, task_id bigint, is_new boolean, replaced boolean, start_at timestamptz
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.unique_decision is
    'What is decided about one submission with a unique key. place: its place in the batch. task_id: the task that it '
    'stands for. is_new: that is a new task. replaced: that task waits, and takes over the fields of the submission. '
    'start_at: when a debounced task starts; null: at the time in the submission.';

do $$
begin
    create type peers.task_fields as (
        args jsonb, queue text, priority smallint, scheduled_at timestamptz, max_attempts smallint, timeout interval,
        metadata jsonb
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.task_fields is 'What a submission that replaces a waiting task changes.';

-- A row costs a submission with a unique key one entry in one index. Nothing that happens to the task changes the row,
-- so that a claim or an outcome costs nothing more. A row that is overwritten has room on its page (fillfactor).
create table if not exists peers.unique_key (
    kind text collate "C" not null,
    key text collate "C" not null,
    task_id bigint not null,
    unique_while text not null,
    since timestamptz not null,
    until timestamptz,
    -- serves submissions: the task that holds a key
    primary key (kind, key),
    constraint "unique_while is waiting, unfinished or interval"
        check (unique_while in ('waiting', 'unfinished', 'interval')),
    constraint "only an interval has an end" check ((unique_while = 'interval') = (until is not null))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

comment on table peers.unique_key is
    'The last task that was submitted with each unique key. Whether it still holds the key follows from unique_while '
    'and the state of the task. Maintenance deletes a row that can no longer hold its key.';
comment on column peers.unique_key.kind is 'The kind of the task. Each kind has its own keys.';
comment on column peers.unique_key.key is 'The unique_key of the submission.';
comment on column peers.unique_key.task_id is 'The task.';
comment on column peers.unique_key.unique_while is
    'How long the task holds the key. waiting: while it is blocked, scheduled or ready. unfinished: until it is '
    'completed, dead or cancelled. interval: until the time in the column until.';
comment on column peers.unique_key.since is
    'When the task was submitted. If it is debounced: when the first submission came after its last start.';
comment on column peers.unique_key.until is 'When an interval ends, whatever became of the task.';
