-- How a parent's end reaches its children.

-- Ends waiting or dead tasks in cancelled. The trigger below then does the same to what hangs on them.
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

-- What the end of the given parents changes below them: the children whose counter falls, and the doomed, all
-- that ends cancelled with a parent, down to the last descendant.
create or replace function peers._affected(_completed bigint[], _dead bigint[], _cancelled bigint[])
returns table (id bigint, doomed boolean)
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
    with recursive doom(id) as (
        (
            select d.child_id from peers.dependency d
            where d.parent_id = any (_dead) and d.on_parent_failure = 'cancel' and not d.waived
            union all
            select d.child_id from peers.dependency d
            where d.parent_id = any (_cancelled) and d.on_parent_failure in ('hold', 'cancel') and not d.waived
        )
        union
        select d.child_id from doom join peers.dependency d on d.parent_id = doom.id
        where not d.waived and d.on_parent_failure in ('hold', 'cancel')
    )
    select doom.id, true from doom
    union all
    select d.child_id, false from peers.dependency d where not d.waived and d.parent_id = any (_completed)
    union all
    select d.child_id, false from peers.dependency d
    where d.parent_id = any (_dead || _cancelled || array(select doom.id from doom))
      and d.on_parent_failure = 'run' and not d.waived;
end
$$;

-- Locks what the end of the given parents touches, in the order of ids, and answers the doomed. The parents
-- are locked already, so that no edge can be added to them; but what is doomed further down may still grow
-- until it is locked: look again until nothing new turns up.
create or replace function peers._lock_affected(_completed bigint[], _dead bigint[], _cancelled bigint[])
returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _doomed bigint[];
    _new bigint[];
    _locked bigint[] := '{}';
begin
    loop
        select coalesce(array_agg(distinct t.id) filter (where t.doomed), '{}'),
               array(select unnest(array_agg(t.id)) except select unnest(_locked) order by 1)
        into _doomed, _new
        from peers._affected(_completed, _dead, _cancelled) t;
        exit when _new = '{}';
        perform from peers.task t where t.id = any (_new) order by t.id for no key update;
        exit when _doomed = '{}';
        _locked := _locked || _new;
    end loop;
    return _doomed;
end
$$;

-- An edge that was inserted by a statement which is not over may not have been counted up yet: a verb that this
-- statement calls, or another trigger of it, must not count it down. `_fallen` says by how much each falls.
create or replace function peers._refuse_uncounted(_ids bigint[], _fallen jsonb) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _uncounted bigint;
begin
    select t.id into _uncounted from peers.task t
    where t.id = any (_ids)
      and t.pending_parents <> (_fallen -> t.id::text)::integer + (
          select count(*) from peers.dependency d join peers.task p on p.id = d.parent_id
          where d.child_id = t.id and p.state <> 'completed' and not d.waived
      )
    order by t.id limit 1;
    if _uncounted is not null then
        raise exception 'a parent of task % was ended by the statement that adds the edge', _uncounted
            using errcode = 'PE002', hint = 'End it in a statement of its own, before or after.';
    end if;
end
$$;

-- Locks a task that is about to be cancelled together with what is cancelled with it, in the order of ids: who adds
-- edges locks in this order too, and a task can have a larger id than those below it. What is hung below
-- meanwhile is locked later, by _lock_affected.
create or replace function peers._lock_family(_id bigint) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
as $$
begin
    perform peers._require_read_committed();
    if exists (select from peers.task t where t.id = _id and t.state <> 'running') then
        perform from peers.task t
        where t.id = any (_id || array(select f.id from peers._affected('{}', '{}', array[_id]) f))
        order by t.id for no key update;
    end if;
end
$$;

-- Counts the children of the given parents down and releases those that reach 0. The counts come from a map,
-- not from a join, which leaves the planner one way only, for two children as for ten thousand.
create or replace function peers._count_down(_completed bigint[], _failed bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
    _children bigint[];
    _own bigint[];  -- of edges that this transaction has inserted
    _fallen jsonb;
begin
    with waived as (
        update peers.dependency d set waived = true
        where d.parent_id = any (_failed) and d.on_parent_failure = 'run' and not d.waived
        returning d.child_id, d.created_xid
    )
    select array_agg(f.child_id), array_agg(f.child_id) filter (where f.own), jsonb_object_agg(f.child_id, f.parents)
    into _children, _own, _fallen
    from (
        select e.child_id, count(*) as parents, bool_or(e.created_xid = pg_current_xact_id()) as own
        from (select s.child_id, s.created_xid from waived s
              union all
              select d.child_id, d.created_xid
              from peers.dependency d where d.parent_id = any (_completed) and not d.waived) e
        group by e.child_id
    ) f;
    if _children is null then
        return;
    end if;
    if _own is not null then
        perform peers._refuse_uncounted(_own, _fallen);
    end if;

    with counted as (
        update peers.task t
        set pending_parents = t.pending_parents - (_fallen -> t.id::text)::integer,
            state = case
                        when t.state <> 'blocked' or t.pending_parents > (_fallen -> t.id::text)::integer then t.state
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

-- Releases, holds or cancels the children of parents that have just ended.
create or replace function peers._end_parents(_completed bigint[], _dead bigint[], _cancelled bigint[]) returns void
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
    if exists (select from peers.dependency d where d.parent_id = any (_completed || _dead || _cancelled)) then
        perform peers._cancel_waiting(peers._lock_affected(_completed, _dead, _cancelled));
        perform peers._count_down(_completed, _dead || _cancelled);
    end if;
end
$$;

-- After an UPDATE of peers.task: whatever has just ended releases, holds or cancels its children.
create or replace function peers.release_children() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _completed bigint[];
    _dead bigint[];
    _cancelled bigint[];
begin
    if not exists (select from after_rows a where a.state in ('completed', 'dead', 'cancelled')) then
        return null;
    end if;
    _completed := array(select a.id from after_rows a where a.state = 'completed'
                        except select b.id from before_rows b where b.state = 'completed');
    _dead := array(select a.id from after_rows a where a.state = 'dead'
                   except select b.id from before_rows b where b.state = 'dead');
    _cancelled := array(select a.id from after_rows a where a.state = 'cancelled'
                        except select b.id from before_rows b where b.state = 'cancelled');
    if _completed || _dead || _cancelled <> '{}' then
        perform peers._end_parents(_completed, _dead, _cancelled);
    end if;
    return null;
end
$$;

comment on function peers.release_children() is
    'Trigger: when tasks end, counts their children down and releases, holds or cancels them.';

create or replace trigger release_children after update on peers.task
    referencing old table as before_rows new table as after_rows
    for each statement execute function peers.release_children();

create or replace function peers.parent_results(child_id bigint)
returns table (parent_id bigint, kind text, state peers.task_state, result jsonb)
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _too_large bigint;
begin
    -- null would be taken for what it returned
    select p.id into _too_large
    from peers.dependency d join peers.task p on p.id = d.parent_id
    where d.child_id = parent_results.child_id
      and (pg_column_size(p.result) > 1000 or pg_column_compression(p.result) is not null)
      and peers._written_size(p.result) > 1048576
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
    'The parents of a task with their states and results; the result of one that is not completed is null. '
    'Refuses (PE009) a result that was put there past the verbs and is too large to be sent.';
