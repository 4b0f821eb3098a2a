-- The verbs that act on many tasks: retry_dead, discard_dead, cancel_tasks. Each takes a filter and can only say what
-- it would do. All tasks of a call change in one transaction, as a set: with max_tasks, calls are shorter.
--
-- A task that another session has locked is left out, with a notice; a second call finds it. A retry needs no other
-- locks. The other two also lock descendants, in the order that all sessions follow (35_unblock).

-- Checks what all three verbs take.
create or replace function peers._check_max_tasks(_max_tasks integer) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if _max_tasks < 1 then
        raise exception 'max_tasks must be 1 or more, not %', _max_tasks
            using errcode = 'PE009', hint = 'Leave it out to act on all tasks at once.';
    end if;
end
$$;

-- Says how many tasks were left out, unless max_tasks was the reason.
create or replace function peers._report_left_out(_matched integer, _done integer, _max_tasks integer) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _left_out constant integer := least(_matched, _max_tasks) - _done;
begin
    if _left_out > 0 then
        raise notice '% left out: other sessions have locked or have just changed %',
            _left_out || case when _left_out = 1 then ' task is' else ' tasks are' end,
            case when _left_out = 1 then 'it' else 'them' end
            using hint = 'Call it again to act on the rest.';
    end if;
end
$$;

create or replace function peers.retry_dead(
    filter jsonb, dry_run boolean default false, reason text default null, args jsonb default null,
    max_tasks integer default null
) returns table (tasks bigint, children bigint, task_ids bigint[])
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _filter constant peers.task_filter := peers._read_filter(
        retry_dead.filter, '{kind, queue, error_type, error, frame, since, until, graph, ids}');
    _problem constant text := peers._validate_task('kind', retry_dead.args, 'queue', null, null, null, null);
    _matched constant bigint[] := peers._match_dead(_filter);
    _ids bigint[];
begin
    perform peers._check_max_tasks(retry_dead.max_tasks);
    if _problem is not null then
        raise exception 'peers.retry_dead: %', _problem using errcode = 'PE009';
    end if;
    _ids := coalesce(_matched[:retry_dead.max_tasks], _matched);
    if not retry_dead.dry_run then
        _ids := array(
            select t.id from peers.task t where t.id = any (_matched) and t.state = 'dead'
            order by t.id for no key update skip locked limit retry_dead.max_tasks
        );
        perform peers._report_left_out(cardinality(_matched), cardinality(_ids), retry_dead.max_tasks);
    end if;
    tasks := cardinality(_ids);
    children := cardinality(peers._held_children(_ids));
    task_ids := _ids[:100];
    if not retry_dead.dry_run and _ids <> '{}' then
        perform peers._retry(_ids, retry_dead.args);
        perform peers._record_action(
            'retry_dead',
            retry_dead.filter || case when retry_dead.args is null then '{}' else '{"new_args": true}' end::jsonb,
            retry_dead.reason, tasks, children, _ids);
    end if;
    return next;
end
$$;

comment on function peers.retry_dead is
    'Runs the dead letters that match again with new attempts, optionally with other args. SELECT * FROM '
    'peers.retry_dead(''{"kind": "charge", "error": "timed out"}'', dry_run => true) only counts them. The filter may '
    'have kind, queue, error_type, error (a part of "type: message"), frame (see peers.dead_cause), since and until '
    '(when they died), graph, ids; {"all": true} matches all. Returns how many tasks, how many descendants will run '
    'once these have completed, and the first 100 ids. It writes peers.action, with the reason.';

-- Discards dead letters together with the descendants that they hold. Returns those that it has discarded.
create or replace function peers._discard(_ids bigint[], out tasks bigint[], out children bigint)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform peers._lock_with_descendants(_ids);
    tasks := array(select t.id from peers.task t where t.id = any (_ids) and t.state = 'dead' order by t.id);
    children := peers._count_cancelled_children(tasks);
    perform peers._cancel_waiting(tasks);
end
$$;

create or replace function peers.discard_dead(
    filter jsonb, dry_run boolean default false, reason text default null, max_tasks integer default null
) returns table (tasks bigint, children bigint, task_ids bigint[])
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _filter constant peers.task_filter := peers._read_filter(
        discard_dead.filter, '{kind, queue, error_type, error, frame, since, until, graph, ids}');
    _matched constant bigint[] := peers._match_dead(_filter);
    _ids bigint[];
begin
    perform peers._check_max_tasks(discard_dead.max_tasks);
    if discard_dead.dry_run then
        _ids := coalesce(_matched[:discard_dead.max_tasks], _matched);
        children := peers._count_cancelled_children(_ids);
    else
        select d.tasks, d.children into _ids, children
        from peers._discard(peers._skip_locked(_matched, discard_dead.max_tasks)) d;
        perform peers._report_left_out(cardinality(_matched), cardinality(_ids), discard_dead.max_tasks);
    end if;
    tasks := cardinality(_ids);
    task_ids := _ids[:100];
    if not discard_dead.dry_run and _ids <> '{}' then
        perform peers._record_action(
            'discard_dead', discard_dead.filter, discard_dead.reason, tasks, children, _ids);
    end if;
    return next;
end
$$;

comment on function peers.discard_dead is
    'Gives up the dead letters that match: they are cancelled, and so are the descendants that wait for them. Their '
    'failures are kept. The filter, dry_run and the result are as in peers.retry_dead; children are the descendants '
    'that are cancelled as well.';

create or replace function peers.cancel_tasks(
    filter jsonb, dry_run boolean default false, reason text default null, max_tasks integer default null
) returns table (tasks bigint, children bigint, task_ids bigint[])
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _filter constant peers.task_filter := peers._read_filter(
        cancel_tasks.filter, '{kind, queue, state, error_type, error, frame, since, until, graph, ids}');
    _matched bigint[];
    _ids bigint[];
begin
    perform peers._check_max_tasks(cancel_tasks.max_tasks);
    if _filter.state not in ('blocked', 'scheduled', 'ready', 'running') then
        raise exception 'filter: state must be blocked, scheduled, ready or running, not "%"', left(_filter.state, 100)
            using errcode = 'PE009', hint = 'peers.discard_dead ends dead letters.';
    end if;
    _matched := peers._match_unfinished(_filter);
    _ids := coalesce(_matched[:cancel_tasks.max_tasks], _matched);
    if not cancel_tasks.dry_run then
        _ids := peers._skip_locked(_matched, cancel_tasks.max_tasks);
        perform peers._lock_with_descendants(_ids);
        _ids := array(
            select t.id from peers.task t
            where t.id = any (_ids) and t.state in ('blocked', 'scheduled', 'ready', 'running') order by t.id
        );
        perform peers._report_left_out(cardinality(_matched), cardinality(_ids), cancel_tasks.max_tasks);
    end if;
    children := peers._count_cancelled_children(_ids);
    tasks := cardinality(_ids);
    task_ids := _ids[:100];
    if not cancel_tasks.dry_run and _ids <> '{}' then
        perform peers._cancel(_ids);
        perform peers._record_action(
            'cancel_tasks', cancel_tasks.filter, cancel_tasks.reason, tasks, children, _ids);
    end if;
    return next;
end
$$;

comment on function peers.cancel_tasks is
    'Cancels the waiting tasks that match, together with the descendants that wait for them, and asks the peers of '
    'running ones to stop them. The filter, dry_run and the result are as in peers.retry_dead; it may also have state, '
    'its since and until are about when the tasks were submitted, and the error is that of their last failed attempt. '
    'children are the descendants that are cancelled as well. A running task counts, although its peer may not have '
    'stopped it yet; a task that was asked to stop before does not.';
