-- Peeks: an operator asks what a running handler does, and the peer that runs it replies.
--
-- The peer learns of a request from its next heartbeat. A notification makes it send that at once.

-- Deletes requests that are older than five minutes, with their replies.
create or replace function peers.delete_peeks() returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _deleted bigint;
begin
    delete from peers.peek p where p.id = any (array(
        select p.id from peers.peek p
        where p.requested_at < peers.now() - interval '5 minutes' for update skip locked
    ));
    get diagnostics _deleted = row_count;
    return _deleted;
end
$$;

comment on function peers.delete_peeks is
    'Deletes the requests of peers.request_peek that are older than five minutes, with their replies. Returns how '
    'many. Every peer calls it once a minute.';

create or replace function peers.request_peek(task_id bigint) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
    _task peers.task;
    _peer peers.peer;
    _id bigint;
begin
    perform peers.delete_peeks();
    select t.* into _task from peers.task t where t.id = request_peek.task_id;
    if not found then
        raise exception 'there is no task %', request_peek.task_id
            using errcode = 'PE008', hint = 'It never existed, or it ended and was pruned.';
    end if;
    select p.* into _peer
    from peers.lease l join peers.peer p on p.id = l.peer_id
    where l.token = _task.token and _task.state = 'running';
    if not found then
        raise exception 'task % is not running. %', _task.id, peers.explain(_task.id)
            using errcode = 'PE016', hint = 'Only a running task has a stack.';
    end if;
    if not peers._is_alive(_peer, _now) then
        raise exception 'task % is running on a peer that is lost: host %, pid %, last heartbeat %',
            _task.id, _peer.host, _peer.pid, _peer.heartbeat_at
            using errcode = 'PE016', hint = 'Another peer will reclaim the task and run it again.';
    end if;
    -- several operators may look at the same task
    select p.id into _id
    from peers.peek p
    where p.peer_id = _peer.id and p.task_id = _task.id and p.token = _task.token and p.replied_at is null
      and p.requested_at > _now - interval '10 seconds'
    order by p.id desc limit 1;
    if found then
        return _id;
    end if;
    insert into peers.peek (task_id, token, peer_id, requested_at)
    values (_task.id, _task.token, _peer.id, _now)
    returning id into _id;
    perform peers._notify('peek ' || _peer.id);
    return _id;
end
$$;

comment on function peers.request_peek is
    'Asks the peer that runs a task what its handler does. Returns the id of the row of peers.peek in which the peer '
    'replies, usually within a second: SELECT report FROM peers.peek WHERE id = 7. Raises PE016 unless the task is '
    'running on a live peer.';

create or replace function peers.reply_to_peek(peer_id uuid, peek_id bigint, facts jsonb, report text)
returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '1s'
as $$
begin
    update peers.peek p
    set replied_at = peers.now(), facts = reply_to_peek.facts, report = reply_to_peek.report
    where p.id = reply_to_peek.peek_id and p.peer_id = reply_to_peek.peer_id and p.replied_at is null;
    return found;
end
$$;

comment on function peers.reply_to_peek is
    'Records what a peer replies to a request of peers.request_peek. False: there is no such request any more.';
