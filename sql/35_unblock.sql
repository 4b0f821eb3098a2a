-- What happens to the children when a parent ends.

-- Cancels tasks that are waiting or dead. The trigger below then applies the policies of their children.
create or replace function peers._cancel_waiting(_ids bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
begin
    if _ids = '{}' then
        return;
    end if;
    delete from peers.blocked b where b.task_id = any (_ids);
    delete from peers.dead d where d.task_id = any (_ids);
    update peers.task t set state = 'cancelled', finished_at = peers.now()
    where t.id = any (_ids) and t.state in ('blocked', 'scheduled', 'ready', 'dead');
end
$$;

-- Returns the tasks that change when the given parents end: the children whose pending_parents falls, and (to_cancel)
-- all descendants that are cancelled together with a parent.
create or replace function peers._affected(_completed bigint[], _dead bigint[], _cancelled bigint[])
returns table (id bigint, to_cancel boolean)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
as $$
begin
    return query
    with recursive lost(id) as (
        (
            select d.child_id from peers.dependency d
            where d.parent_id = any (_dead) and d.on_parent_failure = 'cancel' and not d.waived
            union all
            select d.child_id from peers.dependency d
            where d.parent_id = any (_cancelled) and d.on_parent_failure in ('hold', 'cancel') and not d.waived
        )
        union
        select d.child_id from lost join peers.dependency d on d.parent_id = lost.id
        where not d.waived and d.on_parent_failure in ('hold', 'cancel')
    )
    select lost.id, true from lost
    union all
    select d.child_id, false from peers.dependency d where not d.waived and d.parent_id = any (_completed)
    union all
    select d.child_id, false from peers.dependency d
    where d.parent_id = any (_dead || _cancelled || array(select lost.id from lost))
      and d.on_parent_failure = 'run' and not d.waived;
end
$$;

-- Raises 55P03 if sessions that add edges have one of these tasks locked, in a session with a lock_timeout (a peer's).
-- They share such a lock, and lock_timeout bounds only each wait for one of them. A peer could wait for ever for a
-- steady stream of them. A task that no session has locked since its last change (xmax is 0) needs no closer look.
create or replace function peers._refuse_shared_locks(_ids bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _not_exclusive bigint[];
begin
    if current_setting('lock_timeout') = '0'
       or not exists (select from peers.task t where t.id = any (_ids) and t.xmax <> '0') then
        return;
    end if;
    _not_exclusive := array(
        select t.id from peers.task t where t.id = any (_ids) and t.xmax <> '0' for share skip locked
    );
    perform from peers.task t where t.id = any (_not_exclusive) for no key update nowait;
    -- an error gives the locks back: the caller takes them in order
    raise exception 'no task is locked' using errcode = 'PE000';
exception when sqlstate 'PE000' then null;
end
$$;

-- Locks the tasks that change when the given parents end, in the order of ids, and returns those to cancel. The
-- parents are already locked, so that no edge can be added to them. Further down, edges can still be added until the
-- descendants are locked: so it repeats the search until it finds nothing new.
create or replace function peers._lock_affected(_completed bigint[], _dead bigint[], _cancelled bigint[])
returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _to_cancel bigint[];
    _new bigint[];
    _locked bigint[] := '{}';
begin
    loop
        select coalesce(array_agg(distinct t.id) filter (where t.to_cancel), '{}'),
               array(select unnest(array_agg(t.id)) except select unnest(_locked) order by 1)
        into _to_cancel, _new
        from peers._affected(_completed, _dead, _cancelled) t;
        exit when _new = '{}';
        perform peers._refuse_shared_locks(_new);
        perform from peers.task t where t.id = any (_new) order by t.id for no key update;
        exit when _to_cancel = '{}';
        _locked := _locked || _new;
    end loop;
    return _to_cancel;
end
$$;

-- Refuses to count down an edge that was not counted up yet. That happens when the statement that inserts the edge also
-- ends its parent: by a verb that it calls, or by another trigger. `_decrements` maps each child to the number of
-- parents that end.
create or replace function peers._check_counted(_ids bigint[], _decrements jsonb) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _uncounted bigint;
begin
    select t.id into _uncounted from peers.task t
    where t.id = any (_ids)
      and t.pending_parents <> (_decrements -> t.id::text)::integer + (
          select count(*) from peers.dependency d join peers.task p on p.id = d.parent_id
          where d.child_id = t.id and p.state <> 'completed' and not d.waived
      )
    order by t.id limit 1;
    if _uncounted is not null then
        raise exception 'a parent of task % was ended by the statement that adds the edge', _uncounted
            using errcode = 'PE002', hint = 'End the parent in a separate statement.';
    end if;
end
$$;

-- Locks tasks that are about to be cancelled, together with the descendants that are cancelled with them, in the order
-- of ids. Sessions that add edges lock in the same order, and a task can have a larger id than its descendants.
-- Edges that are added in the meantime are found later, by _lock_affected.
--
-- Running tasks come first, as for a peer that completes one of them and then waits for its children (52_complete).
create or replace function peers._lock_with_descendants(_ids bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _waiting bigint[];
begin
    perform peers._require_read_committed();
    perform from peers.task t where t.id = any (_ids) and t.state = 'running' order by t.id for no key update;
    _waiting := array(select t.id from peers.task t where t.id = any (_ids) and t.state <> 'running');
    perform from peers.task t
    where t.id = any (_ids || array(select f.id from peers._affected('{}', '{}', _waiting) f))
    order by t.id for no key update;
end
$$;

-- Subtracts the ended parents from their children's pending_parents, and unblocks the children that reach 0.
--
-- The UPDATE reads the primary key in ascending order, so it locks the children in the order of their ids, and after a
-- wait for another session it counts from that session's number. The caller needs no locks of its own.
create or replace function peers._count_down(_completed bigint[], _failed bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
    _children bigint[];
    _counts bigint[];  -- how many parents of each child have ended
    _own bigint[];  -- the children of edges that this transaction has inserted
    _each integer;  -- the number for all children; null: it is not the same for all
    _decrements jsonb;  -- the number for each child
begin
    if _failed = '{}' then
        select array_agg(f.child_id), array_agg(f.parents), array_agg(f.child_id) filter (where f.own),
               case when min(f.parents) = max(f.parents) then min(f.parents) end
        into _children, _counts, _own, _each
        from (
            select d.child_id, count(*) as parents, bool_or(d.created_xid = pg_current_xact_id()) as own
            from peers.dependency d where d.parent_id = any (_completed) and not d.waived
            group by d.child_id
        ) f;
    else
        with waived as (
            update peers.dependency d set waived = true
            where d.parent_id = any (_failed) and d.on_parent_failure = 'run' and not d.waived
            returning d.child_id, d.created_xid
        )
        select array_agg(f.child_id), array_agg(f.parents), array_agg(f.child_id) filter (where f.own)
        into _children, _counts, _own
        from (
            select e.child_id, count(*) as parents, bool_or(e.created_xid = pg_current_xact_id()) as own
            from (select s.child_id, s.created_xid from waived s
                  union all
                  select d.child_id, d.created_xid
                  from peers.dependency d where d.parent_id = any (_completed) and not d.waived) e
            group by e.child_id
        ) f;
    end if;
    if _children is null then
        return;
    end if;
    if _each is null or _own is not null then
        -- a map instead of a join, so that the planner has only one choice, for two children as for ten thousand
        _decrements := (select jsonb_object_agg(c.id, c.parents) from unnest(_children, _counts) c(id, parents));
    end if;
    if _own is not null then
        perform peers._check_counted(_own, _decrements);
    end if;

    perform peers._refuse_shared_locks(_children);
    if cardinality(_children) > 1000 then
        -- one of them may be locked for long: then a lock pass has done less work in vain than the UPDATE
        perform from peers.task t where t.id = any (_children) order by t.id for no key update;
    end if;

    with counted as (
        update peers.task t
        set pending_parents = t.pending_parents - coalesce(_each, (_decrements -> t.id::text)::integer),
            state = case
                        when t.state <> 'blocked'
                             or t.pending_parents > coalesce(_each, (_decrements -> t.id::text)::integer)
                            then t.state
                        when t.scheduled_at > greatest(_now, t.created_at) then 'scheduled'
                        else 'ready'
                    end
        where t.id = any (_children)
        returning t.id, t.state, t.queue, t.kind, t.priority, t.scheduled_at
    ), unblocked as (
        delete from peers.blocked b
        where b.task_id = any (array(select c.id from counted c where c.state in ('ready', 'scheduled')))
    ), later as (
        insert into peers.scheduled (due_at, task_id)
        select c.scheduled_at, c.id from counted c where c.state = 'scheduled'
    )
    insert into peers.ready (queue, kind, priority, task_id)
    select c.queue, c.kind, c.priority, c.id from counted c where c.state = 'ready' order by c.id;
    if found then
        perform peers._notify();
    end if;
end
$$;

-- Unblocks, holds or cancels the children of parents that have just ended.
create or replace function peers._update_children(_completed bigint[], _dead bigint[], _cancelled bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
as $$
begin
    if _dead || _cancelled <> '{}' then
        perform peers._cancel_waiting(peers._lock_affected(_completed, _dead, _cancelled));
    end if;
    perform peers._count_down(_completed, _dead || _cancelled);
end
$$;

-- After an UPDATE of peers.task: unblocks, holds or cancels the children of the tasks that have just ended, and
-- notifies the programs that wait for these tasks. An UPDATE that ends no task costs one query. One that ends tasks
-- without children costs two.
create or replace function peers.tasks_ended() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
declare
    _ended constant bigint[] := array(
        select a.id from after_rows a where a.state in ('completed', 'dead', 'cancelled')
    );
    _any_awaited boolean;
    _any_child boolean;
begin
    if _ended = '{}' then
        return null;
    end if;
    select exists (select from peers.awaited_result),
           exists (select from peers.dependency d where d.parent_id = any (_ended))
    into _any_awaited, _any_child;
    if _any_awaited then
        perform peers._notify_results(_ended);
    end if;
    if _any_child then
        -- a task that had ended before does not end again
        perform peers._update_children(
            array(select a.id from after_rows a where a.state = 'completed'
                  except select b.id from before_rows b where b.state = 'completed'),
            array(select a.id from after_rows a where a.state = 'dead'
                  except select b.id from before_rows b where b.state = 'dead'),
            array(select a.id from after_rows a where a.state = 'cancelled'
                  except select b.id from before_rows b where b.state = 'cancelled'));
    end if;
    return null;
end
$$;

comment on function peers.tasks_ended() is
    'Trigger: when tasks end, unblocks, holds or cancels their children, and notifies the programs that wait for them.';

create or replace trigger tasks_ended after update on peers.task
    referencing old table as before_rows new table as after_rows
    for each statement execute function peers.tasks_ended();

create or replace function peers.parent_results(child_id bigint)
returns table (parent_id bigint, kind text, state peers.task_state, result jsonb)
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _too_large bigint;
begin
    -- to return null in its place would look like the parent's result
    select p.id into _too_large
    from peers.dependency d join peers.task p on p.id = d.parent_id
    where d.child_id = parent_results.child_id
      and (pg_column_size(p.result) > 1000 or pg_column_compression(p.result) is not null)
      and peers._text_size(p.result) > 1048576
    order by p.id limit 1;
    if _too_large is not null then
        raise exception 'the result of parent % exceeds 1 MiB (1048576 bytes) of text', _too_large
            using errcode = 'PE009', hint = 'Store large data elsewhere and return a reference to it.';
    end if;
    return query
    select p.id, p.kind, p.state, p.result
    from peers.dependency d join peers.task p on p.id = d.parent_id
    where d.child_id = parent_results.child_id
    order by p.id;
end
$$;

comment on function peers.parent_results is
    'Returns the parents of a task with their states and results. The result of a parent that is not completed is '
    'null. A result that is too large to be sent, because it was not written by a verb, is refused (PE009).';
