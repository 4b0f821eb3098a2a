-- What attempts have printed and logged: the last 64 KiB of each, of kinds that keep their logs.

create table if not exists peers.task_log (
    task_id bigint not null,
    token uuid not null,
    attempt smallint not null,
    peer_id uuid not null,
    host text,
    outcome text check (outcome in ('failed', 'completed')),
    size bigint not null check (size >= 0),
    cut boolean not null,
    -- in a database that is not UTF8, a character may become an escape, which is longer
    text text not null check (octet_length(text) <= 4 * 65536),
    stored_at timestamptz not null,
    -- serves the reads of a task's logs, the writes of its peer, and prune
    primary key (task_id, token)
);

comment on table peers.task_log is
    'The last 64 KiB of what attempts have printed and logged, of kinds with keep_log. A task has at most 10 of them. '
    'SELECT text FROM peers.task_log WHERE task_id = 42 ORDER BY attempt shows them. They are deleted with their task. '
    'Nothing depends on them: TRUNCATE peers.task_log frees their space.';
comment on column peers.task_log.task_id is 'The task.';
comment on column peers.task_log.token is 'The token of the lease under which the attempt ran.';
comment on column peers.task_log.attempt is 'Which attempt it was.';
comment on column peers.task_log.peer_id is 'The peer that ran it.';
comment on column peers.task_log.host is 'The peer''s host.';
comment on column peers.task_log.outcome is
    'What became of the attempt: failed or completed. Null: it still runs, or it ended without an outcome, because its '
    'peer was lost or stopped it. Then the text is what its peer had stored before.';
comment on column peers.task_log.size is 'How many bytes it printed and logged in UTF-8, without what was overwritten.';
comment on column peers.task_log.cut is 'Whether the beginning is missing, because there was more than 64 KiB.';
comment on column peers.task_log.text is 'The text. NUL characters are stored as \0.';
comment on column peers.task_log.stored_at is 'When it was stored last.';
