-- What the scheduler keeps for itself.

create table if not exists peers.dependency_lock ();
-- the table has no column, and a publication of all tables needs to tell rows apart
alter table peers.dependency_lock replica identity full;

comment on table peers.dependency_lock is
    'Always empty. A transaction that adds an edge into an older task locks this table until it ends. Only one '
    'transaction at a time may do that, because two of them could close a cycle together.';

create table if not exists peers.prune_cursor (
    one_row boolean primary key default true check (one_row),
    after_id bigint not null
);

insert into peers.prune_cursor (after_id) values (0) on conflict do nothing;

comment on table peers.prune_cursor is 'Where the next prune continues.';
comment on column peers.prune_cursor.one_row is 'Always true, so that there is only one row.';
comment on column peers.prune_cursor.after_id is 'The last task that prune examined.';

create table if not exists peers.migration (
    version integer primary key,
    name text not null,
    applied_at timestamptz not null default now(),
    applied_by name not null default session_user
);

comment on table peers.migration is 'The table changes that were applied to this database, each of them once.';
comment on column peers.migration.version is 'The change''s number; 1 is the first installation.';
comment on column peers.migration.name is 'The file that made the change.';
comment on column peers.migration.applied_at is 'When it was applied.';
comment on column peers.migration.applied_by is 'The database role that applied it.';

insert into peers.migration (version, name) values (1, '10_task.sql') on conflict do nothing;
