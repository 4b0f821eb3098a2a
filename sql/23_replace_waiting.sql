-- A submission with a unique key replaces the task that holds it.

-- Changes tasks that wait to what newer submissions say, as if these had come in their place. The caller has locked
-- them. They keep their ids, parents and graphs, and have new attempts. A task whose place in ready changes gets a new
-- row there; the next claim drops the old one, as after peers.change. Its row in scheduled is deleted: a task that is
-- debounced a thousand times would leave a thousand rows, each until its time.
create or replace function peers._replace_waiting(_ids bigint[], _fields peers.task_fields[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now constant timestamptz := peers.now();
    _sorted constant bigint[] := array(select i.id from unnest(_ids) i(id) order by i.id);
    _problem text;
begin
    select p.problem into _problem
    from unnest(_ids, _fields) f(id, args, queue, priority, scheduled_at, max_attempts, timeout, metadata)
    cross join lateral (
        select peers._validate_task(
            null, f.args, f.queue, f.max_attempts, f.timeout, null, f.metadata, f.scheduled_at) as problem
    ) p
    where p.problem is not null
    limit 1;
    if _problem is not null then
        raise exception 'peers.task: %', _problem using errcode = 'PE009';
    end if;
    delete from peers.scheduled s
    where s.due_at = any (array(
              select distinct t.scheduled_at from peers.task t where t.id = any (_ids) and t.state = 'scheduled'))
      and _sorted[width_bucket(s.task_id, _sorted)] = s.task_id;
    with changed as (
        update peers.task t
        set args = f.args, queue = f.queue, priority = f.priority, scheduled_at = f.scheduled_at,
            max_attempts = f.max_attempts, timeout = f.timeout, metadata = f.metadata, attempt = 0, started_at = null,
            state = case
                        when t.state = 'blocked' then t.state
                        when f.scheduled_at > greatest(_now, t.created_at) then 'scheduled'
                        else 'ready'
                    end
        from unnest(_ids, _fields) f(id, args, queue, priority, scheduled_at, max_attempts, timeout, metadata)
        cross join lateral (select b.* from peers.task b where b.id = f.id offset 0) before
        where t.id = f.id
        returning t.id, t.kind, t.queue, t.priority, t.state, t.scheduled_at,
                  before.state as old_state, before.queue as old_queue, before.priority as old_priority,
                  before.args <> t.args as has_other_args
    ), later as (
        insert into peers.scheduled (due_at, task_id)
        select c.scheduled_at, c.id from changed c where c.state = 'scheduled'
    ), still_blocked as (
        update peers.blocked b set queue = c.queue
        from changed c
        where b.task_id = c.id and c.state = 'blocked' and b.queue <> c.queue
    )
    insert into peers.ready (queue, kind, priority, task_id)
    select c.queue, c.kind, c.priority, c.id from changed c
    where c.state = 'ready'
      and (
          (c.old_state, c.old_queue, c.old_priority) is distinct from ('ready', c.queue, c.priority)
          or c.has_other_args and exists (
              select from peers.limit l where l.key is not null and (l.kind = c.kind or l.queue = c.queue)
          )
      )
    order by c.id;
    if found then
        perform peers._notify();
    end if;
end
$$;
