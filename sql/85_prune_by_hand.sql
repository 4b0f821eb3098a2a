-- Prune by hand: what an operator calls. Each writes peers.action.

-- Returns the id of a task that was submitted after this time, as small as a binary search can find one; null: there is
-- none. No task from that one on ended before this time (see the head of 85_prune).
create or replace function peers._first_submitted_after(_time timestamptz) returns bigint
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set enable_seqscan = off
    set jit = off
as $$
declare
    _low bigint := 0;
    _high bigint := (select max(t.id) from peers.task t);
    _middle bigint;
    _found record;
    _first bigint;
begin
    while _low < _high loop
        _middle := _low + (_high - _low) / 2;
        select t.id, t.created_at into _found from peers.task t where t.id > _middle order by t.id limit 1;
        if _found.created_at >= _time then
            _first := _found.id;
            _high := _middle;
        else
            _low := _middle + 1;
        end if;
    end loop;
    return _first;
end
$$;

-- Waits for another session that prunes. A peer's step takes 50 ms; without the wait, a call that meets one would
-- return that all is done, and an operator's loop would end in the middle.
create or replace function peers._await_other_prune() returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform from peers.prune_cursor p for no key update;
exception when lock_not_available then
    raise exception 'another session has been pruning for more than a second; this call has deleted nothing'
        using errcode = 'lock_not_available', hint = 'Call it again when the other one has ended.';
end
$$;

create or replace function peers.prune(
    older_than interval, max_tasks integer default 10000, dry_run boolean default false, reason text default null
) returns table (looked_at bigint, deleted bigint, finished boolean)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set lock_timeout = '1s'
as $$
declare
    _before constant timestamptz := peers._ended_before('older_than', prune.older_than, prune.max_tasks);
begin
    if _before is null then
        raise exception 'older_than must not be null'
            using errcode = 'PE009', hint = 'For example: peers.prune(''30 days'').';
    elsif prune.dry_run then
        return query
            select count(*), count(*) filter (
                where t.state in ('completed', 'cancelled') and t.finished_at < _before
                  and not exists (
                      select from peers.dependency d join peers.task c on c.id = d.child_id
                      where d.parent_id = t.id and c.state not in ('completed', 'cancelled'))
            ), true
            from peers.task t
            where t.id > (select p.after_id from peers.prune_cursor p)
              and t.id < coalesce(peers._first_submitted_after(_before), 9223372036854775807);
        return;
    end if;
    perform peers._await_other_prune();
    select s.looked_at, s.deleted, s.finished into looked_at, deleted, finished
    from peers._prune_step(_before, prune.max_tasks) s;
    if deleted > 0 then
        perform peers._record_action(
            'prune', jsonb_build_object('older_than', prune.older_than), prune.reason, deleted);
    end if;
    if finished then
        perform peers._prune_leftovers(peers.now(), _before);
    end if;
    return next;
end
$$;

comment on function peers.prune is
    'Deletes completed and cancelled tasks that ended longer ago than older_than, with their edges, failures, logs and '
    'idempotency keys; a task that an unfinished or dead child needs is kept. Then deletes graphs that were created '
    'longer ago than older_than and have no task. One call examines max_tasks tasks and remembers its place: call '
    'again until finished. dry_run counts what all of these calls would delete. It waits for another session that '
    'prunes, and raises lock_not_available after a second. It writes peers.action, with the reason.';

create or replace function peers.prune_dead(
    older_than interval, max_tasks integer default 10000, dry_run boolean default false, reason text default null
) returns table (deleted bigint, children bigint, finished boolean)
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set lock_timeout = '1s'
as $$
declare
    _before constant timestamptz := peers._ended_before('older_than', prune_dead.older_than, prune_dead.max_tasks);
    _ids bigint[];
begin
    if _before is null then
        raise exception 'older_than must not be null'
            using errcode = 'PE009', hint = 'For example: peers.prune_dead(''90 days'').';
    elsif prune_dead.dry_run then
        _ids := peers._match_long_dead(_before);
        deleted := cardinality(_ids);
        children := peers._count_cancelled_children(_ids);
        finished := true;
        return next;
        return;
    end if;
    select s.deleted, s.children, s.finished into deleted, children, finished
    from peers._prune_dead_step(_before, prune_dead.max_tasks) s;
    if deleted > 0 then
        perform peers._record_action(
            'prune_dead', jsonb_build_object('older_than', prune_dead.older_than), prune_dead.reason, deleted,
            children);
    end if;
    return next;
end
$$;

comment on function peers.prune_dead is
    'Deletes dead letters that died longer ago than older_than, with their failures. The descendants that they hold '
    'can never run and are cancelled; peers.prune deletes them later. A dead letter with an unfinished child is kept. '
    'One call deletes at most max_tasks: call again until finished. dry_run counts what a call without this bound '
    'would delete and cancel. It writes peers.action, with the reason.';
