-- Waiting for results. A program that waits for a task registers it here, and only the end of a registered task
-- causes a notification: NOTIFY takes a lock of the whole cluster at commit, too much for every task. A
-- notification is a hint. Programs that wait also poll, so a lost one, or a lost row of this unlogged table, costs
-- a poll.

create unlogged table if not exists peers.awaited_result (
    -- serves _notify_results: is one of the tasks that have just ended awaited?
    task_id bigint primary key,
    expires_at timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

comment on table peers.awaited_result is
    'The tasks whose end is notified on the channel peers_results, because a program waits for it.';
comment on column peers.awaited_result.task_id is 'The task.';
comment on column peers.awaited_result.expires_at is
    'When the row is no longer valid. A program that still waits renews it before.';

create or replace function peers.await_results(task_ids bigint[]) returns void
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    delete from peers.awaited_result a
    where a.ctid = any (array(select e.ctid from peers.awaited_result e where e.expires_at < peers.now()
                              limit 1000 for update skip locked));
    insert into peers.awaited_result (task_id, expires_at)
    select distinct i.id, peers.now() + interval '1 minute' from unnest(await_results.task_ids) i(id)
    where i.id is not null order by i.id
    on conflict (task_id) do update set expires_at = excluded.expires_at;
end
$$;

comment on function peers.await_results is
    'Asks for a notification on the channel peers_results when one of these tasks ends; its payload lists ids, or is '
    'empty when they are many. LISTEN first, then call this, then look at the tasks. Valid for a minute: call it '
    'again, and poll as well.';

-- Notifies the programs that wait for tasks that have just ended. It takes no lock and writes nothing, so the end of a
-- task waits for no other session.
create or replace function peers._notify_results(_ended bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set enable_seqscan = off
    set jit = off
as $$
declare
    _awaited text;
begin
    if current_setting('peers.notify', true) in ('off', 'false', 'no', '0') then
        return;
    end if;
    select string_agg(a.task_id::text, ',') into _awaited
    from peers.awaited_result a where a.task_id = any (_ended);
    if _awaited is not null then
        perform pg_notify('peers_results', case when length(_awaited) < 8000 then _awaited else '' end);
    end if;
end
$$;
