-- Retention: deletes what ended long ago. A peer calls peers.apply_retention, an operator peers.prune and prune_dead.
--
-- The steps are small, wait for no task row, and find their tasks without reading those that are too young: a row is
-- inserted in the order of its id, and no task ends before it is submitted. So where a whole step was submitted too
-- late, all that follows was.

-- Deletes the rows that nothing needs any more: rows whose task or lease is gone, old graphs without tasks, peers that
-- were lost a day ago, cooldowns that ended a day ago, unique keys that no task holds, and actions of 400 days ago.
-- Graphs are locked first and checked in a new statement, because a task may have been submitted to one in the
-- meantime; an INSERT of a task holds a lock on its graph.
--
-- Claims and promotions also drop rows whose task is gone. This deletes the ones that no peer reads. It examines only
-- the first rows of each table, where they are: reading a million rows took seconds.
create or replace function peers._prune_leftovers(_now timestamptz, _graphs_before timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _most constant integer := 10000;
    _graphs bigint[];
begin
    delete from peers.ready r where r.ctid = any (array(
        select r.ctid from peers.ready r
        where r.ctid = any (array(select f.ctid from peers.ready f limit _most))
          and not exists (select from peers.task t where t.id = r.task_id offset 0) for update skip locked
    ));
    delete from peers.ready_limited r where r.ctid = any (array(
        select r.ctid from peers.ready_limited r
        where r.ctid = any (array(select f.ctid from peers.ready_limited f limit _most))
          and not exists (select from peers.task t where t.id = r.task_id offset 0) for update skip locked
    ));
    delete from peers.scheduled s where s.ctid = any (array(
        select s.ctid from peers.scheduled s
        where s.ctid = any (array(select f.ctid from peers.scheduled f limit _most))
          and not exists (select from peers.task t where t.id = s.task_id offset 0) for update skip locked
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
    delete from peers.action a where a.id = any (array(
        select a.id from peers.action a where a.at < _now - interval '400 days' order by a.at limit _most
    ));
    perform peers._delete_free_keys(_now);
    _graphs := array(
        select g.id from peers.graph g
        where g.created_at < _graphs_before
          and not exists (select from peers.task t where t.graph_id = g.id offset 0)
        order by g.id limit _most for update skip locked
    );
    delete from peers.graph g
    where g.id = any (_graphs) and not exists (select from peers.task t where t.graph_id = g.id);
end
$$;

-- Deletes tasks that the caller has locked, with their edges, failures and logs, unless an unfinished or dead child
-- needs them. Returns how many.
create or replace function peers._delete_tasks(_ids bigint[]) returns bigint
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    -- in a new statement, now that no session can add an edge: one may have been committed before they were locked
    _free constant bigint[] := array(
        select i.id from unnest(_ids) i(id)
        where not exists (
            select from peers.dependency d join peers.task c on c.id = d.child_id
            where d.parent_id = i.id and c.state not in ('completed', 'cancelled')
        )
    );
begin
    delete from peers.dependency d where d.parent_id = any (_free);
    delete from peers.dependency d where d.child_id = any (_free);
    delete from peers.failure f where f.task_id = any (_free);
    delete from peers.task_log l where l.task_id = any (_free);
    delete from peers.task t where t.id = any (_free);
    return cardinality(_free);
end
$$;

-- Walks the primary key from where the last step stopped. It skips locked tasks, and keeps every task that an
-- unfinished or dead child still needs. Only one session prunes at a time. A second one does nothing, so that its
-- maintenance does not wait for a transaction that stays open.
--
-- A round begins at the first task that the last one kept. Before it are the dead index entries of what was deleted
-- since the last vacuum, and to pass a million of them takes a second. A task before it, whose transaction committed
-- late, is found once a day, when a round begins at the first of all tasks.
create or replace function peers._prune_step(
    _ended_before timestamptz, _most integer, out looked_at bigint, out deleted bigint, out finished boolean
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set enable_seqscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
as $$
declare
    _after bigint;
    _last bigint;
    _first_submitted timestamptz;
    _first_kept bigint;
    _now constant timestamptz := peers.now();
begin
    select p.after_id, p.first_kept into _after, _first_kept from peers.prune_cursor p for no key update skip locked;
    if not found then
        looked_at := 0;
        deleted := 0;
        finished := true;
        return;
    end if;
    select max(t.id), count(*), min(t.created_at) into _last, looked_at, _first_submitted
    from (select t.id, t.created_at from peers.task t where t.id > _after order by t.id limit _most) t;
    deleted := peers._delete_tasks(array(
        select t.id from peers.task t
        where t.id > _after and t.id <= _last and _first_submitted < _ended_before
          and t.state in ('completed', 'cancelled')
          and t.finished_at < _ended_before
          and not exists (
              select from peers.dependency d join peers.task c on c.id = d.child_id
              where d.parent_id = t.id and c.state not in ('completed', 'cancelled')
          )
        order by t.id for update skip locked
    ));
    finished := looked_at < _most or _first_submitted >= _ended_before;
    if _first_kept is null then
        select min(t.id) into _first_kept from peers.task t where t.id > _after and t.id <= _last;
    end if;
    if not finished then
        update peers.prune_cursor p set after_id = _last, first_kept = _first_kept;
    elsif (select p.whole_at < _now - interval '1 day' or p.whole_at > _now from peers.prune_cursor p) then
        update peers.prune_cursor p set after_id = 0, first_kept = null, whole_at = _now;
    else
        update peers.prune_cursor p
        set after_id = coalesce(_first_kept - 1, _last, p.after_id), first_kept = null;
    end if;
end
$$;

-- Returns the dead letters that died so long ago, except those with an unfinished child: that child ran although its
-- parent had died, and may still ask for the parent's result.
create or replace function peers._match_long_dead(_died_before timestamptz) returns bigint[]
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
begin
    return array(
        select d.task_id from peers.dead d
        where d.died_at < _died_before
          and not exists (
              select from peers.dependency e join peers.task c on c.id = e.child_id
              where e.parent_id = d.task_id and e.waived and c.state not in ('completed', 'cancelled') offset 0
          )
        order by d.task_id
    );
end
$$;

-- Discards dead letters of long ago, and deletes them. The descendants that they hold can never run: they are cancelled
-- now, and deleted like all cancelled tasks.
create or replace function peers._prune_dead_step(
    _died_before timestamptz, _most integer, out deleted bigint, out children bigint, out finished boolean
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _ids constant bigint[] := peers._skip_locked(peers._match_long_dead(_died_before), _most);
    _discarded bigint[];
begin
    select d.tasks, d.children into _discarded, children from peers._discard(_ids) d;
    deleted := peers._delete_tasks(_discarded);
    finished := cardinality(_ids) < _most;
end
$$;

-- Returns the time before which a task must have ended; null for a null age. Raises PE009.
create or replace function peers._ended_before(_name text, _age interval, _max_tasks integer) returns timestamptz
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform peers._require_read_committed();
    if _age < interval '0' then
        raise exception '% must be an interval of 0 or more, not %', _name, _age
            using errcode = 'PE009', hint = 'For example: ''30 days''.';
    elsif _max_tasks is null or _max_tasks < 1 then
        raise exception 'max_tasks must be 1 or more, not %', coalesce(_max_tasks::text, 'null')
            using errcode = 'PE009';
    end if;
    return case when _age is not null then peers.now() - least(_age, interval '1000 years') end;
end
$$;

create or replace function peers.apply_retention(
    keep_completed interval, keep_dead interval, max_tasks integer default 10000
) returns table (looked_at bigint, deleted bigint, finished boolean)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set lock_timeout = '1s'
as $$
declare
    _completed_before constant timestamptz := peers._ended_before('keep_completed', keep_completed, max_tasks);
    _died_before constant timestamptz := peers._ended_before('keep_dead', keep_dead, max_tasks);
begin
    looked_at := 0;
    deleted := 0;
    finished := true;
    if _died_before is not null then
        select d.deleted, d.deleted, d.finished into looked_at, deleted, finished
        from peers._prune_dead_step(_died_before, max_tasks) d;
    end if;
    if finished and _completed_before is not null then
        select apply_retention.looked_at + s.looked_at, apply_retention.deleted + s.deleted, s.finished
        into looked_at, deleted, finished
        from peers._prune_step(_completed_before, max_tasks) s;
    end if;
    if finished then
        perform peers._prune_leftovers(peers.now(), coalesce(_completed_before, '-infinity'));
    end if;
    return next;
end
$$;

comment on function peers.apply_retention is
    'What a peer calls in its maintenance: one step of peers.prune with the age keep_completed and of peers.prune_dead '
    'with the age keep_dead; null: never. It writes no peers.action. Call again until finished. While another session '
    'prunes, it leaves completed tasks alone.';
