-- Refuses statements that would bypass the triggers and verbs.

create or replace function peers.refuse_truncate() returns trigger
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    raise exception 'TRUNCATE of %.% is refused: it bypasses what keeps the scheduler consistent',
        tg_table_schema, tg_table_name
        using errcode = 'PE005',
        hint = 'peers.prune deletes tasks that have ended. DROP SCHEMA peers CASCADE and `peers migrate` start over.';
end
$$;

comment on function peers.refuse_truncate() is 'Trigger: refuses TRUNCATE.';

create or replace trigger refuse_truncate before truncate on peers.task execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.graph execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.dependency execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.ready execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.ready_limited
    execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.limit_start execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.limit_use execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.limit execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.scheduled execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.blocked execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.lease execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.cancel_request
    execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.task_progress
    execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.dead execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.peer execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.failure execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.kind execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.paused_queue
    execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.dependency_lock
    execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.prune_cursor
    execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.unique_key execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.migration execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.schedule execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.schedule_run
    execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.schedule_backfill
    execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.alert execute function peers.refuse_truncate();
create or replace trigger refuse_truncate before truncate on peers.action execute function peers.refuse_truncate();

-- Only the verbs may change what the scheduler keeps. All of our functions run under one search_path, which no session
-- has by chance. So the triggers can tell a verb from a statement written by hand, at no cost. The metadata of tasks
-- and graphs and the name of a graph belong to the application, which may change them.
create or replace function peers.refuse_change() returns trigger
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    raise exception '% of %.% by hand is refused: it bypasses what keeps the scheduler consistent',
        tg_op, tg_table_schema, tg_table_name
        using errcode = 'PE005',
        hint = 'Call peers.cancel, change, retry, discard or prune (TABLE peers.manual lists all verbs). Only metadata '
               'may be changed by hand. For a deliberate repair: BEGIN; SET LOCAL search_path = pg_catalog, peers, '
               'pg_temp; ... SELECT * FROM peers.check(repair => true); COMMIT;';
end
$$;

comment on function peers.refuse_change() is
    'Trigger: refuses UPDATE and DELETE by hand of what the scheduler keeps (PE005).';

create or replace trigger refuse_change before delete or update of id, kind, state, args, queue, priority,
    scheduled_at, max_attempts, timeout, idempotency_key, graph_id, pending_parents, attempt, submitter, created_at,
    created_xid, started_at, finished_at, token, result, stopped_because on peers.task
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before delete or update of id, idempotency_key, submitter, created_at,
    paused_at, nodes on peers.graph
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.dependency
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.ready
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.ready_limited
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.limit_start
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.limit_use
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.scheduled
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.blocked
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.lease
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.cancel_request
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.task_progress
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.dead
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.failure
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update of next_due_at, computed_from, revision, resumed_at, failures,
    error, retry_at, expected_due_at, expect_at, declared, created_by, created_at, changed_at on peers.schedule
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.schedule_run
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.unique_key
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
create or replace trigger refuse_change before update or delete on peers.action
    for each statement when (current_setting('search_path') is distinct from 'pg_catalog, peers, pg_temp')
    execute function peers.refuse_change();
