-- What the scheduler keeps for itself.

create table if not exists peers.dependency_lock ();
-- the table has no column, and a publication of all tables needs to tell rows apart
alter table peers.dependency_lock replica identity full;

comment on table peers.dependency_lock is
    'Always empty. A transaction that adds an edge into an older task locks this table until it ends. Only one '
    'transaction at a time may do that, because two of them could close a cycle together. Every transaction that adds '
    'edges locks it in a mode that lets the others pass; an outcome that was busy several times waits for them there.';

create table if not exists peers.prune_cursor (
    one_row boolean primary key default true check (one_row),
    after_id bigint not null,
    first_kept bigint,
    whole_at timestamptz not null default '-infinity'
);

insert into peers.prune_cursor (after_id) values (0) on conflict do nothing;

comment on table peers.prune_cursor is 'Where the next prune continues.';
comment on column peers.prune_cursor.one_row is 'Always true, so that there is only one row.';
comment on column peers.prune_cursor.after_id is 'The last task that prune examined.';
comment on column peers.prune_cursor.first_kept is
    'The first task that this round has kept: the next round begins there. Null: there is none yet.';
comment on column peers.prune_cursor.whole_at is 'When a round last began at the first of all tasks.';

insert into peers.migration (version, name) values (1, '10_task.sql') on conflict do nothing;
