-- Maintenance: peers.prune deletes what ended long ago, peers.check recounts what the triggers keep.

-- Deletes the rows that nothing needs any more: rows whose task or lease is gone, old graphs without tasks, peers that
-- were lost a day ago, cooldowns that ended a day ago, unique keys that no task holds. Graphs are locked first
-- and checked in a new statement, because a task may have been submitted to one in the meantime; an INSERT of a task
-- holds a lock on its graph.
create or replace function peers._prune_leftovers(_now timestamptz, _graphs_before timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _graphs bigint[];
begin
    delete from peers.ready r where r.ctid = any (array(
        select r.ctid from peers.ready r
        where not exists (select from peers.task t where t.id = r.task_id) for update skip locked
    ));
    delete from peers.ready_limited r where r.ctid = any (array(
        select r.ctid from peers.ready_limited r
        where not exists (select from peers.task t where t.id = r.task_id) for update skip locked
    ));
    delete from peers.scheduled s where s.ctid = any (array(
        select s.ctid from peers.scheduled s
        where not exists (select from peers.task t where t.id = s.task_id) for update skip locked
    ));
    delete from peers.peer p where p.id = any (array(
        select p.id from peers.peer p
        where p.lost_at < _now - interval '1 day'
          and not exists (select from peers.lease l where l.peer_id = p.id) for update skip locked
    ));
    delete from peers.cancel_request r where not exists (select from peers.lease l where l.token = r.token);
    delete from peers.task_progress g where not exists (select from peers.lease l where l.token = g.token);
    delete from peers.cooldown c where c.name = any (array(
        select c.name from peers.cooldown c where c.ends_at < _now - interval '1 day' for update skip locked
    ));
    perform peers._delete_free_keys(_now);
    _graphs := array(
        select g.id from peers.graph g
        where g.created_at < _graphs_before and not exists (select from peers.task t where t.graph_id = g.id)
        order by g.id for update skip locked
    );
    delete from peers.graph g
    where g.id = any (_graphs) and not exists (select from peers.task t where t.graph_id = g.id);
end
$$;

-- Walks the primary key from where the last call stopped. It skips locked tasks, and keeps every task that an
-- unfinished or dead child still needs. Only one session prunes at a time. A second one does nothing, so that its
-- maintenance does not wait for a transaction that stays open.
create or replace function peers.prune(older_than interval, max_tasks integer default 10000)
returns table (looked_at bigint, deleted bigint, finished boolean)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set lock_timeout = '1s'
as $$
declare
    _now timestamptz := peers.now();
    _ended_before timestamptz;
    _after bigint;
    _last bigint;
    _ids bigint[];
    _looked_at bigint;
begin
    perform peers._require_read_committed();
    if prune.older_than is null or prune.older_than < interval '0' then
        raise exception 'older_than must be an interval of 0 or more, not %', coalesce(prune.older_than::text, 'null')
            using errcode = 'PE009', hint = 'For example: peers.prune(''30 days'').';
    end if;
    if prune.max_tasks is null or prune.max_tasks < 1 then
        raise exception 'max_tasks must be 1 or more, not %',
            coalesce(prune.max_tasks::text, 'null') using errcode = 'PE009';
    end if;
    _ended_before := _now - least(prune.older_than, interval '1000 years');
    select p.after_id into _after from peers.prune_cursor p for no key update skip locked;
    if not found then
        return query select 0::bigint, 0::bigint, true;
        return;
    end if;

    select max(t.id), count(*) into _last, _looked_at
    from (select t.id from peers.task t where t.id > _after order by t.id limit prune.max_tasks) t;
    _ids := array(
        select t.id from peers.task t
        where t.id > _after and t.id <= _last
          and t.state in ('completed', 'cancelled')
          and t.finished_at < _ended_before
          and not exists (
              select from peers.dependency d join peers.task c on c.id = d.child_id
              where d.parent_id = t.id and c.state not in ('completed', 'cancelled')
          )
        order by t.id for update skip locked
    );
    -- again, now that no session can add an edge: one may have been committed before the tasks were locked
    _ids := array(
        select i.id from unnest(_ids) i(id)
        where not exists (
            select from peers.dependency d join peers.task c on c.id = d.child_id
            where d.parent_id = i.id and c.state not in ('completed', 'cancelled')
        )
    );
    delete from peers.dependency d where d.parent_id = any (_ids);
    delete from peers.dependency d where d.child_id = any (_ids);
    delete from peers.failure f where f.task_id = any (_ids);
    delete from peers.task_log l where l.task_id = any (_ids);
    delete from peers.task t where t.id = any (_ids);

    finished := _looked_at < prune.max_tasks;
    update peers.prune_cursor p set after_id = case when finished then 0 else _last end;
    if finished then
        perform peers._prune_leftovers(_now, _ended_before);
    end if;
    looked_at := _looked_at;
    deleted := cardinality(_ids);
    return next;
end
$$;

comment on function peers.prune is
    'Deletes completed and cancelled tasks that ended longer ago than older_than, with their edges, failures, logs and '
    'idempotency keys; a task that an unfinished or dead child needs is kept. Then deletes graphs that were created '
    'longer ago than older_than and have no task. One call examines max_tasks tasks and remembers its place: call '
    'again until finished. While another session prunes, it does nothing and returns finished.';

-- Returns every difference from what the triggers keep. One statement finds them all, so it sees one state of the
-- database.
create or replace function peers._find_problems(_only bigint[] default null)
returns table (task_id bigint, problem text, pending_parents bigint)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    -- ready and scheduled have no index on the task: only a hash table avoids reading them once for each task
    set work_mem = '1GB'
as $$
begin
    return query
    with limited as (
        -- a row whose key is not the task's is stale, unless it will be moved because of its layout
        select r.task_id, r.priority, r.kind, r.queue
        from peers.ready_limited r
        join peers.task t on t.id = r.task_id
        cross join lateral peers._limits_of(t.queue, t.kind, t.args) l
        where r.layout is distinct from l.layout or r.key = hash_array_extended(l.limit_keys, 0)
    ), counted as (
        select d.child_id, count(*) as parents
        from peers.dependency d join peers.task p on p.id = d.parent_id
        where p.state <> 'completed' and not d.waived and (_only is null or d.child_id = any (_only))
        group by d.child_id
    ), task as (
        select t.id, t.state, t.pending_parents, coalesce(c.parents, 0) as parents, t.kind, t.queue, t.priority,
               t.scheduled_at, t.graph_id, t.token
        from peers.task t left join counted c on c.child_id = t.id
        where _only is null or t.id = any (_only)
    )
    select t.id, p.problem, t.parents
    from task t
    cross join lateral (
        select case
            when t.pending_parents <> t.parents and t.state not in ('completed', 'cancelled')
                then 'pending_parents is ' || t.pending_parents || ', counted ' || t.parents
            when t.state = 'blocked' and t.parents = 0 then 'state is blocked, but it waits for no parent'
            when t.state in ('scheduled', 'ready') and t.parents > 0
                then 'state is ' || t.state || ', but it waits for parents'
            when t.state = 'ready'
                 and (t.id, t.priority, t.kind, t.queue) not in (
                     select r.task_id, r.priority, r.kind, r.queue from peers.ready r
                     union all
                     select l.task_id, l.priority, l.kind, l.queue from limited l)
                 and not exists (select from peers.graph g where g.id = t.graph_id and g.paused_at is not null)
                then 'state is ready, but neither peers.ready nor peers.ready_limited has a matching row'
            when t.state = 'scheduled'
                 and (t.id, t.scheduled_at) not in (select s.task_id, s.due_at from peers.scheduled s)
                then 'state is scheduled, but peers.scheduled has no matching row'
            when t.state = 'running' and not exists (
                     select from peers.lease l where l.token = t.token and t.id = any (l.task_ids))
                then 'state is running, but there is no lease'
            when t.state = 'running' and not exists (
                     select from peers.lease l join peers.peer p on p.id = l.peer_id where l.token = t.token)
                then 'state is running, but the peer of its lease does not exist'
            when t.state = 'blocked' and not exists (select from peers.blocked b where b.task_id = t.id)
                then 'state is blocked, but peers.blocked has no row'
            when t.state = 'dead' and not exists (select from peers.dead d where d.task_id = t.id)
                then 'state is dead, but peers.dead has no row'
            when t.state <> 'blocked' and exists (select from peers.blocked b where b.task_id = t.id)
                then 'state is ' || t.state || ', but peers.blocked has a row'
            when t.state <> 'dead' and exists (select from peers.dead d where d.task_id = t.id)
                then 'state is ' || t.state || ', but peers.dead has a row'
        end
    ) p(problem)
    where p.problem is not null
    union all
    select t.id, 'belongs to graph ' || t.graph_id || ', which does not exist', 0
    from peers.task t
    where t.graph_id is not null and not exists (select from peers.graph g where g.id = t.graph_id)
      and (_only is null or t.id = any (_only))
    union all
    select l.task_ids[1], case when l.open = c.running then 'lease ' || l.token || ' has no running task'
                          else 'open of lease ' || l.token || ' is ' || l.open || ', counted ' || c.running end, 0
    from peers.lease l
    cross join lateral (
        select count(*) as running from unnest(l.task_ids) i(task_id)
        join peers.task t on t.id = i.task_id and t.token = l.token and t.state = 'running'
    ) c
    where (l.open <> c.running or l.open = 0) and (_only is null or l.task_ids[1] = any (_only))
    union all
    select a.task_id, a.what || ' of token ' || a.token || ', under which the task does not run', 0
    from (select r.task_id, r.token, 'a cancel request' as what from peers.cancel_request r
          union all
          select g.task_id, g.token, 'the progress' from peers.task_progress g) a
    where (_only is null or a.task_id = any (_only)) and not exists (
        select from peers.task t where t.id = a.task_id and t.token = a.token and t.state = 'running')
    union all
    select d.child_id, 'waits for task ' || d.parent_id || ', which does not exist', 0
    from peers.dependency d
    where not exists (select from peers.task t where t.id = d.parent_id) and (_only is null or d.child_id = any (_only))
    order by 1, 2;
end
$$;

-- Repairs tasks that the caller has locked. The count comes from the edges, the state from the count, and the rows of
-- the narrow tables from the state. A graph that does not exist is created again. A lease without a peer is deleted,
-- and its tasks are ready again.
create or replace function peers._repair(_ids bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
begin
    insert into peers.graph (id, name)
    overriding system value
    select distinct t.graph_id, 'graph ' || t.graph_id
    from peers.task t where t.id = any (_ids) and t.graph_id is not null
    order by t.graph_id
    on conflict (id) do nothing;
    delete from peers.dependency d
    where d.child_id = any (_ids) and not exists (select from peers.task t where t.id = d.parent_id);
    update peers.task t
    set pending_parents = c.parents,
        attempt = case when t.state = 'running' and not c.leased then t.attempt - 1 else t.attempt end,
        state = case
                    when t.state in ('completed', 'dead', 'cancelled') or (t.state = 'running' and c.leased)
                        then t.state
                    when c.parents > 0 then 'blocked'
                    when t.scheduled_at > greatest(_now, t.created_at) then 'scheduled'
                    else 'ready'
                end
    from (
        select i.id,
               exists (select from peers.task t join peers.lease l on l.token = t.token
                       join peers.peer p on p.id = l.peer_id
                       where t.id = i.id and t.id = any (l.task_ids)) as leased,
               (select count(*) from peers.dependency d join peers.task p on p.id = d.parent_id
                where d.child_id = i.id and p.state <> 'completed' and not d.waived) as parents
        from unnest(_ids) i(id)
    ) c
    where t.id = c.id;

    delete from peers.lease l
    where l.task_ids && _ids and not exists (select from peers.peer p where p.id = l.peer_id);
    perform peers._recount_leases(array(select l.token from peers.lease l where l.task_ids && _ids));
    delete from peers.cancel_request r
    where r.task_id = any (_ids) and not exists (
        select from peers.task t where t.id = r.task_id and t.token = r.token and t.state = 'running');
    delete from peers.task_progress g
    where g.task_id = any (_ids) and not exists (
        select from peers.task t where t.id = g.task_id and t.token = g.token and t.state = 'running');
    delete from peers.blocked b where b.task_id = any (_ids);
    delete from peers.dead d where d.task_id = any (_ids);
    insert into peers.blocked (task_id, queue)
    select t.id, t.queue from peers.task t where t.id = any (_ids) and t.state = 'blocked';
    insert into peers.dead (task_id, queue, kind, died_at)
    select t.id, t.queue, t.kind, coalesce(t.finished_at, _now)
    from peers.task t where t.id = any (_ids) and t.state = 'dead';
    insert into peers.scheduled (due_at, task_id)
    select t.scheduled_at, t.id from peers.task t where t.id = any (_ids) and t.state = 'scheduled';
    insert into peers.ready (queue, kind, priority, task_id)
    select t.queue, t.kind, t.priority, t.id
    from peers.task t where t.id = any (_ids) and t.state = 'ready' order by t.id;
    perform peers._notify();
end
$$;

create or replace function peers.check(repair boolean default false)
returns table (task_id bigint, problem text, repaired boolean)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _tasks bigint[];
    _find_problems text[];
    _still bigint[];
begin
    perform peers._require_read_committed();
    select array_agg(p.task_id), array_agg(p.problem) into _tasks, _find_problems from peers._find_problems() p;
    if "check".repair and _tasks is not null then
        perform from peers.task t where t.id = any (_tasks) order by t.id for no key update;
        -- a task that another transaction was changing may be right by now
        _still := array(select distinct p.task_id from peers._find_problems(_tasks) p);
        perform peers._repair(_still);
    end if;
    return query select f.id, f.what, "check".repair from unnest(_tasks, _find_problems) f(id, what);
end
$$;

comment on function peers.check is
    'Recounts what the triggers keep and returns every difference; repair => true repairs them. Call it after a '
    'restore, or after session_replication_role = replica. No rows: everything is consistent.';
