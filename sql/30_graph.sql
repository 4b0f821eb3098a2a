-- Dependencies. One trigger counts up as edges are inserted, one counts down as parents end; both take whole
-- batches. An edge counts while its parent is neither completed nor the edge spent.

-- Edges and verbs read after locking, in a new statement. Under REPEATABLE READ or SERIALIZABLE that
-- statement would still see the old state, and children would wait for ever.
create or replace function peers._require_read_committed() returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception 'dependencies and verbs need READ COMMITTED, this transaction is %',
            upper(current_setting('transaction_isolation'))
            using errcode = 'PE003',
            hint = 'BEGIN ISOLATION LEVEL READ COMMITTED; a plain INSERT of tasks works under any level.';
    end if;
end
$$;

-- Refuses the edges just inserted if they close a cycle.
--
-- Tasks that this transaction created are seen by nobody else, and no path leads from them back to older
-- tasks unless this transaction makes one. So as long as all of its edges go into its own tasks and from
-- smaller to larger ids, there is nothing to look at. Otherwise the part of the graph that can be reached from
-- the new edges is sorted. Edges into older tasks could close a cycle together with another transaction's:
-- these go one at a time, under a lock taken before anything is read.
create or replace function peers._refuse_cycles(_parents bigint[], _children bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
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
    cross join lateral peers._kahn(e.parents, e.children) k;
    if _cycle is not null then
        raise exception 'dependency cycle: %', array_to_string(_cycle, ' -> ')
            using errcode = 'PE001', hint = 'Remove one of these edges.';
    end if;
end
$$;

-- An edge can hold a task back, or cancel it at once: into an older task only its submitter may add one, or who
-- may cancel it anyway.
create or replace function peers._refuse_strangers(_children bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _foreign bigint;
begin
    if not has_function_privilege(session_user, 'peers.cancel(bigint)', 'execute') then
        select t.id into _foreign from peers.task t
        where t.id = any (_children) and t.submitter <> session_user order by t.id limit 1;
    end if;
    if _foreign is not null then
        raise exception 'task % was submitted by another role: % may not make it wait', _foreign, session_user
            using errcode = 'PE005', hint = 'Its submitter or an operator can add the edge.';
    end if;
end
$$;

-- After an INSERT into peers.dependency: check the edges, then let the children wait.
create or replace function peers.count_parents() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
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
    if exists (select from new_edges e where e.spent or e.added_later or e.created_xid <> pg_current_xact_id()) then
        raise exception 'peers.dependency: spent, added_later and created_xid are kept by the scheduler; leave them out'
            using errcode = 'PE009';
    end if;
    select array_agg(e.parent_id), array_agg(e.child_id) into _parents, _children from new_edges e;

    _older := array(
        select t.id from peers.task t where t.id = any (_children) and t.created_xid <> pg_current_xact_id()
    );
    if _older <> '{}' then
        perform peers._refuse_strangers(_older);
        perform pg_advisory_xact_lock(hashtextextended('peers: edge into an older task', 0));
        update peers.dependency d set added_later = true
        where d.child_id = any (_older) and d.created_xid = pg_current_xact_id() and not d.added_later;
    end if;

    -- nobody else can see this transaction's own tasks: only older ones need a lock
    perform from peers.task t
    where t.id = any (_parents) and t.id <> all (_older) and t.created_xid <> pg_current_xact_id()
    order by t.id for share;
    perform from peers.task t where t.id = any (_older) order by t.id for no key update;

    perform peers._refuse_bad_ends(_parents, _children);
    perform peers._refuse_cycles(_parents, _children);
    perform peers._hold_back(_parents, _children);
    return null;
end
$$;

comment on function peers.count_parents() is
    'Trigger: checks new edges, counts them in pending_parents, and blocks the children.';

create or replace trigger count_parents after insert on peers.dependency
    referencing new table as new_edges
    for each statement execute function peers.count_parents();

create or replace function peers._refuse_bad_ends(_parents bigint[], _children bigint[]) returns void
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
        raise exception 'bad graph: there is no task % to depend on or to wait', _missing
            using errcode = 'PE007',
            hint = 'Insert the tasks before their edges; a pruned task can be depended on no more.';
    end if;
    select t.id, t.state, t.attempt into _started from peers.task t
    where t.id = any (_children) and (t.attempt > 0 or t.state not in ('blocked', 'scheduled', 'ready'))
    order by t.id limit 1;
    if _started.id is not null then
        raise exception 'task % cannot wait for another parent: it is % (attempt %)',
            _started.id, _started.state, _started.attempt
            using errcode = 'PE002',
            hint = 'Add edges before the child starts, best in the transaction that inserts it.';
    end if;
end
$$;

-- Counts the new edges and applies at once what an already failed parent means.
create or replace function peers._hold_back(_parents bigint[], _children bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _doomed bigint[];
begin
    update peers.dependency d set spent = true
    from unnest(_parents, _children) e(parent, child), peers.task p
    where d.parent_id = e.parent and d.child_id = e.child and p.id = e.parent
      and d.on_parent_failure = 'run' and p.state in ('dead', 'cancelled');

    with held as (
        select d.child_id, count(*) as parents
        from unnest(_parents, _children) e(parent, child)
        join peers.dependency d on d.parent_id = e.parent and d.child_id = e.child
        join peers.task p on p.id = e.parent
        where p.state <> 'completed' and not d.spent
        group by d.child_id
    ), waiting as (
        update peers.task t set pending_parents = t.pending_parents + held.parents, state = 'blocked'
        from held
        where t.id = held.child_id
        returning t.id, t.queue
    )
    insert into peers.blocked (task_id, queue)
    select waiting.id, waiting.queue from waiting
    on conflict (task_id) do nothing;

    _doomed := array(
        select d.child_id
        from unnest(_parents, _children) e(parent, child)
        join peers.dependency d on d.parent_id = e.parent and d.child_id = e.child
        join peers.task p on p.id = e.parent
        where (p.state = 'cancelled' and d.on_parent_failure in ('hold', 'cancel'))
           or (p.state = 'dead' and d.on_parent_failure = 'cancel')
    );
    perform peers._cancel_waiting(_doomed);
end
$$;
