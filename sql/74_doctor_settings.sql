-- Checks of peers.doctor: settings of the server, of this database and of the roles that use Peers.

-- Returns what each setting starts with in sessions of this role, and in those of the roles that run peers or submit.
-- `reset` is the statement that removes it.
create or replace function peers._starting_settings() returns table (name text, value text, place text, reset text)
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    with stored as (
        select split_part(e.entry, '=', 1) as name, substr(e.entry, strpos(e.entry, '=') + 1) as value,
               r.rolname, d.datname
        from pg_db_role_setting s
        cross join lateral unnest(s.setconfig) e(entry)
        left join pg_roles r on r.oid = s.setrole
        left join pg_database d on d.oid = s.setdatabase
        where (s.setdatabase = 0 or d.datname = current_database())
          and (s.setrole = 0 or r.rolname = current_user
               or r.rolcanlogin and not r.rolsuper and (pg_has_role(r.oid, to_regrole('peers_worker'), 'member')
                                                        or pg_has_role(r.oid, to_regrole('peers_submitter'), 'member')))
    )
    select s.name, s.value,
           coalesce(nullif(concat_ws(' in ', 'role ' || s.rolname, 'database ' || s.datname), ''), 'all roles'),
           -- a setting of a role in all databases has no database, one of a database or of all roles has no role
           format('ALTER %s RESET %s;',
                  case when s.rolname is not null
                       then 'ROLE ' || quote_ident(s.rolname) || coalesce(' IN DATABASE ' || quote_ident(s.datname), '')
                       else coalesce('DATABASE ' || quote_ident(s.datname), 'ROLE ALL') end, s.name)
    from stored s
    union all
    select p.name, p.reset_val, 'the server or this connection',
           format('ALTER SYSTEM RESET %s; SELECT pg_reload_conf(); or remove it from PGOPTIONS or the database URL',
                  p.name)
    from pg_settings p
    where p.reset_val is distinct from p.boot_val
      and not exists (
          select from stored s
          where lower(s.name) = lower(p.name) and (s.rolname is null or s.rolname = current_user)
      )
$$;

-- Returns a time of a setting: '500' is milliseconds, '1min' is as written.
create or replace function peers._setting_interval(_value text) returns interval
    language sql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select case when _value ~ '^\s*-?\d+\s*$' then _value::bigint * interval '1 ms'
                when has_unit then _value::interval end
    from (select _value ~ '^\s*\d+(\.\d+)?\s*(us|ms|s|min|h|d)\s*$' as has_unit) v
$$;

create or replace function peers._doctor_session_timeout(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'session_timeout', s.place, format('%s = %s for %s: %s', s.name, s.value, s.place, t.effect),
           s.reset || ' or set ' || t.least || ' or more'
    from (
        values ('statement_timeout', interval '5 seconds', '5s',
                'it cancels large submissions, `peers check` and migrations. Peers set a limit of their own'),
               ('transaction_timeout', '5 seconds', '5s', 'it ends sessions during large submissions and maintenance'),
               ('idle_in_transaction_session_timeout', '1 second', '1s',
                'it ends sessions between two statements of a transaction'),
               ('idle_session_timeout', '1 minute', '1min',
                'it ends the connections of peers while there is nothing to do, and they connect again and again')
    ) t(name, at_least, least, effect)
    join peers._starting_settings() s on s.name = t.name
    where peers._setting_interval(s.value) > interval '0' and peers._setting_interval(s.value) < t.at_least
$$;

comment on function peers._doctor_session_timeout is 'Does a time limit of the server end what Peers does?';

create or replace function peers._doctor_isolation_default(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'isolation_default', s.place,
           format('default_transaction_isolation = %s for %s: applications there cannot add edges or call functions '
                  'such as peers.cancel (PE003)', s.value, s.place),
           s.reset
    from peers._starting_settings() s
    where s.name = 'default_transaction_isolation' and s.value <> 'read committed'
$$;

comment on function peers._doctor_isolation_default is 'Is READ COMMITTED the isolation level of new transactions?';

create or replace function peers._doctor_read_only(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'read_only', 'the server',
           'this server is a standby, and accepts no writes: no task can be submitted or run here',
           'connect to the primary; with several hosts in PEERS_DATABASE_URL (host=a,b) the writable one is taken'
    where pg_is_in_recovery()
    union all
    select 'error', 'read_only', s.place,
           format('%s = on for %s: no task can be submitted or run there', s.name, s.place), s.reset
    from peers._starting_settings() s
    where s.name = 'default_transaction_read_only' and s.value in ('on', 'true', 'yes', '1')
$$;

comment on function peers._doctor_read_only is 'Does the database accept writes?';

create or replace function peers._doctor_replication_role(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'replication_role', s.place,
           format('session_replication_role = %s for %s: triggers do not run there, so submitted tasks are never found',
                  s.value, s.place),
           s.reset || ' then `peers check --repair`'
    from peers._starting_settings() s
    where s.name = 'session_replication_role' and s.value not in ('origin', 'local')
$$;

comment on function peers._doctor_replication_role is 'Do sessions run their triggers?';

create or replace function peers._doctor_notify_off(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'note', 'notify_off', s.place,
           format('peers.notify = %s for %s: peers find its tasks at their next poll only, up to some seconds later',
                  s.value, s.place),
           s.reset || ' it is needed for PREPARE TRANSACTION only'
    from peers._starting_settings() s
    where s.name = 'peers.notify' and s.value in ('off', 'false', 'no', '0')
$$;

comment on function peers._doctor_notify_off is 'Are peers notified of new tasks?';

create or replace function peers._doctor_statistics_off(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'note', 'statistics_off', 'the server',
           'track_activities is off: no check can see what sessions do, such as who keeps an old snapshot',
           'ALTER SYSTEM SET track_activities = on; SELECT pg_reload_conf();'
    where current_setting('track_activities') = 'off'
$$;

comment on function peers._doctor_statistics_off is 'Does the server record what its sessions do?';

create or replace function peers._doctor_small_memory(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'note', 'small_memory', s.name, format('%s is only %s: %s', s.name, current_setting(s.name), m.effect),
           format('ALTER SYSTEM SET %s = %L;%s', s.name, m.better, m.how)
    from (
        values ('work_mem', 1024, 'large batches and views are sorted on the disk', '4MB', ' SELECT pg_reload_conf();'),
               ('shared_buffers', 4096, 'the hot tables do not stay in memory', '128MB', ' restart the server')
    ) m(name, least, effect, better, how)
    join pg_settings s on s.name = m.name
    where s.setting::bigint < m.least
$$;

comment on function peers._doctor_small_memory is 'Does the server have the memory that Postgres has by default?';

create or replace function peers._doctor_fsync_off(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select case when s.name = 'fsync' then 'warning' else 'note' end, 'fsync_off', s.name,
           format('%s is off: after a crash of the machine the whole database may be unreadable%s', s.name,
                  case when s.name = 'fsync' then '' else ', unless its storage writes whole pages' end),
           format('ALTER SYSTEM SET %s = on; SELECT pg_reload_conf();', s.name)
    from pg_settings s
    where s.name in ('fsync', 'full_page_writes') and s.setting = 'off'
$$;

comment on function peers._doctor_fsync_off is 'Does the database survive a crash of its machine?';

-- `peers migrate` refuses these, but psql does not.
create or replace function peers._doctor_encoding(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'encoding', 'database ' || d.datname,
           format('the database has the encoding %s: one text that does not convert to UTF-8 can stop every claim',
                  pg_encoding_to_char(d.encoding)),
           'create a database with UTF8 (createdb --encoding UTF8 --template template0 --locale C NAME) and move there'
    from pg_database d
    where d.datname = current_database() and pg_encoding_to_char(d.encoding) <> 'UTF8'
      and (pg_encoding_max_length(d.encoding) > 1 or pg_encoding_to_char(d.encoding) = 'SQL_ASCII')
$$;

comment on function peers._doctor_encoding is 'Can every text of the database be read as UTF-8?';

create or replace function peers._doctor_collation_version(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'collation_version', 'database ' || d.datname,
           format('text was sorted by version %s of the collation, and the operating system now has %s: indexes on '
                  'text may miss rows, so that an idempotency key is taken twice', d.datcollversion,
                  pg_database_collation_actual_version(d.oid)),
           format('REINDEX SCHEMA CONCURRENTLY peers; do the same for the other schemas; then ALTER DATABASE %I '
                  'REFRESH COLLATION VERSION;', d.datname)
    from pg_database d
    where d.datname = current_database() and d.datcollversion <> pg_database_collation_actual_version(d.oid)
$$;

comment on function peers._doctor_collation_version is 'Do the indexes fit the collation of the operating system?';

create or replace function peers._doctor_clock_shift(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'clock_shift', 'peers.clock',
           format('the scheduler''s clock is moved by %s: only tests do this. Tasks start at wrong times', c.shift),
           'DELETE FROM peers.clock;'
    from peers.clock c
$$;

comment on function peers._doctor_clock_shift is 'Is the scheduler''s clock the clock of the database?';
