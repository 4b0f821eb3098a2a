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

-- Kahn's algorithm over edges from _parents[i] to _children[i]. Answers the nodes that have an edge, parents
-- before children; or else, by a walk in depth from what could not be ranked, one cycle [a, b, c, a].
-- The work is linear in the number of edges; arrays, because each step needs the one before it.
create or replace function peers._kahn(
    _parents bigint[], _children bigint[], out ranked bigint[], out cycle bigint[]
)
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _nodes bigint[];
    _sources integer[];   -- the edges between places in _nodes, in the order of their parents
    _targets integer[];
    _first integer[];     -- where a node's edges begin; one element more, so that they end where the next begin
    _waiting integer[];   -- how many parents of a node are not ranked yet
    _queue integer[];
    _head integer := 1;
begin
    _nodes := array(select n from unnest(_parents) n union select n from unnest(_children) n order by n);
    if _nodes = '{}' then
        ranked := '{}';
        return;
    end if;

    with node as materialized (select n.id, n.place::integer from unnest(_nodes) with ordinality n(id, place))
    select array_agg(p.place order by p.place, c.place), array_agg(c.place order by p.place, c.place)
    into _sources, _targets
    from unnest(_parents, _children) e(parent, child)
    join node p on p.id = e.parent
    join node c on c.id = e.child;

    _first := array(
        select 1 + coalesce(sum(count(s)) over (order by g.place rows between unbounded preceding and 1 preceding), 0)
        from generate_series(1, cardinality(_nodes) + 1) g(place)
        left join unnest(_sources) s on s = g.place
        group by g.place order by g.place
    );
    _waiting := array(
        select count(t) from generate_series(1, cardinality(_nodes)) g(place)
        left join unnest(_targets) t on t = g.place
        group by g.place order by g.place
    );
    _queue := array(select g.place from generate_series(1, cardinality(_nodes)) g(place) where _waiting[g.place] = 0);

    while _head <= cardinality(_queue) loop
        for _edge in _first[_queue[_head]] .. _first[_queue[_head] + 1] - 1 loop
            _waiting[_targets[_edge]] := _waiting[_targets[_edge]] - 1;
            if _waiting[_targets[_edge]] = 0 then
                _queue[cardinality(_queue) + 1] := _targets[_edge];
            end if;
        end loop;
        _head := _head + 1;
    end loop;

    if cardinality(_queue) = cardinality(_nodes) then
        ranked := array(select _nodes[q.place] from unnest(_queue) with ordinality q(place, rank) order by q.rank);
    else
        cycle := array(
            select _nodes[c.place]
            from unnest(peers._walk_back(_sources, _targets, _waiting)) with ordinality c(place, step) order by c.step
        );
    end if;
end
$$;

-- Every node that Kahn's algorithm could not rank has a parent of the same sort: going from parent to parent
-- must come back to a node that was passed already.
create or replace function peers._walk_back(_sources integer[], _targets integer[], _waiting integer[])
returns integer[]
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _parent integer[];
    _step integer[] := array_fill(null::integer, array[cardinality(_waiting)]);
    _path integer[] := '{}';
    _node integer;
begin
    _parent := array(
        select max(s.node) filter (where _waiting[s.node] > 0)
        from generate_series(1, cardinality(_waiting)) g(place)
        left join unnest(_sources, _targets) s(node, target) on s.target = g.place
        group by g.place order by g.place
    );
    select min(g.place) into _node from generate_series(1, cardinality(_waiting)) g(place) where _waiting[g.place] > 0;
    while _step[_node] is null loop
        _path[cardinality(_path) + 1] := _node;
        _step[_node] := cardinality(_path);
        _node := _parent[_node];
    end loop;
    return array(
        select p.node from unnest(_path[_step[_node]:] || _node) with ordinality p(node, step) order by p.step desc
    );
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
