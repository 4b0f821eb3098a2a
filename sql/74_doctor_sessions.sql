-- Checks of peers.doctor: sessions, their snapshots and locks, and replication.

-- VACUUM only looks at the snapshots of its own database. At READ COMMITTED a session that is idle in a transaction and
-- has written nothing has no snapshot.
create or replace function peers._doctor_old_snapshot(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select case when age >= 12 * greatest(_older_than, interval '1 minute') then 'error' else 'warning' end,
           'old_snapshot', 'pid ' || a.pid,
           peers._session_text(a) || ' has had a transaction open for ' || peers._duration_text(age) || ' ('
           || case when a.state like 'idle in transaction%' then a.state else 'it is working' end
           || '): vacuum cannot remove rows that died since then, and claims get slower; our tables have '
           || (select coalesce(sum(t.n_dead_tup), 0) from pg_stat_user_tables t where t.schemaname = 'peers')
           || ' dead rows now',
           case when a.state like 'idle in transaction%' then
               peers._end_session_text(a)
           else format('wait for its end, or SELECT pg_cancel_backend(%s);', a.pid) end
    from pg_stat_activity a
    cross join lateral (select clock_timestamp() - a.xact_start as age) x
    where a.datname = current_database() and a.pid <> pg_backend_pid()
      and a.backend_type in ('client backend', 'parallel worker', 'background worker')
      and (a.backend_xmin is not null or a.backend_xid is not null)
      and a.wait_event_type is distinct from 'Lock'  -- then lock_wait names the session that it waits for
      and age >= _older_than
    order by a.xact_start limit 20
$$;

comment on function peers._doctor_old_snapshot is 'Which sessions keep vacuum from removing dead rows?';

create or replace function peers._doctor_idle_in_transaction(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'idle_in_transaction', 'pid ' || a.pid,
           peers._session_text(a) || ' has been idle in a transaction for '
           || peers._duration_text(clock_timestamp() - a.state_change) || ' and keeps locks on '
           || l.tables || ': a change of these tables, such as `peers migrate`, waits for it',
           peers._end_session_text(a)
    from pg_stat_activity a
    cross join lateral (
        select string_agg(distinct 'peers.' || c.relname, ', ') as tables
        from pg_locks l join pg_class c on c.oid = l.relation
        where l.pid = a.pid and l.granted and l.locktype = 'relation' and c.relkind = 'r'
          and c.relnamespace = 'peers'::regnamespace
          and l.database = (select d.oid from pg_database d where d.datname = current_database())
    ) l
    where a.datname = current_database() and a.pid <> pg_backend_pid() and a.state like 'idle in transaction%'
      and a.backend_xmin is null and a.backend_xid is null and l.tables is not null
      and clock_timestamp() - a.state_change >= _older_than
    order by a.state_change limit 20
$$;

comment on function peers._doctor_idle_in_transaction is
    'Which sessions keep locks on tables of Peers while they do nothing?';

create or replace function peers._doctor_prepared_transaction(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'prepared_transaction', p.gid,
           format('the prepared transaction %L of role %s has waited for its COMMIT PREPARED for %s: it keeps its '
                  'locks, and vacuum cannot remove rows that died since then', p.gid, p.owner,
                  peers._duration_text(clock_timestamp() - p.prepared)),
           format('COMMIT PREPARED %L; or ROLLBACK PREPARED %L;', p.gid, p.gid)
    from pg_prepared_xacts p
    where p.database = current_database() and clock_timestamp() - p.prepared >= _older_than
    order by p.prepared limit 20
$$;

comment on function peers._doctor_prepared_transaction is 'Which prepared transactions were forgotten?';

-- The column inactive_since exists from Postgres 17 on. The JSON form of the row is the same text for all versions.
create or replace function peers._doctor_replication_slot(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select case when s.wal_status in ('unreserved', 'lost') or x.wal > 1 << 30 or x.xids > 1000000
                     or clock_timestamp() - x.inactive_since >= _older_than then 'warning' else 'note' end,
           'replication_slot', s.slot_name::text,
           format('nothing reads the replication slot %s%s: it keeps %s of WAL on the disk%s', s.slot_name,
                  ' for ' || peers._duration_text(clock_timestamp() - x.inactive_since), pg_size_pretty(x.wal),
                  case when coalesce(s.xmin, s.catalog_xmin) is not null
                       then ', and dead rows of the last ' || x.xids || ' transactions'
                            || case when s.xmin is null then ' in the system catalogs' else '' end end),
           format('start its reader, or SELECT pg_drop_replication_slot(%L);', s.slot_name)
    from pg_replication_slots s
    cross join lateral (
        select (to_jsonb(s) ->> 'inactive_since')::timestamptz as inactive_since,
               coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                                        else pg_current_wal_lsn() end, s.restart_lsn), 0)::bigint as wal,
               greatest(age(s.xmin), age(s.catalog_xmin)) as xids
    ) x
    where not s.active and not s.temporary
      and (x.wal > 0 or x.xids is not null or s.wal_status in ('unreserved', 'lost'))
$$;

comment on function peers._doctor_replication_slot is 'Which replication slots keep dead rows and WAL for nobody?';

create or replace function peers._doctor_standby_feedback(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'standby_feedback', coalesce(nullif(r.application_name, ''), 'pid ' || r.pid),
           format('a query on the standby %s (%s) keeps vacuum on this server from removing the dead rows of the last '
                  '%s transactions', r.application_name, coalesce(host(r.client_addr), 'local'), age(r.backend_xmin)),
           'end the query on the standby, or set hot_standby_feedback = off there'
    from pg_stat_replication r
    where age(r.backend_xmin) > 100000
$$;

comment on function peers._doctor_standby_feedback is 'Which standbys keep vacuum from removing dead rows?';

-- A session that waits for ACCESS EXCLUSIVE makes all later ones wait behind it, so 2 s of it count. This reads
-- catalogs only, and never waits for such a lock itself.
create or replace function peers._doctor_lock_wait(_older_than interval) returns setof peers.finding
    language sql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
    select case when l.mode = 'AccessExclusiveLock' then 'error' else 'warning' end,
           'lock_wait', coalesce('peers.' || c.relname, 'pid ' || a.pid),
           peers._session_text(a) || ' has waited for ' || peers._duration_text(x.waited) || ' for a lock ('
           || l.mode || coalesce(' on peers.' || c.relname, '') || ')'
           || coalesce(' that ' || peers._session_text(b) || ' holds'
                       || case when b.state like 'idle in transaction%' then ' while it is idle in a transaction'
                          else '' end, '')
           || case when l.mode = 'AccessExclusiveLock'
                   then ': every other use of this table waits behind it, claims included' else '' end,
           case when l.mode = 'AccessExclusiveLock'
                then format('SELECT pg_cancel_backend(%s); try the change again with lock_timeout = ''2s'';', a.pid)
                     || coalesce(format(' or end the holder: SELECT pg_terminate_backend(%s);', b.pid), '')
                else coalesce(format('SELECT pg_terminate_backend(%s);', b.pid),
                              format('SELECT pg_blocking_pids(%s); says whom it waits for', a.pid)) end
    from pg_locks l
    join pg_stat_activity a on a.pid = l.pid
    left join pg_class c on c.oid = l.relation and c.relnamespace = 'peers'::regnamespace
    left join pg_stat_activity b on b.pid = (pg_blocking_pids(l.pid))[1]
    cross join lateral (select clock_timestamp() - l.waitstart as waited) x
    where not l.granted and a.datname = current_database()
      and (c.oid is not null or a.application_name like 'peers %')
      and x.waited >= least(_older_than, case when l.mode = 'AccessExclusiveLock' then interval '2 seconds'
                                         else interval '10 seconds' end)
    order by x.waited desc limit 20
$$;

comment on function peers._doctor_lock_wait is 'Who waits for a lock on a table of Peers, and who holds it?';

-- The type of a session of another role is hidden from roles without pg_monitor.
create or replace function peers._doctor_connections(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select case when u.used >= u.most then 'error' else 'warning' end, 'connections', u.subject,
           format('%s of %s connections of %s are in use: a peer that starts or has lost its connection may find none '
                  'free', u.used, u.most, u.subject),
           u.remedy || ', or run fewer peers with more slots each: a peer holds two'
    from (
        select 'the server' as subject, count(*) as used,
               current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
               - coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::integer as most,
               'raise max_connections and restart the server' as remedy
        from pg_stat_activity a
        where a.usesysid is not null and coalesce(a.backend_type, 'client backend') = 'client backend'
        union all
        select 'database ' || d.datname, count(*), d.datconnlimit,
               format('ALTER DATABASE %I CONNECTION LIMIT -1;', d.datname)
        from pg_database d join pg_stat_activity a on a.datid = d.oid
        where d.datname = current_database() and d.datconnlimit >= 0
          and a.usesysid is not null and coalesce(a.backend_type, 'client backend') = 'client backend'
        group by d.datname, d.datconnlimit
        union all
        select 'role ' || r.rolname, count(*), r.rolconnlimit, format('ALTER ROLE %I CONNECTION LIMIT -1;', r.rolname)
        from pg_roles r join pg_stat_activity a on a.usesysid = r.oid
        where r.rolconnlimit >= 0 and coalesce(a.backend_type, 'client backend') = 'client backend'
          and exists (select from pg_stat_activity o where o.usesysid = r.oid and o.datname = current_database())
        group by r.rolname, r.rolconnlimit
    ) u
    where u.used >= u.most * 0.9
$$;

comment on function peers._doctor_connections is 'Are connections running out?';

create or replace function peers._doctor_notification_queue(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select case when u.usage > 0.5 then 'error' else 'warning' end, 'notification_queue', 'the server',
           format('the notification queue is %s %% full: a session that listens has a transaction open. When it is '
                  'full, every transaction that submits a task fails', round((u.usage * 100)::numeric, 1)),
           'end the session with the oldest transaction: SELECT pid, datname, application_name, xact_start, state FROM '
           'pg_stat_activity WHERE xact_start IS NOT NULL ORDER BY xact_start LIMIT 5; SELECT '
           'pg_terminate_backend(pid);'
    from (select pg_notification_queue_usage() as usage) u
    where u.usage > 0.01
$$;

comment on function peers._doctor_notification_queue is 'Is the queue of NOTIFY filling up?';

-- Whether a standby is synchronous is hidden from roles without pg_monitor.
create or replace function peers._doctor_synchronous_standby(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'synchronous_standby', s.names,
           format('commits wait for a synchronous standby (synchronous_standby_names = %L), and none is connected: '
                  'every submission, claim and outcome that is flushed waits', s.names),
           'start the standby, or ALTER SYSTEM SET synchronous_standby_names = ''''; SELECT pg_reload_conf();'
    from (select current_setting('synchronous_standby_names') as names) s
    where s.names <> ''
      and (select p.reset_val from pg_settings p where p.name = 'synchronous_commit') not in ('off', 'local')
      and not pg_is_in_recovery()
      and pg_has_role('pg_read_all_stats', 'usage')
      and not exists (select from pg_stat_replication r where r.sync_state in ('sync', 'quorum'))
$$;

comment on function peers._doctor_synchronous_standby is 'Do commits wait for a standby that is not there?';

create or replace function peers._doctor_hidden_sessions(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'note', 'hidden_sessions', current_user::text,
           format('role %s may not see what %s of other roles do in this database: old_snapshot, idle_in_transaction, '
                  'lock_wait, standby_feedback and synchronous_standby miss them', current_user,
                  case when count(*) = 1 then '1 session' else count(*) || ' sessions' end),
           format('GRANT pg_monitor TO %I;', current_user)
    from pg_stat_activity a
    where a.datname = current_database() and a.usesysid is not null
      and not pg_has_role('pg_read_all_stats', 'usage') and not pg_has_role(a.usesysid, 'usage')
    having count(*) > 0
$$;

comment on function peers._doctor_hidden_sessions is 'Which sessions may this role not see?';
