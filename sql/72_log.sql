-- The logs of attempts: their peer stores them, with the outcome or while they run.

-- Returns the database's error instead of raising it, because the outcomes of tasks are recorded in the same
-- transaction. A log is not worth an outcome.
create or replace function peers.store_logs(
    peer_id uuid, task_ids bigint[], tokens uuid[], attempts integer[], outcomes text[], sizes bigint[], texts bytea[]
) returns text
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _most_of_a_task constant integer := 10;
    _now constant timestamptz := peers.now();
begin
    insert into peers.task_log (task_id, token, attempt, peer_id, host, outcome, size, cut, text, stored_at)
    select l.task_id, l.token, l.attempt, store_logs.peer_id, p.host, l.outcome, l.size, l.size > octet_length(l.text),
           convert_from(l.text, 'UTF8'), _now
    from unnest(store_logs.task_ids, store_logs.tokens, store_logs.attempts, store_logs.outcomes, store_logs.sizes,
                store_logs.texts) l(task_id, token, attempt, outcome, size, text)
    join peers.task t on t.id = l.task_id
    left join peers.peer p on p.id = store_logs.peer_id
    where l.text is not null
    order by l.task_id, l.token
    on conflict (task_id, token) do update
    set outcome = excluded.outcome, size = excluded.size, cut = excluded.cut, text = excluded.text,
        stored_at = excluded.stored_at
    where task_log.peer_id = excluded.peer_id;

    delete from peers.task_log l
    using unnest(store_logs.task_ids, store_logs.tokens, store_logs.texts) gone(task_id, token, text)
    where gone.text is null and l.task_id = gone.task_id and l.token = gone.token
      and l.peer_id = store_logs.peer_id;

    delete from peers.task_log l
    using (
        select o.task_id, o.token, row_number() over (partition by o.task_id order by o.stored_at desc) as place
        from peers.task_log o
        where o.task_id = any (store_logs.task_ids)
    ) old
    where old.place > _most_of_a_task and l.task_id = old.task_id and l.token = old.token;
    return null;
exception
    when others then
        return sqlerrm;
end
$$;

comment on function peers.store_logs is
    'Stores the logs of attempts, in UTF-8: of failed and completed ones, and (outcome null) of running ones. Text '
    'null deletes a log that was stored while the attempt ran. Keeps the last 10 logs of each task. Returns null, or '
    'the error for which the database has stored nothing.';

create or replace function peers.follow_log(task_id bigint) returns void
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform peers._notify('log ' || follow_log.task_id);
end
$$;

comment on function peers.follow_log is
    'Asks the peer that runs a task to store the log of this attempt once a second for the next 15 seconds. A peer '
    'that cannot receive notifications does not notice; it stores the logs of running attempts once a minute.';
