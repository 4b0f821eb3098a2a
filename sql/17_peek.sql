-- What operators ask about running handlers, and what the peers that run them reply.

create table if not exists peers.peek (
    id bigint generated always as identity primary key,
    task_id bigint not null,
    token uuid not null,
    peer_id uuid not null,
    requested_at timestamptz not null,
    requested_by name not null default session_user,
    replied_at timestamptz,
    facts jsonb,
    report text,
    constraint "a report has at most 64 KiB" check (octet_length(report) <= 65536)
);

-- serves heartbeat: what this peer is asked (nearly empty)
create index if not exists peek_waiting on peers.peek (peer_id) where replied_at is null;

comment on table peers.peek is
    'What running handlers do: peers.request_peek inserts a row, and the peer that runs the task replies in it. Rows '
    'are deleted after five minutes.';
comment on column peers.peek.id is 'The number that peers.request_peek returned.';
comment on column peers.peek.task_id is 'The task.';
comment on column peers.peek.token is 'The token of the attempt that was running.';
comment on column peers.peek.peer_id is 'The peer that ran it.';
comment on column peers.peek.requested_at is 'When peers.request_peek was called.';
comment on column peers.peek.requested_by is 'The database role that called it.';
comment on column peers.peek.replied_at is 'When the peer replied. Null: it has not replied.';
comment on column peers.peek.facts is
    'The reply as JSON: the worker process, its memory and CPU, the innermost frame. Its field "phase" is running, '
    'waiting or ended.';
comment on column peers.peek.report is 'The reply as text, with the stacks.';
