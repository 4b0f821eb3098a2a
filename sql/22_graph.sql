-- An INSERT into peers.graph creates a graph, and tasks with its id belong to it.

-- After an INSERT into peers.graph: refuses malformed or forged rows.
create or replace function peers.check_graphs() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _problem text;
begin
    select p.problem into _problem
    from new_graphs g
    cross join lateral (
        select case
            when g.submitter <> session_user or g.created_at <> pg_catalog.now() or g.paused_at is not null
                 or g.nodes is not null
                then 'submitter, created_at, paused_at and nodes are kept by the scheduler; leave them '
                     'out of the INSERT'
            when length(g.name) not between 1 and 200 or g.name ~ '[[:cntrl:]]'
                then 'name must have 1 to 200 characters and no control characters'
            else peers._validate_task('graph', '{}', 'default', null, null, g.idempotency_key, g.metadata)
        end
    ) p(problem)
    where p.problem is not null
    limit 1;
    if _problem is not null then
        raise exception 'peers.graph: %', _problem using errcode = 'PE009';
    end if;
    return null;
end
$$;

comment on function peers.check_graphs() is 'Trigger: checks new graphs.';

create or replace trigger check_graphs after insert on peers.graph
    referencing new table as new_graphs
    for each statement execute function peers.check_graphs();

-- Locks the graphs of new tasks, so that prune cannot delete them, and refuses graphs that do not exist or belong to
-- another role. Roles that may act on every task, and members of the owner's role, may add tasks to a graph.
create or replace function peers._lock_graphs(_ids bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _missing bigint;
    _foreign record;
begin
    perform from peers.graph g where g.id = any (_ids) order by g.id for key share;
    -- in a new statement: prune may have deleted one while this transaction waited for its lock
    select i.id into _missing from unnest(_ids) i(id)
    where not exists (select from peers.graph g where g.id = i.id)
    order by i.id limit 1;
    if _missing is not null then
        raise exception 'there is no graph %', _missing
            using errcode = 'PE011',
            hint = 'INSERT INTO peers.graph (name) VALUES (...) RETURNING id creates one. peers.prune deletes old '
                   'graphs without tasks.';
    end if;
    for _foreign in
        select min(g.id) as id, g.submitter from peers.graph g
        where g.id = any (_ids) and g.submitter <> session_user
        group by g.submitter
    loop
        exit when peers._is_trusted(session_user);
        if not exists (select from pg_roles r
                       where r.rolname = _foreign.submitter and pg_has_role(session_user, r.oid, 'member')) then
            raise exception 'graph % belongs to another role: % may not add tasks to it', _foreign.id, session_user
                using errcode = 'PE005',
                hint = format('GRANT %I TO %I lets this role do so.', _foreign.submitter, session_user);
        end if;
    end loop;
end
$$;

-- Creates the graph of a call of submit_graph. If the caller has a graph under this key, returns that graph with the
-- ids of its nodes instead.
create or replace function peers._create_graph(
    _name text, _idempotency_key text, _metadata jsonb, out id bigint, out known boolean, out nodes jsonb
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _submitter name;
begin
    known := false;
    loop
        insert into peers.graph as g (name, idempotency_key, metadata)
        values (coalesce(_name, 'graph'), _idempotency_key, _metadata)
        on conflict (idempotency_key) do nothing
        returning g.id into _create_graph.id;
        exit when found;
        select g.id, g.nodes, g.submitter into _create_graph.id, _create_graph.nodes, _submitter
        from peers.graph g where g.idempotency_key = _idempotency_key for key share;
        known := found;
        exit when known;
        -- prune deleted that graph in the meantime: the key is free
    end loop;
    if _submitter <> session_user and not peers._is_trusted(session_user) and not peers._is_trusted(_submitter) then
        raise exception 'the idempotency_key of graph % belongs to another role: % cannot submit under it',
            _create_graph.id, session_user
            using errcode = 'PE009',
            hint = 'Begin your keys with a name of your own, such as "billing:2026-11".';
    end if;
end
$$;
