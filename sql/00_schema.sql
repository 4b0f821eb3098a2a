-- Peers: a task scheduler without a leader, told in the order it is read and applied.
--
--   10_tables     the nouns. A row in peers.task is one unit of work and carries its `state`, always true.
--                 The narrow rooms beside it (ready, scheduled, blocked, lease, dead) hold the task in that
--                 state, so that those who look for work never walk the wide table.
--   20_submit     an INSERT into peers.task is a submission. A trigger checks it and puts it into its room.
--   25_submit_graph, 27_topological_sort: a whole graph at once, sorted first.
--   30_dependencies      an INSERT into peers.dependency makes a child wait. A trigger counts the parents that hold
--                 it (pending_parents) and refuses cycles.
--   35_unblock    another trigger counts down as parents end; the child whose counter reaches 0 is released.
--   40_peers      a peer joins and sends heartbeats, which renew all of its leases.
--   45_claim      it claims ready tasks with FOR UPDATE SKIP LOCKED. A claim is a lease with a random token.
--   50_complete     an outcome counts only from the peer that holds the lease under the same token: completed,
--   55_fail       or failed: tried again later (backoff with full jitter), dead, or cancelled.
--   57_requeue     what was not run comes back: released by its peer, or reclaimed from one whose heartbeat
--                 has expired, by any other.
--   58_cooldown   an outside system that asks to be left alone is left alone by all peers.
--   59_promote    what is due becomes ready.
--   60_operate       dead letters: retry or discard them. And what operators change: cancel, change, pause.
--   62_results    a program that waits for a task's result is notified of its end.
--   80_views, 82_explain: what people read. 85_maintenance: prune and check. 87_guard: what is
--   refused outside the verbs. 90_roles: who may do what.
--
-- Three rules hold everywhere, and the comments do not repeat them:
--   * The lock on a task's row guards every transition of that task. Claim and settle never wait for it
--     (SKIP LOCKED): an application that keeps a transaction open must not stop the peers.
--   * Only claim and promote (and prune, what outlived its task) delete from the rooms ready and scheduled.
--     Who changes a task leaves its old row there; a row counts only while the task says the same (state,
--     queue, kind, priority; or scheduled_at).
--   * Locks are taken from parents to children, and in the order of ids among equals.
--
-- Every file can be applied again at any time: tables are created once, functions are replaced.

create schema if not exists peers;

comment on schema peers is
    'Peers, a leaderless task scheduler: INSERT INTO peers.task submits, peers.queue_status and '
    'peers.dead_letter show, TABLE peers.manual lists every verb. SET peers.notify = off leaves the notifications '
    'to the peers out, for PREPARE TRANSACTION; they find the tasks by polling.';

create or replace function peers.contract_version() returns integer
    language sql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$ select 1 $$;

comment on function peers.contract_version() is
    'The version of the functions that a peer calls. A peer joins only under its own version (else PE006).';

-- One clock for everybody: the database's. Tests move it by the row in peers.clock, which only the owner
-- may write; a setting would let any session move time for itself.
create table if not exists peers.clock (
    one_row boolean primary key default true check (one_row),
    shift interval not null
);

comment on table peers.clock is 'Empty in production. A test moves the time of the whole scheduler with one row.';
comment on column peers.clock.one_row is 'Always true: there is one clock.';
comment on column peers.clock.shift is 'What peers.now() adds to the time of the database.';

create or replace function peers.now() returns timestamptz
    language plpgsql volatile security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return clock_timestamp() + coalesce((select clock.shift from peers.clock), interval '0');
end
$$;

comment on function peers.now() is
    'The scheduler''s time: the database''s clock (of the moment, not of the transaction''s start).';
