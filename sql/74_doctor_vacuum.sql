-- Checks of peers.doctor: dead rows and whether autovacuum removes them, indexes, and numbers that run out.

-- Returns our tables with how many dead rows make autovacuum vacuum each, by the options of the table or the server.
create or replace function peers._vacuum_triggers()
returns table (relid oid, relname text, enabled boolean, dead_rows double precision)
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select c.oid, c.relname::text, coalesce(o.enabled, true),
           coalesce(o.threshold, current_setting('autovacuum_vacuum_threshold')::double precision)
           + coalesce(o.factor, current_setting('autovacuum_vacuum_scale_factor')::double precision)
             * greatest(c.reltuples, 0)
    from pg_class c
    cross join lateral (
        select max(o.option_value) filter (where o.option_name = 'autovacuum_vacuum_threshold')::double precision
                   as threshold,
               max(o.option_value) filter (where o.option_name = 'autovacuum_vacuum_scale_factor')::double precision
                   as factor,
               bool_and(o.option_value::boolean) filter (where o.option_name = 'autovacuum_enabled') as enabled
        from pg_options_to_table(c.reloptions) o
    ) o
    where c.relnamespace = 'peers'::regnamespace and c.relkind = 'r'
$$;

create or replace function peers._doctor_autovacuum_off(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'autovacuum_off', s.name,
           format('%s is off on this server: autovacuum removes no dead row, and claims get slower and slower', s.name),
           format('ALTER SYSTEM SET %s = on; SELECT pg_reload_conf();', s.name)
    from pg_settings s
    where s.name in ('autovacuum', 'track_counts') and s.setting = 'off'
    union all
    select 'error', 'autovacuum_off', 'peers.' || t.relname,
           format('autovacuum is off for peers.%s: its dead rows stay, and claims get slower and slower', t.relname),
           format('ALTER TABLE peers.%I RESET (autovacuum_enabled);', t.relname)
    from peers._vacuum_triggers() t
    where not t.enabled
$$;

comment on function peers._doctor_autovacuum_off is 'Is autovacuum on, for the server and for each table?';

create or replace function peers._doctor_autovacuum_busy(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'autovacuum_busy', 'the server',
           format('all %s workers of autovacuum have been busy for %s or longer: tables of Peers wait for their vacuum',
                  count(*), peers._duration_text(min(clock_timestamp() - a.xact_start))),
           'let them work faster: ALTER SYSTEM SET autovacuum_vacuum_cost_limit = 2000; SELECT pg_reload_conf(); or '
           'raise autovacuum_max_workers and restart the server; SELECT * FROM pg_stat_progress_vacuum; shows them'
    from pg_stat_activity a
    where a.backend_type = 'autovacuum worker'
    having count(*) >= coalesce(nullif(current_setting('autovacuum_max_workers'), ''), '3')::integer
       and min(clock_timestamp() - a.xact_start) >= _older_than
$$;

comment on function peers._doctor_autovacuum_busy is 'Does autovacuum have a worker to spare?';

-- Autovacuum comes once a minute, so dead rows only count if they are older than twice _older_than. The statistics have
-- no such age, but tasks do: this looks up a few old ones, at growing distances from the newest, to estimate how many
-- ended after the last vacuum and longer ago than that. A table right after a big batch is no finding.
create or replace function peers._doctor_dead_rows(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    with newest as (
        select max(t.id) as id from peers.task t
    ), old_task as materialized (
        select 1 << k as distance, coalesce(t.finished_at, t.started_at) as ended_at
        from newest
        cross join generate_series(0, 30) k
        cross join lateral (
            select t.finished_at, t.started_at from peers.task t
            where t.id <= newest.id - (1 << k) order by t.id desc limit 1
        ) t
    )
    select 'warning', 'dead_rows', 'peers.' || v.relname,
           format('peers.%s has %s dead rows beside %s live ones (%s on the disk), and was last vacuumed %s: claims '
                  'read past them', v.relname, s.n_dead_tup, s.n_live_tup,
                  pg_size_pretty(pg_total_relation_size(s.relid)),
                  coalesce(peers._duration_text(clock_timestamp() - x.vacuumed_at) || ' ago', 'never')),
           format('VACUUM (VERBOSE, ANALYZE) peers.%I; if they stay, see the findings old_snapshot, autovacuum_off and '
                  'autovacuum_busy', v.relname)
    from peers._vacuum_triggers() v
    join pg_stat_user_tables s on s.relid = v.relid
    cross join lateral (select greatest(s.last_vacuum, s.last_autovacuum) as vacuumed_at) x
    cross join lateral (
        select coalesce(sum(greatest(o.distance / 2, 1)), 0) as tasks from old_task o
        where o.ended_at < peers.now() - 2 * _older_than
          and o.ended_at > coalesce(x.vacuumed_at, (select min(m.applied_at) from peers.migration m))
    ) e
    where s.n_dead_tup > 5 * v.dead_rows and s.n_dead_tup > 5000 and e.tasks > least(5 * v.dead_rows, s.n_dead_tup / 4)
$$;

comment on function peers._doctor_dead_rows is 'Does autovacuum keep up with the dead rows?';

-- An estimate from the statistics of ANALYZE: what the entries of the live rows take at 70 % full pages.
create or replace function peers._doctor_index_bloat(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'note', 'index_bloat', 'peers.' || i.relname,
           format('the index peers.%s takes %s, and its rows need about %s', i.relname, pg_size_pretty(i.size),
                  pg_size_pretty(i.needed)),
           format('REINDEX INDEX CONCURRENTLY peers.%I;', i.relname)
    from (
        select c.relname, pg_relation_size(c.oid) as size,
               ((greatest(t.reltuples, s.n_live_tup, 1000)
                 * (20 + coalesce((select sum(p.avg_width) from pg_attribute a
                                   join pg_stats p on p.schemaname = 'peers' and p.tablename = t.relname
                                                  and p.attname = a.attname
                                   where a.attrelid = t.oid and a.attnum = any (x.indkey)), 40))) / 0.7)::bigint
                   as needed
        from pg_index x
        join pg_class c on c.oid = x.indexrelid
        join pg_class t on t.oid = x.indrelid and t.relnamespace = 'peers'::regnamespace
        left join pg_stat_user_tables s on s.relid = t.oid
        where x.indisvalid and c.relpages > 0
    ) i
    where i.size > 128 << 20 and i.size > 8 * i.needed
$$;

comment on function peers._doctor_index_bloat is 'Which indexes are much larger than their rows need?';

create or replace function peers._doctor_wraparound(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select case when w.age > 1200000000 then 'error' else 'warning' end, 'wraparound', 'database ' || w.datname,
           format('the oldest %s of database %s is %s behind: autovacuum should have frozen it at %s. At about 2 '
                  'billion the server refuses all writes', w.what, w.datname, w.age, w.most),
           format('in database %s: SELECT oid::regclass, age(relfrozenxid), mxid_age(relminmxid) FROM pg_class WHERE '
                  'relkind IN (''r'', ''m'') ORDER BY 2 DESC LIMIT 5; VACUUM (FREEZE, VERBOSE) the first ones; look '
                  'for old_snapshot, prepared_transaction and replication_slot', w.datname)
    from (
        select d.datname, 'transaction id' as what, age(d.datfrozenxid) as age,
               current_setting('autovacuum_freeze_max_age')::bigint as most
        from pg_database d
        union all
        select d.datname, 'multixact id', mxid_age(d.datminmxid),
               current_setting('autovacuum_multixact_freeze_max_age')::bigint
        from pg_database d
    ) w
    where w.age > w.most * 1.2 or w.age > 1200000000
    order by w.age desc limit 20
$$;

comment on function peers._doctor_wraparound is 'Are transaction ids running out?';

-- After a restore of data only, a sequence may be behind its table.
create or replace function peers._doctor_sequence_position(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'sequence_position', s.sequencename::text,
           format('the sequence peers.%s is at %s of %s: when it ends, nothing can be inserted', s.sequencename,
                  s.last_value, s.max_value),
           'SELECT max(id) FROM its table; if the sequence is far ahead by mistake, set it back with setval'
    from pg_sequences s
    where s.schemaname = 'peers' and s.last_value > s.max_value / 2
    union all
    select 'error', 'sequence_position', m.name,
           format('the sequence of peers.%s.id is behind the largest id, %s: an INSERT will fail with a duplicate key',
                  m.name, m.id),
           format('SELECT setval(pg_get_serial_sequence(''peers.%s'', ''id''), (SELECT max(id) FROM peers.%s));',
                  m.name, m.name)
    from (
        select 'task' as name, max(t.id) as id from peers.task t
        union all
        select 'graph', max(g.id) from peers.graph g
        union all
        select 'failure', max(f.id) from peers.failure f
    ) m
    join pg_sequences s
        on format('%I.%I', s.schemaname, s.sequencename) = pg_get_serial_sequence('peers.' || m.name, 'id')
    where m.id > coalesce(s.last_value, 0)
$$;

comment on function peers._doctor_sequence_position is 'Do the sequences of ids fit their tables?';
