-- What operators did: one row for each call of a verb that acts on many tasks, on a queue, a limit or a schedule.

create table if not exists peers.action (
    id bigint generated always as identity primary key,
    at timestamptz not null,
    role name not null,
    client text,
    host inet,
    verb text not null,
    target jsonb not null,
    tasks bigint,
    children bigint,
    task_ids bigint[],
    reason text
);

-- serves `peers actions --since` and retention: the actions of a time
create index if not exists action_at on peers.action (at);

comment on table peers.action is
    'What operators did: who, what, to how many tasks, when and why. The verb writes the row in the transaction of its '
    'effect. A call that changed nothing writes no row, and a dry run writes none. Verbs for one task (peers.retry, '
    'discard, cancel, change) write none either. Nobody changes a row. Peers with a retention delete rows after 400 '
    'days.';
comment on column peers.action.id is 'The action''s number.';
comment on column peers.action.at is 'When the verb was called.';
comment on column peers.action.role is 'The database role that the session logged in as.';
comment on column peers.action.client is 'The session''s application_name.';
comment on column peers.action.host is 'The address that the session came from. Null: a local socket.';
comment on column peers.action.verb is 'The name of the function, such as retry_dead.';
comment on column peers.action.target is
    'What it was called for: a filter, a queue, a graph, a limit or a schedule. Of the ids of a filter it has the '
    'first 10; more_ids says how many more there were.';
comment on column peers.action.tasks is 'How many tasks it changed. Null: it is not about single tasks.';
comment on column peers.action.children is
    'How many descendants were affected: those that a retry allows to run, or that were cancelled as well.';
comment on column peers.action.task_ids is 'The first 100 of these tasks.';
comment on column peers.action.reason is 'Why, in the words of the caller.';

do $$
begin
    create type peers.task_filter as (
        kind text, queue text, state text, error_type text, error text, frame text, since timestamptz,
        until timestamptz, graph bigint, ids bigint[]
    );
exception when duplicate_object then null;
end
$$;

comment on type peers.task_filter is
    'What a filter of peers.retry_dead, discard_dead and cancel_tasks may contain. A field that is null matches all. '
    'error: a part of "type: message", in upper or lower case. frame: as in peers.dead_cause. since, until: when the '
    'task died (retry_dead, discard_dead) or was submitted (cancel_tasks); until is not included. ids: these tasks.';
