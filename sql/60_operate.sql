-- What operators do with tasks and queues: retry, discard, cancel, change, pause, resume.

-- Locks a task and returns it. Raises PE008 if there is none.
create or replace function peers._lock_task(_id bigint) returns peers.task
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _task peers.task;
begin
    perform peers._require_read_committed();
    select t.* into _task from peers.task t where t.id = _id for no key update;
    if not found then
        raise exception 'there is no task %', _id
            using errcode = 'PE008', hint = 'It never existed, or it ended and was pruned.';
    end if;
    return _task;
end
$$;

-- Makes dead tasks ready with new attempts. The caller has locked them.
create or replace function peers._retry(_ids bigint[], _args jsonb default null) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    delete from peers.dead d where d.task_id = any (_ids);
    with retried as (
        update peers.task t
        set state = 'ready', attempt = 0, scheduled_at = peers.now(), started_at = null, finished_at = null,
            args = coalesce(_args, t.args)
        where t.id = any (_ids)
        returning t.id, t.queue, t.kind, t.priority
    )
    insert into peers.ready (queue, kind, priority, task_id)
    select r.queue, r.kind, r.priority, r.id from retried r order by r.id;
    perform peers._notify();
end
$$;

create or replace function peers.retry(id bigint, args jsonb default null) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _task peers.task := peers._lock_task(retry.id);
    _problem text;
begin
    if _task.state <> 'dead' then
        raise exception 'task % is %, not a dead letter', _task.id, _task.state
            using errcode = 'PE004', hint = 'The view peers.dead_letter lists the tasks that can be retried.';
    end if;
    _problem := peers._validate_task(_task.kind, retry.args, _task.queue, null, null, null, null);
    if _problem is not null then
        raise exception 'peers.retry(%): %', _task.id, _problem using errcode = 'PE009';
    end if;
    perform peers._retry(array[_task.id], retry.args);
    return _task.id;
end
$$;

comment on function peers.retry is
    'Runs a dead letter again with new attempts, optionally with other args. The children that wait for it run once '
    'it completes. peers.retry_dead retries many.';

create or replace function peers.discard(id bigint) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _discarded constant bigint[] := (select d.tasks from peers._discard(array[discard.id]) d);
    _task peers.task;
begin
    if _discarded = '{}' then
        _task := peers._lock_task(discard.id);
        raise exception 'task % is %, not a dead letter', _task.id, _task.state
            using errcode = 'PE004', hint = 'peers.cancel ends a task that is waiting or running.';
    end if;
    return discard.id;
end
$$;

comment on function peers.discard is
    'Gives up a dead letter: the task is cancelled, and so are the descendants that wait for it. Its failures are '
    'kept. peers.discard_dead discards many.';

-- Cancels tasks that the caller has locked, and asks the peers of running ones to stop them. Returns how many of them
-- it cancelled or asked to stop.
create or replace function peers._cancel(_ids bigint[]) returns bigint
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _asked bigint;
    _waiting bigint[];
begin
    insert into peers.cancel_request (task_id, token, requested_at)
    select t.id, t.token, peers.now() from peers.task t where t.id = any (_ids) and t.state = 'running' order by t.id
    on conflict do nothing;
    get diagnostics _asked = row_count;
    if _asked > 0 then
        perform peers._notify('cancel');
    end if;
    _waiting := array(
        select t.id from peers.task t
        where t.id = any (_ids) and t.state in ('blocked', 'scheduled', 'ready', 'dead')
    );
    perform peers._cancel_waiting(_waiting);
    return _asked + cardinality(_waiting);
end
$$;

create or replace function peers.cancel(id bigint) returns peers.task_state
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _task peers.task;
begin
    perform peers._lock_with_descendants(array[cancel.id]);
    _task := peers._lock_task(cancel.id);
    perform peers._cancel(array[_task.id]);
    return (select t.state from peers.task t where t.id = _task.id);
end
$$;

comment on function peers.cancel is
    'Cancels a task. A waiting or dead task is cancelled now, and so are the descendants that wait for it. The peer of '
    'a running task is asked to stop the handler; the task is cancelled unless it completes first. Returns the state '
    'that the task is in now. peers.cancel_tasks cancels many.';

create or replace function peers.change(
    id bigint,
    priority integer default null,
    scheduled_at timestamptz default null,
    args jsonb default null,
    max_attempts integer default null,
    timeout interval default null
) returns void
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
    _task peers.task := peers._lock_task(change.id);
    _before peers.task;
    _problem text := peers._validate_task(_task.kind, change.args, _task.queue, change.max_attempts,
                                        change.timeout, null, null, change.scheduled_at);
begin
    if _task.state not in ('blocked', 'scheduled', 'ready') then
        raise exception 'task % is % and can no longer be changed', _task.id, _task.state
            using errcode = 'PE002',
            hint = 'A task can be changed while it waits. peers.retry(id, args) changes the args of a dead letter.';
    elsif change.priority not between -32768 and 32767 then
        _problem := 'priority must be -32768 to 32767 (smaller runs first), not ' || change.priority;
    end if;
    if _problem is not null then
        raise exception 'peers.change(%): %', _task.id, _problem using errcode = 'PE009';
    end if;

    _before := _task;
    update peers.task t
    set priority = coalesce(change.priority, t.priority),
        scheduled_at = coalesce(change.scheduled_at, t.scheduled_at),
        args = coalesce(change.args, t.args),
        max_attempts = coalesce(change.max_attempts, t.max_attempts),
        timeout = coalesce(change.timeout, t.timeout),
        state = case
                    when t.state = 'blocked' then t.state
                    when coalesce(change.scheduled_at, t.scheduled_at) > greatest(_now, t.created_at) then 'scheduled'
                    else 'ready'
                end
    where t.id = _task.id
    returning t.* into _task;
    -- a new row where the change makes the old row stale; claim or promote drops that one
    insert into peers.ready (queue, kind, priority, task_id)
    select _task.queue, _task.kind, _task.priority, _task.id
    where _task.state = 'ready' and (
        (_before.state, _before.priority) is distinct from ('ready', _task.priority)
        or _before.args <> _task.args and exists (
            select from peers.limit l
            where l.key is not null and (l.kind = _task.kind or l.queue = _task.queue)
        )
    );
    insert into peers.scheduled (due_at, task_id)
    select _task.scheduled_at, _task.id
    where _task.state = 'scheduled'
      and (_before.state, _before.scheduled_at) is distinct from ('scheduled', _task.scheduled_at);
    perform peers._notify();
end
$$;

comment on function peers.change is
    'Changes a task that waits (blocked, scheduled or ready). Null leaves a value as it is. A task with a new priority '
    'goes to the tail of that priority.';

create or replace function peers.pause(queue text, reason text default null) returns void
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if pause.queue is null or length(pause.queue) not between 1 and 200 then
        raise exception 'queue must have 1 to 200 characters, not %', coalesce(length(pause.queue)::text, 'null')
            using errcode = 'PE009';
    end if;
    insert into peers.paused_queue (queue, paused_at) values (pause.queue, peers.now())
    on conflict do nothing;
    if found then
        perform peers._record_action('pause', jsonb_build_object('queue', pause.queue), pause.reason);
    end if;
end
$$;

comment on function peers.pause is
    'Stops claims from a queue. Tasks that are running continue. It writes peers.action, with the reason.';

create or replace function peers.resume(queue text, reason text default null) returns void
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    delete from peers.paused_queue p where p.queue = resume.queue;
    if found then
        perform peers._record_action('resume', jsonb_build_object('queue', resume.queue), resume.reason);
    end if;
    perform peers._notify();
end
$$;

comment on function peers.resume is
    'Allows claims from a paused queue again. It writes peers.action, with the reason.';
