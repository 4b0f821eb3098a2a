-- peers.explain: why a task is not running, in a sentence.

create or replace function peers._explain_stopped(_task peers.task) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return coalesce(' It was ' || rtrim(_task.stopped_because, '.') || '. That attempt does not count.', '');
end
$$;

-- Returns how to resume the task's graph, if the graph is paused.
create or replace function peers._explain_paused_graph(_task peers.task) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return (
        select 'its graph ' || g.id || ' ("' || g.name || '") is paused: peers.resume_graph(' || g.id || ').'
        from peers.graph g where g.id = _task.graph_id and g.paused_at is not null
    );
end
$$;

create or replace function peers._explain_ready(_task peers.task) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _able bigint;
    _served text;
    _stopped constant text := peers._explain_stopped(_task);
    _paused_graph constant text := peers._explain_paused_graph(_task);
    _limited text;
begin
    if _paused_graph is not null then
        return 'Ready, but ' || _paused_graph || _stopped;
    end if;
    if exists (select from peers.paused_queue p where p.queue = _task.queue) then
        return 'Ready, but the queue "' || _task.queue || '" is paused: peers.resume(''' || _task.queue || ''').'
            || _stopped;
    end if;
    select count(*) into _able from peers.peer p
    where peers._is_alive(p, peers.now())
      and _task.kind = any (p.kinds) and p.queues ? _task.queue;
    if _able = 0 then
        select string_agg(q.queue, ', ' order by q.queue) into _served
        from (
            select distinct jsonb_object_keys(p.queues) as queue from peers.peer p
            where peers._is_alive(p, peers.now()) and _task.kind = any (p.kinds)
        ) q;
        return 'Ready, but no live peer runs kind "' || _task.kind || '" in queue "' || _task.queue || '": '
            || coalesce('the live peers with a handler for it serve only ' || _served
                            || ': start a peer that serves this queue too',
                        'no live peer has a handler for it: start a peer whose app has one')
            || ' (peers.peer_status lists the peers).' || _stopped;
    end if;
    _limited := peers._explain_limits(_task);
    if _limited is not null then
        return 'Ready, but ' || _limited || _stopped;
    end if;
    return 'Ready: ' || _able || ' live ' || case when _able = 1 then 'peer' else 'peers' end
        || ' can run it, and it waits for its turn (priority ' || _task.priority || '; smaller numbers run first).'
        || _stopped;
end
$$;

create or replace function peers._explain_blocked(_task peers.task) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most_named constant integer := 10;
begin
    return 'Blocked: it waits for ' || _task.pending_parents
        || case when _task.pending_parents = 1 then ' parent' else ' parents' end || ': '
        || (select string_agg(w.what, ', ' order by w.id)
            from (
                select p.id, 'task ' || p.id || ' (' || p.kind || ') is ' || p.state
                             || case when p.state = 'dead' then ' (call peers.retry(' || p.id || ') or peers.discard('
                                                                || p.id || '))' else '' end as what
                from peers.dependency d join peers.task p on p.id = d.parent_id
                where d.child_id = _task.id and not d.waived and p.state <> 'completed'
                order by p.id limit _most_named
            ) w)
        || case when _task.pending_parents > _most_named then ', ...' else '' end || '.';
end
$$;

create or replace function peers._explain_running(_task peers.task) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return coalesce((
        select 'Running since ' || l.claimed_at || ', attempt ' || _task.attempt || ' of '
            || coalesce(_task.max_attempts, k.max_attempts, 5)
            || ', on host ' || coalesce(p.host, '(unknown)') || ' (peer ' || l.peer_id || ')'
            || case when exists (select from peers.cancel_request r where r.token = l.token and r.task_id = _task.id)
                    then '; its peer was asked to stop it' else '' end
            || case when coalesce(peers._is_alive(p, peers.now()), false) then ''
                    else '. That peer''s heartbeat has expired, and another peer will reclaim the task' end || '.'
        from peers.lease l
        left join peers.kind k on k.kind = _task.kind
        left join peers.peer p on p.id = l.peer_id
        where l.token = _task.token
    ), 'Running, but it has no lease: SELECT * FROM peers.check(repair => true) makes it ready again.');
end
$$;

-- Returns the task's last error on one line. A message may have 20,000 characters, and this becomes part of a sentence.
create or replace function peers._last_error(_task_id bigint) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return (
        select f.error_type || ': ' || case when length(m.message) > 300 then left(m.message, 297) || '...'
                                            else m.message end
        from peers.failure f
        cross join lateral (select regexp_replace(left(f.error_message, 1000), '\s+', ' ', 'g') as message) m
        where f.task_id = _task_id order by f.id desc limit 1
    );
end
$$;

create or replace function peers._explain_ended(_task peers.task) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if _task.state = 'completed' then
        return 'Completed at ' || _task.finished_at || ' in attempt ' || _task.attempt || '.';
    elsif _task.state = 'dead' then
        return 'Dead since ' || _task.finished_at || ' after attempt ' || _task.attempt || coalesce(
            ': ' || peers._last_error(_task.id), '')
            || '. peers.retry(' || _task.id || ') runs it again, peers.discard(' || _task.id || ') gives it up.';
    end if;
    return 'Cancelled at ' || _task.finished_at || coalesce(
        (select ', because its parent ' || p.id || ' (' || p.kind || ') is ' || p.state
         from peers.dependency d join peers.task p on p.id = d.parent_id
         where d.child_id = _task.id and p.state in ('dead', 'cancelled') and not d.waived
         order by p.finished_at limit 1), '') || '.';
end
$$;

create or replace function peers.explain(id bigint) returns text
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _task peers.task;
begin
    select t.* into _task from peers.task t where t.id = explain.id;
    if not found then
        raise exception 'there is no task %', explain.id
            using errcode = 'PE008', hint = 'It never existed, or it ended and was pruned.';
    end if;
    return case
        when _task.state = 'ready' then peers._explain_ready(_task)
        when _task.state = 'blocked' then peers._explain_blocked(_task)
        when _task.state = 'running' then peers._explain_running(_task)
        when _task.state = 'scheduled' and _task.attempt > 0 then
            'Scheduled: attempt ' || _task.attempt || ' failed ('
            || coalesce(peers._last_error(_task.id), 'unknown')
            || '), the next one is due at ' || _task.scheduled_at || '.' || peers._explain_stopped(_task)
        when _task.state = 'scheduled' then
            'Scheduled: due at ' || _task.scheduled_at || '.' || peers._explain_stopped(_task)
        else peers._explain_ended(_task)
    end || case when _task.state in ('blocked', 'scheduled', 'dead')
                then coalesce(' Also, ' || peers._explain_paused_graph(_task), '') else '' end;
end
$$;

comment on function peers.explain is 'Says why a task is not running, or how it ended.';

create or replace view peers.manual as
select p.proname::text as verb, pg_get_function_arguments(p.oid) as arguments,
       obj_description(p.oid, 'pg_proc') as description
from pg_proc p
where p.pronamespace = 'peers'::regnamespace and p.proname !~ '^_' and p.prorettype <> 'trigger'::regtype
order by p.proname;

comment on view peers.manual is 'Every function that users and peers may call, with its arguments and what it does.';
comment on column peers.manual.verb is 'The function''s name in the schema peers.';
comment on column peers.manual.arguments is 'Its arguments with their defaults.';
comment on column peers.manual.description is 'What it does.';
