-- Dependencies. The trigger in this file counts a child's parents as edges are inserted; the one in 35_unblock counts
-- down as parents end. Both handle whole batches. An edge counts while its parent is not completed and the edge is
-- not waived.
--
-- The functions that handle a batch pin their plans, as those of the peers do (40_peers): every lookup uses an index,
-- and the counts of a batch come from a map instead of a join. A plan that was made for three edges, or before the
-- tables were analyzed, took 100 s for 8,000 edges.

-- Edges and verbs lock rows and then read them in a new statement. Under REPEATABLE READ or SERIALIZABLE that
-- statement would still see the old state, and children would wait for ever.
create or replace function peers._require_read_committed() returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception 'dependencies, unique keys and verbs need READ COMMITTED, this transaction is %',
            upper(current_setting('transaction_isolation'))
            using errcode = 'PE003',
            hint = 'Use BEGIN ISOLATION LEVEL READ COMMITTED. A plain INSERT of tasks works under any level.';
    end if;
end
$$;

-- Refuses the edges just inserted if they close a cycle.
--
-- No other session can see the tasks that this transaction created, and no path leads from them back to older tasks
-- unless this transaction makes one. So nothing needs a check while all of its edges go into its own tasks and from
-- smaller to larger ids. Otherwise this sorts the part of the graph that can be reached from the new edges. An edge
-- into an older task could close a cycle together with an edge of another transaction. Such transactions run one
-- after another: each takes a lock before it reads anything.
--
-- A task is new if both created_xid and created_at are those of this transaction. The id alone is not enough: a dump
-- that is restored into a server with smaller transaction ids brings tasks whose ids are still to come there.
create or replace function peers._check_cycles(_parents bigint[], _children bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _cycle bigint[];
begin
    if not exists (
        select from peers.dependency d
        where d.created_xid = pg_current_xact_id() and (d.added_later or d.parent_id >= d.child_id)
    ) then
        return;
    end if;

    with recursive reached(id) as (
        select c from unnest(_children) c
        union
        select d.child_id from reached r join peers.dependency d on d.parent_id = r.id
    ), edge as (
        select d.parent_id, d.child_id from reached r join peers.dependency d on d.parent_id = r.id
        union
        select p, c from unnest(_parents, _children) e(p, c)
    )
    select k.cycle into _cycle
    from (select array_agg(edge.parent_id) as parents, array_agg(edge.child_id) as children from edge) e
    cross join lateral peers._topological_sort(e.parents, e.children) k;
    if _cycle is not null then
        raise exception 'dependency cycle: %', peers._describe_path(_cycle::text[])
            using errcode = 'PE001', hint = 'Remove one of these edges.';
    end if;
end
$$;

-- Checks that the caller may add these edges. An edge can delay or cancel its child, so only the child's submitter and
-- roles that may cancel it can add an edge into an older task. Until an edge is committed no peer can claim or
-- complete its parent, so only the parent's submitter and roles that may claim or cancel it can add an edge from it.
-- A member of the submitter's role has the submitter's rights.
create or replace function peers._check_edge_owner(_parents bigint[], _older bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _foreign record;
begin
    for _foreign in
        select min(t.id) as id, t.submitter, t.is_child
        from (
            select t.id, t.submitter, false as is_child from peers.task t where t.id = any (_parents)
            union all
            select t.id, t.submitter, true from peers.task t where t.id = any (_older)
        ) t
        where t.submitter <> session_user
        group by t.submitter, t.is_child
        order by t.is_child desc, 1
    loop
        if has_function_privilege(session_user, 'peers.cancel(bigint)', 'execute') then
            return;
        elsif exists (select from pg_roles r
                      where r.rolname = _foreign.submitter and pg_has_role(session_user, r.oid, 'member')) then
            continue;
        elsif _foreign.is_child then
            raise exception 'task % was submitted by another role: % may not make it wait', _foreign.id, session_user
                using errcode = 'PE005', hint = 'Its submitter or an operator can add the edge.';
        elsif not peers._is_trusted(session_user) then
            raise exception 'task % was submitted by another role: % may not wait for it', _foreign.id, session_user
                using errcode = 'PE005',
                hint = format('Its submitter, a worker or an operator can add the edge; GRANT %I TO %I lets this '
                              'role do so.', _foreign.submitter, session_user);
        end if;
    end loop;
end
$$;

-- Locks the parents and children of new edges in the order of their ids, as a cancellation does. No other session can
-- see this transaction's own tasks, so only older tasks need a lock. If an edge cancels an older task at once, the
-- task's descendants can end as well, so these are locked too.
create or replace function peers._lock_edge_ends(_parents bigint[], _older bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _below bigint[] := '{}';
begin
    if _older = '{}' then
        perform from peers.task t
        where t.id = any (_parents) and (t.created_xid, t.created_at) <> (pg_current_xact_id(), pg_catalog.now())
        order by t.id for share;
        return;
    end if;
    if exists (select from peers.task p where p.id = any (_parents) and p.state in ('dead', 'cancelled')) then
        _below := array(select t.id from peers._affected('{}', '{}', _older) t);
    end if;
    perform from peers.task t
    where t.id = any (_parents || _older || _below)
      and (t.created_xid, t.created_at) <> (pg_current_xact_id(), pg_catalog.now())
    order by t.id for no key update;
end
$$;

-- After an INSERT into peers.dependency: checks the edges, then blocks the children.
create or replace function peers.count_parents() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
as $$
declare
    _parents bigint[];
    _children bigint[];
    _older bigint[];
begin
    if not exists (select from new_edges) then
        return null;
    end if;
    perform peers._require_read_committed();
    if exists (select from new_edges e where e.waived or e.added_later or e.created_xid <> pg_current_xact_id()) then
        raise exception 'peers.dependency: waived, added_later and created_xid are kept by the scheduler'
            using errcode = 'PE009', hint = 'Leave these columns out of the INSERT.';
    end if;
    select array_agg(e.parent_id), array_agg(e.child_id) into _parents, _children from new_edges e;
    -- the table is empty: this only locks it, so that an outcome can wait for this transaction (_wait_for_edges)
    perform from peers.dependency_lock for key share;

    _older := array(
        select t.id from peers.task t
        where t.id = any (_children) and (t.created_xid, t.created_at) <> (pg_current_xact_id(), pg_catalog.now())
    );
    perform peers._check_edge_owner(_parents, _older);
    if _older <> '{}' then
        -- a table that no other role may lock; any role could take an advisory lock
        lock table peers.dependency_lock in share row exclusive mode;
        update peers.dependency d set added_later = true
        from unnest(_parents, _children) e(parent, child)
        cross join lateral (
            select from peers.task t
            where t.id = e.child and (t.created_xid, t.created_at) <> (pg_current_xact_id(), pg_catalog.now()) offset 0
        ) older
        where d.parent_id = e.parent and d.child_id = e.child;
    end if;
    perform peers._lock_edge_ends(_parents, _older);

    perform peers._check_edge_ends(_parents, _children);
    perform peers._check_cycles(_parents, _children);
    perform peers._block_children(_parents, _children);
    return null;
end
$$;

comment on function peers.count_parents() is
    'Trigger: checks new edges, counts them in pending_parents, and blocks the children.';

create or replace trigger count_parents after insert on peers.dependency
    referencing new table as new_edges
    for each statement execute function peers.count_parents();

-- Refuses edges whose tasks do not exist, or whose child has started or ended.
create or replace function peers._check_edge_ends(_parents bigint[], _children bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _missing bigint;
    _started record;
begin
    select e.id into _missing from (
        select unnest(_parents) union select unnest(_children)
        except
        select t.id from peers.task t where t.id = any (_parents || _children)
    ) e(id) order by e.id limit 1;
    if _missing is not null then
        raise exception 'bad graph: there is no task %, which an edge names', _missing
            using errcode = 'PE007',
            hint = 'Insert the tasks before their edges. A task that was pruned can no longer be a parent.';
    end if;
    select t.id, t.state, t.attempt into _started from peers.task t
    where t.id = any (_children) and (t.attempt > 0 or t.state not in ('blocked', 'scheduled', 'ready'))
    order by t.id limit 1;
    if _started.id is not null then
        raise exception 'task % cannot wait for another parent: it is % (attempt %)',
            _started.id, _started.state, _started.attempt
            using errcode = 'PE002',
            hint = 'Add edges before the child starts, preferably in the transaction that inserts it.';
    end if;
end
$$;

-- Deletes the rows that ready and ready_limited still have for new tasks that this transaction has just blocked. A
-- claim would drop these stale rows as well, for as much time as a task of a chain takes otherwise. They are the last
-- ones of their queue, kind and priority, unless other sessions or this transaction have added more in the meantime. So
-- this looks only at the last rows, and leaves to the claims what it does not find there.
create or replace function peers._drop_ready_rows(_blocked bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    delete from peers.ready r
    where r.ctid = any (array(
        select last.spot
        from (
            select t.queue, t.kind, t.priority, count(*) as tasks from peers.task t
            where t.id = any (_blocked) and t.created_xid = pg_current_xact_id()
            group by t.queue, t.kind, t.priority
        ) place
        cross join lateral (
            select r.ctid as spot, r.task_id from peers.ready r
            where r.queue = place.queue and r.kind = place.kind and r.priority = place.priority
            order by r.position desc
            limit 2 * place.tasks + 10
        ) last
        cross join lateral (
            select from peers.task t
            where t.id = last.task_id and t.state = 'blocked' and t.created_xid = pg_current_xact_id()
            offset 0
        ) blocked
    ));
    if not exists (select from peers.limit) then
        return;
    end if;
    delete from peers.ready_limited r
    where r.ctid = any (array(
        select last.spot
        from (
            select t.queue, t.kind, l.layout, case when l.fair then 0 else t.priority end as rank,
                   hash_array_extended(l.limit_keys, 0) as key, t.priority, count(*) as tasks
            from peers.task t
            cross join lateral peers._limits_of(t.queue, t.kind, t.args) l
            where t.id = any (_blocked) and t.created_xid = pg_current_xact_id() and l.limit_keys is not null
            group by 1, 2, 3, 4, 5, 6
        ) place
        cross join lateral (
            select r.ctid as spot, r.task_id from peers.ready_limited r
            where r.queue = place.queue and r.kind = place.kind and r.layout = place.layout and r.rank = place.rank
              and r.key = place.key and r.priority = place.priority
            order by r.position desc
            limit 2 * place.tasks + 10
        ) last
        cross join lateral (
            select from peers.task t
            where t.id = last.task_id and t.state = 'blocked' and t.created_xid = pg_current_xact_id()
            offset 0
        ) blocked
    ));
end
$$;

-- Counts the new edges and blocks their children. Where a parent has already failed, applies the edge's policy.
create or replace function peers._block_children(_parents bigint[], _children bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _failed boolean := exists (
        select from peers.task p where p.id = any (_parents) and p.state in ('dead', 'cancelled')
    );
    _held bigint[];
    _counts jsonb;
begin
    if _failed then
        update peers.dependency d set waived = true
        from unnest(_parents, _children) e(parent, child)
        cross join lateral (
            select from peers.task p where p.id = e.parent and p.state in ('dead', 'cancelled') offset 0
        ) failed
        where d.parent_id = e.parent and d.child_id = e.child and d.on_parent_failure = 'run';
    end if;

    select array_agg(h.child), jsonb_object_agg(h.child, h.parents) into _held, _counts
    from (
        select e.child, count(*) as parents
        from unnest(_parents, _children) e(parent, child)
        join peers.dependency d on d.parent_id = e.parent and d.child_id = e.child
        join peers.task p on p.id = e.parent
        where p.state <> 'completed' and not d.waived
        group by e.child
    ) h;
    with waiting as (
        update peers.task t
        set pending_parents = t.pending_parents + (_counts -> t.id::text)::integer, state = 'blocked'
        where t.id = any (_held)
        returning t.id, t.queue
    )
    insert into peers.blocked (task_id, queue)
    select waiting.id, waiting.queue from waiting
    on conflict (task_id) do nothing;
    perform peers._drop_ready_rows(_held);

    if _failed then
        perform peers._cancel_waiting(array(
            select d.child_id
            from unnest(_parents, _children) e(parent, child)
            join peers.dependency d on d.parent_id = e.parent and d.child_id = e.child
            join peers.task p on p.id = e.parent
            where (p.state = 'cancelled' and d.on_parent_failure in ('hold', 'cancel'))
               or (p.state = 'dead' and d.on_parent_failure = 'cancel')
        ));
    end if;
end
$$;
