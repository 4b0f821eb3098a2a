-- Upkeep: prune what ended long ago, check what the triggers keep.

-- Walks the primary key from where the last call stopped. It skips what is locked, and keeps whatever an
-- unfinished or dead child still needs. One prunes at a time, and whoever comes meanwhile has nothing to do: its
-- maintenance must not wait for a transaction that somebody keeps open.
create or replace function peers.prune(older_than interval, max_tasks integer default 10000)
returns table (looked_at bigint, deleted bigint, finished boolean)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set lock_timeout = '1s'
as $$
declare
    _now timestamptz := peers.now();
    _after bigint;
    _last bigint;
    _ids bigint[];
    _looked_at bigint;
begin
    perform peers._require_read_committed();
    if prune.older_than is null or prune.older_than < interval '0' then
        raise exception 'older_than must be an interval of 0 or more, not %', coalesce(prune.older_than::text, 'null')
            using errcode = 'PE009', hint = 'Such as peers.prune(''30 days'').';
    end if;
    if prune.max_tasks is null or prune.max_tasks < 1 then
        raise exception 'max_tasks must be 1 or more, not %',
            coalesce(prune.max_tasks::text, 'null') using errcode = 'PE009';
    end if;
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
          and t.finished_at < _now - least(prune.older_than, interval '1000 years')
          and not exists (
              select from peers.dependency d join peers.task c on c.id = d.child_id
              where d.parent_id = t.id and c.state not in ('completed', 'cancelled')
          )
        order by t.id for update skip locked
    );
    -- an edge that was committed while they were being locked: look again, now that nobody can add one
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
    delete from peers.task t where t.id = any (_ids);

    finished := _looked_at < prune.max_tasks;
    update peers.prune_cursor p set after_id = case when finished then 0 else _last end;
    if finished then
        -- rows that outlived their task, and peers whose loss and cooldowns whose end are old news
        delete from peers.ready r where r.ctid = any (array(
            select r.ctid from peers.ready r
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
        delete from peers.cooldown h where h.name = any (array(
            select h.name from peers.cooldown h where h.ends_at < _now - interval '1 day' for update skip locked
        ));
    end if;
    looked_at := _looked_at;
    deleted := cardinality(_ids);
    return next;
end
$$;

comment on function peers.prune is
    'Deletes completed and cancelled tasks that ended before older_than and that no unfinished or dead child '
    'needs, with their edges, failures and idempotency keys. One call looks at max_tasks and remembers its place: '
    'call again until finished. While another transaction prunes, it looks at nothing and has finished.';

-- Everything that is not as the triggers keep it, found in one statement and so in one state of the database.
create or replace function peers._problems(_only bigint[] default null)
returns table (task_id bigint, problem text, pending_parents bigint)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return query
    with counted as (
        select d.child_id, count(*) as parents
        from peers.dependency d join peers.task p on p.id = d.parent_id
        where p.state <> 'completed' and not d.waived and (_only is null or d.child_id = any (_only))
        group by d.child_id
    ), task as (
        select t.id, t.state, t.pending_parents, coalesce(c.parents, 0) as parents, t.kind, t.queue, t.priority,
               t.scheduled_at
        from peers.task t left join counted c on c.child_id = t.id
        where _only is null or t.id = any (_only)
    )
    select t.id, p.problem, t.parents
    from task t
    cross join lateral (
        select case
            when t.pending_parents <> t.parents and t.state not in ('completed', 'cancelled')
                then 'pending_parents is ' || t.pending_parents || ', counted ' || t.parents
            when t.state = 'blocked' and t.parents = 0 then 'state is blocked, but no parent holds it'
            when t.state in ('scheduled', 'ready') and t.parents > 0
                then 'state is ' || t.state || ', but parents hold it'
            when t.state = 'ready' and not exists (
                     select from peers.ready r
                     where r.task_id = t.id and r.priority = t.priority and r.kind = t.kind and r.queue = t.queue)
                then 'state is ready, but peers.ready has no matching row'
            when t.state = 'scheduled' and not exists (
                     select from peers.scheduled s where s.task_id = t.id and s.due_at = t.scheduled_at)
                then 'state is scheduled, but peers.scheduled has no matching row'
            when t.state = 'running' and not exists (select from peers.lease l where l.task_id = t.id)
                then 'state is running, but there is no lease'
            when t.state = 'blocked' and not exists (select from peers.blocked b where b.task_id = t.id)
                then 'state is blocked, but peers.blocked has no row'
            when t.state = 'dead' and not exists (select from peers.dead d where d.task_id = t.id)
                then 'state is dead, but peers.dead has no row'
            when t.state <> 'running' and exists (select from peers.lease l where l.task_id = t.id)
                then 'state is ' || t.state || ', but there is a lease'
            when t.state <> 'blocked' and exists (select from peers.blocked b where b.task_id = t.id)
                then 'state is ' || t.state || ', but peers.blocked has a row'
            when t.state <> 'dead' and exists (select from peers.dead d where d.task_id = t.id)
                then 'state is ' || t.state || ', but peers.dead has a row'
        end
    ) p(problem)
    where p.problem is not null
    union all
    select l.task_id, 'a lease of a task that is gone', 0
    from peers.lease l
    where not exists (select from peers.task t where t.id = l.task_id) and (_only is null or l.task_id = any (_only))
    union all
    select d.child_id, 'waits for task ' || d.parent_id || ', which is gone', 0
    from peers.dependency d
    where not exists (select from peers.task t where t.id = d.parent_id) and (_only is null or d.child_id = any (_only))
    order by 1, 2;
end
$$;

-- Repairs locked tasks: the count from the edges, the state from the count, the rows of the narrow tables from the
-- state.
create or replace function peers._mend(_ids bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
begin
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
               exists (select from peers.lease l where l.task_id = i.id) as leased,
               (select count(*) from peers.dependency d join peers.task p on p.id = d.parent_id
                where d.child_id = i.id and p.state <> 'completed' and not d.waived) as parents
        from unnest(_ids) i(id)
    ) c
    where t.id = c.id;

    delete from peers.lease l where l.task_id = any (_ids)
        and not exists (select from peers.task t where t.id = l.task_id and t.state = 'running');
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
returns table (task_id bigint, problem text, mended boolean)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _tasks bigint[];
    _problems text[];
    _still bigint[];
begin
    perform peers._require_read_committed();
    select array_agg(p.task_id), array_agg(p.problem) into _tasks, _problems from peers._problems() p;
    if "check".repair and _tasks is not null then
        perform from peers.task t where t.id = any (_tasks) order by t.id for no key update;
        -- what another transaction was just changing may have been right all along
        _still := array(select distinct p.task_id from peers._problems(_tasks) p);
        perform peers._mend(_still);
    end if;
    return query select f.id, f.what, "check".repair from unnest(_tasks, _problems) f(id, what);
end
$$;

comment on function peers.check is
    'Recounts what the triggers keep and lists every difference; with repair => true mends them. For after a '
    'restore, or after session_replication_role = replica. Nothing is listed when all is well.';
