-- peers.check recounts what the triggers keep, and repairs it.

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
