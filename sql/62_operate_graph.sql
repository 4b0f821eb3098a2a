-- What operators do with graphs: pause, resume, retry, cancel.
--
-- Pausing changes one row, the graph's. A claim treats the rows that a paused graph's tasks have in ready as stale and
-- drops them; the tasks stay ready. So no other verb needs to know of paused graphs: a task that is retried,
-- promoted, unblocked, released or submitted while its graph is paused becomes ready and is not claimed.

-- Raises PE011 if there is no such graph.
create or replace function peers._require_graph(_id bigint) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform peers._require_read_committed();
    if not exists (select from peers.graph g where g.id = _id) then
        raise exception 'there is no graph %', _id
            using errcode = 'PE011', hint = 'It never existed, or its tasks ended and it was pruned.';
    end if;
end
$$;

-- Deletes the rows that ready and ready_limited have for a graph's tasks, so that claims need not drop them one by one.
-- The hash join reads each table once; a nested loop would compare each row with each task.
create or replace function peers._empty_ready(_graph_id bigint) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_nestloop = off
    set enable_mergejoin = off
as $$
begin
    delete from peers.ready r where r.ctid = any (array(
        select r.ctid
        from peers.ready r join peers.task t on t.id = r.task_id
        where t.graph_id = _graph_id
        for update of r skip locked
    ));
    delete from peers.ready_limited r where r.ctid = any (array(
        select r.ctid
        from peers.ready_limited r join peers.task t on t.id = r.task_id
        where t.graph_id = _graph_id
        for update of r skip locked
    ));
end
$$;

create or replace function peers.pause_graph(id bigint, reason text default null) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _ready bigint;
begin
    perform peers._require_graph(pause_graph.id);
    update peers.graph g set paused_at = peers.now() where g.id = pause_graph.id and g.paused_at is null;
    if not found then
        return 0;
    end if;
    perform peers._empty_ready(pause_graph.id);
    select count(*) into _ready from peers.task t where t.graph_id = pause_graph.id and t.state = 'ready';
    perform peers._record_action(
        'pause_graph', jsonb_build_object('graph', pause_graph.id), pause_graph.reason, _ready);
    return _ready;
end
$$;

comment on function peers.pause_graph is
    'Stops claims of a graph''s tasks, including those that become ready or are submitted later. Tasks that are '
    'running continue. Returns how many of its tasks are ready now, which does not count blocked and scheduled ones; '
    '0 if it was paused already. It writes peers.action, with the reason.';

create or replace function peers.resume_graph(id bigint, reason text default null) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _resumed bigint;
begin
    perform peers._require_graph(resume_graph.id);
    -- waits for the claims that are dropping rows of this graph's tasks
    update peers.graph g set paused_at = null where g.id = resume_graph.id and g.paused_at is not null;
    if not found then
        return 0;
    end if;
    -- in a new statement, which sees every task whose row a claim has dropped
    insert into peers.ready (queue, kind, priority, task_id)
    select t.queue, t.kind, t.priority, t.id
    from peers.task t where t.graph_id = resume_graph.id and t.state = 'ready'
    order by t.id;
    get diagnostics _resumed = row_count;
    perform peers._record_action(
        'resume_graph', jsonb_build_object('graph', resume_graph.id), resume_graph.reason, _resumed);
    perform peers._notify();
    return _resumed;
end
$$;

comment on function peers.resume_graph is
    'Allows claims of a paused graph''s tasks again. Returns how many of its tasks are ready now, which does not '
    'count blocked and scheduled ones; 0 if it was not paused. It writes peers.action, with the reason.';

create or replace function peers.retry_graph(id bigint, dry_run boolean default false, reason text default null)
    returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _ids bigint[];
begin
    perform peers._require_graph(retry_graph.id);
    if retry_graph.dry_run then
        return (select count(*) from peers.task t where t.graph_id = retry_graph.id and t.state = 'dead');
    end if;
    _ids := array(
        select t.id from peers.task t
        where t.graph_id = retry_graph.id and t.state = 'dead'
        order by t.id for no key update
    );
    if _ids <> '{}' then
        perform peers._record_action(
            'retry_graph', jsonb_build_object('graph', retry_graph.id), retry_graph.reason, cardinality(_ids),
            cardinality(peers._held_children(_ids)), _ids);
        perform peers._retry(_ids);
    end if;
    return cardinality(_ids);
end
$$;

comment on function peers.retry_graph is
    'Runs all dead letters of a graph again with new attempts. Returns how many; dry_run only counts them. It writes '
    'peers.action, with the reason.';

create or replace function peers.cancel_graph(id bigint, dry_run boolean default false, reason text default null)
    returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _ids bigint[];
    _children bigint;
    _cancelled bigint;
begin
    perform peers._require_graph(cancel_graph.id);
    _ids := array(
        select t.id from peers.task t
        where t.graph_id = cancel_graph.id and t.state not in ('completed', 'cancelled')
    );
    if cancel_graph.dry_run then
        return (
            select count(*) from peers.task t
            where t.id = any (_ids) and (t.state <> 'running' or not exists (
                select from peers.cancel_request r where r.token = t.token and r.task_id = t.id))
        );
    end if;
    perform peers._lock_with_descendants(_ids);
    _children := peers._count_cancelled_children(_ids);
    _cancelled := peers._cancel(_ids);
    if _cancelled > 0 then
        perform peers._record_action(
            'cancel_graph', jsonb_build_object('graph', cancel_graph.id), cancel_graph.reason, _cancelled, _children,
            _ids);
    end if;
    return _cancelled;
end
$$;

comment on function peers.cancel_graph is
    'Cancels all tasks of a graph that have not ended, dead letters included, and with them the descendants that wait '
    'for them. The peers of running tasks are asked to stop them. Returns how many of its tasks it cancelled or asked '
    'to stop; dry_run only counts them. Tasks that are submitted to the graph later run. It writes peers.action, with '
    'the reason.';
