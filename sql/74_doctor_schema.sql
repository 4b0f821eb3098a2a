-- Checks of peers.doctor: whether the objects of the schema are as they were installed.

create or replace function peers._doctor_trigger_disabled(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'trigger_disabled', 'peers.' || c.relname || '.' || t.tgname,
           format('the trigger %s on peers.%s is disabled: what it keeps consistent is no longer kept', t.tgname,
                  c.relname),
           format('ALTER TABLE peers.%I ENABLE TRIGGER %I; then `peers check --repair`', c.relname, t.tgname)
    from pg_trigger t
    join pg_class c on c.oid = t.tgrelid
    join pg_proc p on p.oid = t.tgfoid
    where c.relnamespace = 'peers'::regnamespace and p.pronamespace = c.relnamespace and not t.tgisinternal
      and t.tgenabled in ('D', 'R')
$$;

comment on function peers._doctor_trigger_disabled is 'Which of our triggers are disabled?';

create or replace function peers._doctor_foreign_trigger(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'note', 'foreign_trigger', 'peers.' || c.relname || '.' || t.tgname,
           format('the trigger %s on peers.%s calls %s.%s, which is not a part of Peers: it runs in the transactions '
                  'of the peers, and its errors stop them', t.tgname, c.relname, n.nspname, p.proname),
           format('if nobody needs it: DROP TRIGGER %I ON peers.%I;', t.tgname, c.relname)
    from pg_trigger t
    join pg_class c on c.oid = t.tgrelid
    join pg_proc p on p.oid = t.tgfoid
    join pg_namespace n on n.oid = p.pronamespace
    where c.relnamespace = 'peers'::regnamespace and n.oid <> c.relnamespace and not t.tgisinternal
      and t.tgenabled <> 'D'
$$;

comment on function peers._doctor_foreign_trigger is 'Which triggers of others run on our tables?';

create or replace function peers._doctor_index_invalid(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'index_invalid', n.nspname || '.' || c.relname,
           format('the index %s of peers.%s is invalid: each write updates it, and no query uses it. A CREATE INDEX or '
                  'REINDEX CONCURRENTLY has failed', c.relname, t.relname),
           format('DROP INDEX CONCURRENTLY %I.%I; then `peers doctor index_missing` says how to create it again, if '
                  'Peers needs it', n.nspname, c.relname)
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_namespace n on n.oid = c.relnamespace
    join pg_class t on t.oid = i.indrelid
    where t.relnamespace = 'peers'::regnamespace and not (i.indisvalid and i.indisready)
      -- one that is being built is no failure
      and not exists (select from pg_stat_progress_create_index b where b.index_relid = i.indexrelid)
$$;

comment on function peers._doctor_index_invalid is 'Which indexes are invalid?';

-- pg_depend has the columns of keys, expressions and predicates alike.
create or replace function peers._doctor_index_hinders_hot(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'index_hinders_hot', 'peers.' || c.relname,
           format('the index %s uses the column %s of peers.%s, which changes all the time: each change then writes '
                  'all indexes of the table, and claims and outcomes get slower', c.relname,
                  string_agg(distinct a.attname::text, ', '), t.relname),
           format('DROP INDEX CONCURRENTLY peers.%I; peers.queue_status, peers.running and peers.dead_letter need no '
                  'index on it', c.relname)
    from pg_depend d
    join pg_class c on c.oid = d.objid and c.relkind = 'i'
    join pg_class t on t.oid = d.refobjid and t.relnamespace = 'peers'::regnamespace
    join pg_attribute a on a.attrelid = t.oid and a.attnum = d.refobjsubid
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
      and (t.relname, a.attname) in (
          ('task', 'state'), ('task', 'pending_parents'), ('task', 'attempt'), ('task', 'started_at'),
          ('task', 'finished_at'), ('task', 'token'), ('task', 'result'), ('task', 'stopped_because'),
          ('lease', 'open'), ('peer', 'heartbeat_at'), ('peer', 'healthy_since'))
    group by c.relname, t.relname
$$;

comment on function peers._doctor_index_hinders_hot is 'Which indexes make every change of a task slow?';

-- Roles that were created after the schema, or a dump that was restored without privileges, lack their grants. A role
-- without members is used by nobody: roles belong to the whole server, and another database may have created it.
create or replace function peers._doctor_grants_missing(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select case when exists (select from pg_auth_members a where a.roleid = r.oid) then 'error' else 'note' end,
           'grants_missing', r.rolname::text,
           format('the role %s lacks its right to use %s: whoever has this role gets "permission denied"', r.rolname,
                  string_agg(m.what, ', ' order by m.what)),
           '`peers migrate` as the owner of the schema'
    from pg_roles r
    cross join lateral (
        select 'the schema peers' as what where not has_schema_privilege(r.oid, 'peers', 'usage')
        union all
        select 'peers.' || p.proname
        from pg_proc p
        where p.pronamespace = 'peers'::regnamespace and not has_function_privilege(r.oid, p.oid, 'execute')
          and (r.rolname::text, p.proname::text) in (
              ('peers_submitter', 'submit'), ('peers_submitter', 'submit_graph'), ('peers_worker', 'join'),
              ('peers_worker', 'heartbeat'), ('peers_worker', 'claim'), ('peers_worker', 'claim_limited'),
              ('peers_worker', 'complete'), ('peers_worker', 'fail'), ('peers_worker', 'release'),
              ('peers_worker', 'reclaim'), ('peers_worker', 'promote'), ('peers_worker', 'leave'),
              ('peers_worker', 'fire_schedules'), ('peers_operator', 'cancel'), ('peers_operator', 'retry'),
              ('peers_operator', 'check'), ('peers_operator', 'explain'), ('peers_reader', 'explain'))
        union all
        select 'the table peers.' || c.relname
        from pg_class c
        where c.relnamespace = 'peers'::regnamespace and c.relkind in ('r', 'v')
          and r.rolname in ('peers_operator', 'peers_reader') and not has_table_privilege(r.oid, c.oid, 'select')
          -- stacks are for operators only
          and (r.rolname, c.relname) <> ('peers_reader', 'peek')
    ) m
    where r.rolname in ('peers_submitter', 'peers_worker', 'peers_operator', 'peers_reader')
    group by r.oid, r.rolname
$$;

comment on function peers._doctor_grants_missing is 'Do the roles of Peers have their grants?';

create or replace function peers._doctor_owner_differs(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'owner_differs', r.rolname::text,
           format('%s functions of Peers (such as peers.%s) run with the rights of their owner %s, who may not write '
                  'the table peers.%s', count(distinct p.oid), min(p.proname), r.rolname, min(c.relname)),
           format('for each of them: ALTER FUNCTION ... OWNER TO %I; or drop them and run `peers migrate` as %I',
                  min(o.rolname), min(o.rolname))
    from pg_proc p
    join pg_roles r on r.oid = p.proowner
    join pg_class c on c.relnamespace = p.pronamespace and c.relkind = 'r' and c.relname in ('task', 'ready', 'lease')
    join pg_roles o on o.oid = c.relowner
    where p.pronamespace = 'peers'::regnamespace and p.prosecdef
      and not has_table_privilege(p.proowner, c.oid, 'insert, update, delete')
    group by r.rolname
$$;

comment on function peers._doctor_owner_differs is 'May the owners of our functions write our tables?';

create or replace function peers._doctor_row_security(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select case when c.relforcerowsecurity then 'error' else 'warning' end, 'row_security', 'peers.' || c.relname,
           format('row-level security is on for peers.%s: only its owner sees its rows%s',
                  c.relname, case when c.relforcerowsecurity then ', and it is forced for the owner too' else '' end),
           format('ALTER TABLE peers.%I NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;', c.relname)
    from pg_class c
    where c.relnamespace = 'peers'::regnamespace and c.relrowsecurity
$$;

comment on function peers._doctor_row_security is 'Does row-level security hide rows?';

create or replace function peers._doctor_unlogged_table(_older_than interval) returns setof peers.finding
    language sql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'unlogged_table', 'peers.' || c.relname,
           format('peers.%s is unlogged: a crash of Postgres empties it, and a standby does not have it', c.relname),
           format('ALTER TABLE peers.%I SET LOGGED;', c.relname)
    from pg_class c
    where c.relnamespace = 'peers'::regnamespace and c.relpersistence = 'u'
      and c.relname in ('task', 'dependency', 'graph', 'ready', 'ready_limited', 'scheduled', 'blocked', 'lease',
                        'dead', 'failure', 'peer', 'kind', 'limit', 'schedule', 'schedule_run', 'unique_key')
$$;

comment on function peers._doctor_unlogged_table is 'Which tables does a crash empty?';
