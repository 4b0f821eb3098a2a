-- peers.doctor: what a database administrator would check. The files 74_doctor_*.sql have one function for each check.
--
-- A check is a function peers._doctor_NAME(older_than) that returns its findings, and its comment is the question that
-- it asks. To add one: write the function, add its line to peers.doctor below, and its section to docs/doctor.md.
-- Checks of the server and its sessions run with the caller's rights, because a member of pg_monitor sees more than the
-- owner of the schema. Checks that read our tables run with the owner's rights, and return only names and counts.

do $$
begin
    create type peers.finding as (level text, finding text, subject text, sentence text, remedy text);
exception when duplicate_object then null;
end
$$;

comment on type peers.finding is
    'What peers.doctor has found. level: error (something does not work, or soon will not), warning (it costs speed or '
    'delays tasks), note (worth knowing). finding: the name of the check, see docs/doctor.md. subject: what it is '
    'about. remedy: what to type.';

-- Returns a duration in words, for a sentence: 42 s, 12 min, 3 h 05 min, 2 days.
create or replace function peers._duration_text(_duration interval) returns text
    language sql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select case
        when s < 1 then round(s * 1000) || ' ms'
        when s < 120 then floor(s) || ' s'
        when s < 7200 then floor(s / 60) || ' min'
        when s < 172800 then floor(s / 3600) || ' h ' || lpad(floor(mod(s, 3600) / 60)::text, 2, '0') || ' min'
        else floor(s / 86400) || ' days'
    end
    from (select greatest(extract(epoch from _duration), 0) as s) d
$$;

-- Returns how a sentence names a session.
create or replace function peers._session_text(_session pg_stat_activity) returns text
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'session ' || _session.pid || ' (' || concat_ws(', ',
        nullif(_session.application_name, ''), 'role ' || _session.usename,
        'from ' || coalesce(host(_session.client_addr), 'this server')) || ')'
$$;

-- Returns the statements that end a session which is idle in a transaction, and prevent the next one. The role of a
-- session that has been dropped meanwhile has no name.
create or replace function peers._end_session_text(_session pg_stat_activity) returns text
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'SELECT pg_terminate_backend(' || _session.pid || ');'
        || coalesce(' to prevent it: ALTER ROLE ' || quote_ident(_session.usename)
                    || ' SET idle_in_transaction_session_timeout = ''1min'';', '')
$$;

create or replace view peers.doctor_check as
select substr(p.proname::text, length('_doctor_') + 1) as name,
       obj_description(p.oid, 'pg_proc') as question
from pg_catalog.pg_proc p
where p.pronamespace = 'peers'::regnamespace and p.proname like '\_doctor\_%'
order by 1;

comment on view peers.doctor_check is 'The checks of peers.doctor.';
comment on column peers.doctor_check.name is 'The name of the check and of its findings.';
comment on column peers.doctor_check.question is 'What it asks.';

-- A check that fails does not stop the others. It is a finding too, because what was not checked may be wrong.
create or replace function peers.doctor(checks text[] default null, older_than interval default '5 minutes')
returns setof peers.finding
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '1s'
    set jit = off
    set intervalstyle = 'postgres'
as $$
declare
    _age constant interval := coalesce(older_than, '5 minutes');
    _check text;
    _found peers.finding[];
    _all peers.finding[] := '{}';
begin
    for _check in
        select c.name from peers.doctor_check c where doctor.checks is null or c.name = any (doctor.checks)
        union
        select n from unnest(doctor.checks) n
    loop
        begin
            _found := case _check
                -- sessions
                when 'connections' then array(select f from peers._doctor_connections(_age) f)
                when 'hidden_sessions' then array(select f from peers._doctor_hidden_sessions(_age) f)
                when 'idle_in_transaction' then array(select f from peers._doctor_idle_in_transaction(_age) f)
                when 'lock_wait' then array(select f from peers._doctor_lock_wait(_age) f)
                when 'notification_queue' then array(select f from peers._doctor_notification_queue(_age) f)
                when 'old_snapshot' then array(select f from peers._doctor_old_snapshot(_age) f)
                when 'prepared_transaction' then array(select f from peers._doctor_prepared_transaction(_age) f)
                when 'replication_slot' then array(select f from peers._doctor_replication_slot(_age) f)
                when 'standby_feedback' then array(select f from peers._doctor_standby_feedback(_age) f)
                when 'synchronous_standby' then array(select f from peers._doctor_synchronous_standby(_age) f)
                -- vacuum
                when 'autovacuum_busy' then array(select f from peers._doctor_autovacuum_busy(_age) f)
                when 'autovacuum_off' then array(select f from peers._doctor_autovacuum_off(_age) f)
                when 'dead_rows' then array(select f from peers._doctor_dead_rows(_age) f)
                when 'index_bloat' then array(select f from peers._doctor_index_bloat(_age) f)
                when 'sequence_position' then array(select f from peers._doctor_sequence_position(_age) f)
                when 'wraparound' then array(select f from peers._doctor_wraparound(_age) f)
                -- settings
                when 'clock_shift' then array(select f from peers._doctor_clock_shift(_age) f)
                when 'collation_version' then array(select f from peers._doctor_collation_version(_age) f)
                when 'encoding' then array(select f from peers._doctor_encoding(_age) f)
                when 'fsync_off' then array(select f from peers._doctor_fsync_off(_age) f)
                when 'isolation_default' then array(select f from peers._doctor_isolation_default(_age) f)
                when 'notify_off' then array(select f from peers._doctor_notify_off(_age) f)
                when 'read_only' then array(select f from peers._doctor_read_only(_age) f)
                when 'replication_role' then array(select f from peers._doctor_replication_role(_age) f)
                when 'session_timeout' then array(select f from peers._doctor_session_timeout(_age) f)
                when 'small_memory' then array(select f from peers._doctor_small_memory(_age) f)
                when 'statistics_off' then array(select f from peers._doctor_statistics_off(_age) f)
                -- the schema
                when 'foreign_trigger' then array(select f from peers._doctor_foreign_trigger(_age) f)
                when 'grants_missing' then array(select f from peers._doctor_grants_missing(_age) f)
                when 'index_hinders_hot' then array(select f from peers._doctor_index_hinders_hot(_age) f)
                when 'index_invalid' then array(select f from peers._doctor_index_invalid(_age) f)
                when 'owner_differs' then array(select f from peers._doctor_owner_differs(_age) f)
                when 'row_security' then array(select f from peers._doctor_row_security(_age) f)
                when 'trigger_disabled' then array(select f from peers._doctor_trigger_disabled(_age) f)
                when 'unlogged_table' then array(select f from peers._doctor_unlogged_table(_age) f)
                -- the work
                when 'expired_lease' then array(select f from peers._doctor_expired_lease(_age) f)
                when 'failing_schedule' then array(select f from peers._doctor_failing_schedule(_age) f)
                when 'held_children' then array(select f from peers._doctor_held_children(_age) f)
                when 'late_heartbeat' then array(select f from peers._doctor_late_heartbeat(_age) f)
                when 'late_schedule' then array(select f from peers._doctor_late_schedule(_age) f)
                when 'limit_shut' then array(select f from peers._doctor_limit_shut(_age) f)
                when 'lost_peer' then array(select f from peers._doctor_lost_peer(_age) f)
                when 'no_peer' then array(select f from peers._doctor_no_peer(_age) f)
                when 'open_alert' then array(select f from peers._doctor_open_alert(_age) f)
                when 'overdue_task' then array(select f from peers._doctor_overdue_task(_age) f)
                when 'paused_graph' then array(select f from peers._doctor_paused_graph(_age) f)
                when 'paused_queue' then array(select f from peers._doctor_paused_queue(_age) f)
                when 'peer_before_migration' then array(select f from peers._doctor_peer_before_migration(_age) f)
                when 'slow_cancel' then array(select f from peers._doctor_slow_cancel(_age) f)
                when 'unrunnable_kind' then array(select f from peers._doctor_unrunnable_kind(_age) f)
                when 'version_skew' then array(select f from peers._doctor_version_skew(_age) f)
                else array[('note', 'check_not_made', _check, 'there is no check of this name',
                            'TABLE peers.doctor_check; lists them')::peers.finding]
            end;
        exception
            when insufficient_privilege then
                _found := array[('note', 'check_not_made', _check, 'the check was not made: ' || sqlerrm,
                                 format('GRANT peers_reader, pg_monitor TO %I;', current_user))::peers.finding];
            when lock_not_available then
                _found := array[('note', 'check_not_made', _check, 'the check was not made: a lock on a table that it '
                                 'reads was not free within a second', 'see the finding lock_wait; then run the check '
                                 'again')::peers.finding];
            when others then
                _found := array[('note', 'check_not_made', _check, 'the check failed: ' || sqlerrm || ' (' || sqlstate
                                 || ')', 'run the check again; report this if it persists')::peers.finding];
        end;
        _all := _all || _found;
    end loop;
    return query
    select f.* from unnest(_all) f
    order by array_position(array['error', 'warning', 'note'], f.level), f.finding, f.subject;
end
$$;

comment on function peers.doctor is
    'Returns what is wrong with this database, the worst first: who keeps old snapshots, dead rows, locks, settings, '
    'disabled triggers, tasks that nobody runs, and more. No row means that all is well. older_than: how long '
    'something may last before it is a finding. checks: the names of the checks to make (TABLE peers.doctor_check). '
    'The command `peers doctor` also makes the checks that need a client.';
