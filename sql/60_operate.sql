-- What operators do: to dead letters, to waiting and running tasks, to queues.

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
            using errcode = 'PE008', hint = 'It never existed, or it was pruned after it ended.';
    end if;
    return _task;
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
            using errcode = 'PE004', hint = 'peers.dead_letter lists those that can be retried.';
    end if;
    _problem := peers._validate_task(_task.kind, retry.args, _task.queue, null, null, null, null);
    if _problem is not null then
        raise exception 'peers.retry(%): %', _task.id, _problem using errcode = 'PE009';
    end if;
    delete from peers.dead d where d.task_id = _task.id;
    update peers.task t
    set state = 'ready', attempt = 0, scheduled_at = peers.now(), started_at = null, finished_at = null,
        args = coalesce(retry.args, t.args)
    where t.id = _task.id;
    insert into peers.ready (queue, kind, priority, task_id)
    values (_task.queue, _task.kind, _task.priority, _task.id);
    perform peers._notify();
    return _task.id;
end
$$;

comment on function peers.retry is
    'A dead letter runs again with fresh attempts, optionally with other args; the children that it holds flow '
    'once it completes. In bulk: SELECT peers.retry(task_id) FROM peers.dead_letter WHERE kind = ''x''.';

create or replace function peers.discard(id bigint) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _task peers.task;
begin
    perform peers._lock_family(discard.id);
    _task := peers._lock_task(discard.id);
    if _task.state <> 'dead' then
        raise exception 'task % is %, not a dead letter', _task.id, _task.state
            using errcode = 'PE004', hint = 'peers.cancel ends a task that is waiting or running.';
    end if;
    perform peers._cancel_waiting(array[_task.id]);
    return _task.id;
end
$$;

comment on function peers.discard is
    'Accepts a death: the task ends cancelled, its failures stay to be read, held descendants are cancelled.';

create or replace function peers.cancel(id bigint) returns peers.task_state
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _task peers.task;
begin
    perform peers._lock_family(cancel.id);
    _task := peers._lock_task(cancel.id);
    if _task.state = 'running' then
        update peers.lease l set cancel_requested = true where l.task_id = _task.id;
        perform peers._notify('cancel');
    else
        perform peers._cancel_waiting(array[_task.id]);
    end if;
    return (select t.state from peers.task t where t.id = _task.id);
end
$$;

comment on function peers.cancel is
    'Ends a task. Waiting or dead: cancelled now, and with it the descendants that wait for it. Running: its peer '
    'is told to stop the handler, unless it completes first. Answers the state it is in now.';

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
        raise exception 'task % is % and cannot be changed any more', _task.id, _task.state
            using errcode = 'PE002',
            hint = 'A task can be changed while it waits; a dead letter by peers.retry(id, args).';
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
    -- a new row where the old one counts no more; that one is dropped when it is met
    insert into peers.ready (queue, kind, priority, task_id)
    select _task.queue, _task.kind, _task.priority, _task.id
    where _task.state = 'ready' and (_before.state, _before.priority) is distinct from ('ready', _task.priority);
    insert into peers.scheduled (due_at, task_id)
    select _task.scheduled_at, _task.id
    where _task.state = 'scheduled'
      and (_before.state, _before.scheduled_at) is distinct from ('scheduled', _task.scheduled_at);
    perform peers._notify();
end
$$;

comment on function peers.change is
    'Changes a task that waits (blocked, scheduled, ready); null leaves a value as it is. A new priority puts it '
    'at the tail of that priority.';

create or replace function peers.pause(queue text) returns void
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
end
$$;

comment on function peers.pause is 'Stops claims from a queue. What runs, runs on.';

create or replace function peers.resume(queue text) returns void
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    delete from peers.paused_queue p where p.queue = resume.queue;
    perform peers._notify();
end
$$;

comment on function peers.resume is 'Allows claims from a paused queue again.';
