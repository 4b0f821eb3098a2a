-- Peers: a task scheduler that runs inside Postgres. There is no leader and no server of its own: identical peer
-- processes share one database, and each of these files is one part of what they do there.
--
-- A row in peers.task is one unit of work, and its column `state` says what it is doing. The states that are queried
-- often have a narrow table as well (ready, ready_limited, scheduled, blocked, lease, dead).
--
--   10 to 17    the tables: tasks and graphs, one table for each state, peers, bookkeeping, limits,
--               schedules, actions, logs, metrics, peeks.
--   19_NNNN     migrations: each changes tables of an earlier release, and is applied once.
--   20 to 27    submission. An INSERT into peers.task submits; a trigger checks it and inserts it into the table of its
--               state. peers.submit and peers.submit_graph (which sorts the graph first) do the same in one call.
--   14, 23, 26  unique keys: a submission keeps, replaces or debounces the task that holds its key. Only
--               submissions and maintenance read or write the row of a key.
--   28, 29      limits: what a row of peers.limit may say, and where tasks wait that are under limits.
--   30, 35      dependencies. An INSERT into peers.dependency makes a child wait. A trigger counts its parents in
--               pending_parents and refuses cycles. When parents end, another trigger counts down; a child whose
--               count reaches 0 becomes ready.
--   39, 40      a peer declares its kinds, joins, and sends heartbeats, which renew all of its leases.
--   42          a peer sees that another one on its host has ended. It declares it lost and releases unstarted tasks.
--   44 to 46    a peer claims ready tasks with FOR UPDATE SKIP LOCKED. Each claim is one lease with a random token.
--   47 to 49    limited tasks: a claim looks for keys that have room, locks them, and counts again from the leases.
--   50 to 55    an outcome is recorded only from the peer that holds the lease, under its token: the task completes, or
--               its attempt fails and the task is retried (backoff with full jitter), dies, or is cancelled.
--   56, 57      a task that was not run becomes ready again: its peer released it, or another peer reclaimed it from
--               a peer whose heartbeat expired.
--   58, 59      cooldowns for external systems, which shut the limit of their name; promotion of scheduled tasks that
--               are due.
--   60 to 62    what operators do with tasks, queues and graphs: retry, discard, cancel, change, pause, resume; and
--               with limits: set, remove, shut, open.
--   63          a program that waits for a task's result is notified of its end.
--   64 to 69    schedules: what an INSERT refuses, firing, backfills, alerts, what operators do with them, and
--               what the code of the peers declares.
--   70, 86      metrics: what peers count, gauges, their views, and peers.demand.
--   71          actions: verbs for many tasks that a filter chooses, with a dry run, and peers.action.
--   72 to 74    the logs of attempts, stacks of running handlers, and peers.doctor.
--   80 to 84    views, the progress of graphs, and peers.explain.
--   85          peers.check, and retention.
--   87, 90      what is refused on the tables of the scheduler, and the roles.
--
-- Three rules hold everywhere:
--   * The lock on a task's row guards every transition of that task. A peer's claims and outcomes wait for it only a
--     moment, because an application that keeps a transaction open must not stop the peers.
--   * Changing a task does not delete its old row in ready or scheduled. A row is valid only while its columns match
--     the task (state, queue, kind, priority; or scheduled_at) and the task's graph is not paused. Otherwise it is
--     stale, and the next claim or promote drops it.
--   * Sessions that wait lock graphs first, then parents before children, then by ascending id. The head of
--     50_outcomes.sql has the order for peers.
--
-- Each file can be applied again at any time: tables are created once, functions are replaced.

create schema if not exists peers;

comment on schema peers is
    'Peers, a task scheduler without a leader. INSERT INTO peers.task submits a task; peers.queue_status, '
    'peers.graph_status and peers.dead_letter show the state; TABLE peers.manual lists every function. '
    'SET peers.notify = off stops notifications to the peers, which PREPARE TRANSACTION does not allow; peers then '
    'find the tasks by polling.';

create or replace function peers.contract_version() returns integer
    language sql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$ select 1 $$;

comment on function peers.contract_version() is
    'Returns the version of the functions that a peer calls. A peer that expects another version cannot join (PE006).';

-- Everything uses one clock: the database's. Tests move it with the row in peers.clock, which only the owner may write.
-- A setting would let any session move its own time.
create table if not exists peers.clock (
    one_row boolean primary key default true check (one_row),
    shift interval not null
);

comment on table peers.clock is 'Empty in production. A test inserts one row to move the scheduler''s time.';
comment on column peers.clock.one_row is 'Always true, so that there is only one row.';
comment on column peers.clock.shift is 'What peers.now() adds to the database''s time.';

create or replace function peers.now() returns timestamptz
    language plpgsql volatile security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return clock_timestamp() + coalesce((select clock.shift from peers.clock), interval '0');
end
$$;

comment on function peers.now() is
    'Returns the scheduler''s time: the database''s clock now, not at the start of the transaction.';

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
