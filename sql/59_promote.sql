-- peers.promote: scheduled tasks that are due become ready.

-- Moves rows of scheduled to ready. A row without an id is stale and is only deleted.
create or replace function peers._make_ready(_spots tid[], _ids bigint[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    delete from peers.scheduled s where s.ctid = any (_spots);
    with promoted as (
        update peers.task t set state = 'ready' where t.id = any (_ids)
        returning t.id, t.queue, t.kind, t.priority, t.scheduled_at
    )
    insert into peers.ready (queue, kind, priority, task_id)
    select p.queue, p.kind, p.priority, p.id from promoted p order by p.scheduled_at, p.id;
    if found then
        perform peers._notify();
    end if;
end
$$;

-- Handles the first rows that are due, out of a random share of all rows (in 1024ths). Returns how many it handled and
-- how many of these it had to leave.
create or replace function peers._promote_share(
    _share integer, _now timestamptz, _max_tasks integer, out handled integer, out refused integer
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _seed constant bigint := (random() * 1000000000)::bigint;
    _spots tid[];
    _due bigint[];  -- null: the row is stale
begin
    select array_agg(s.spot), array_agg(case when s.valid then s.task_id end) into _spots, _due
    from (
        select s.ctid as spot, s.task_id, t.valid
        from peers.scheduled s
        left join lateral (
            select t.id, t.state = 'scheduled' and t.scheduled_at = s.due_at as valid
            from peers.task t where t.id = s.task_id
            for no key update skip locked
        ) t on true
        left join peers.task known on known.id = s.task_id
        where s.due_at <= _now and (hashint8extended(s.task_id, _seed) & 1023) < _share
          and (t.id is not null or known.id is null)
        order by s.due_at
        limit _max_tasks
        for update of s skip locked
    ) s;
    handled := coalesce(cardinality(_spots), 0);
    refused := 0;
    begin
        perform peers._make_ready(_spots, _due);
    exception when others then
        -- one by one: an application's trigger that refuses one task must not stop the others
        for i in 1 .. handled loop
            begin
                perform peers._make_ready(_spots[i:i], _due[i:i]);
            exception when others then
                raise warning 'task % is due and could not be made ready: %', _due[i], sqlerrm;
                refused := refused + 1;
            end;
        end loop;
    end;
end
$$;

-- Tasks that are refused stay first in line. If they are most of the batch, a second pass takes a random share of all
-- tasks that are due, so that those behind them become ready too, even if all are due at the same time.
create or replace function peers.promote(max_tasks integer default 1000) returns integer
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
as $$
declare
    _now timestamptz := peers.now();
    _first record;
    _second record;
    _due bigint;
begin
    perform peers._require_read_committed();
    select p.handled, p.refused into _first from peers._promote_share(1024, _now, promote.max_tasks) p;
    if _first.handled < promote.max_tasks or 2 * _first.refused < _first.handled then
        return _first.handled - _first.refused;
    end if;
    _due := (
        select count(*) from (
            select from peers.scheduled s where s.due_at <= _now limit 1024 * promote.max_tasks::bigint) s
    );
    select p.handled, p.refused into _second
    from peers._promote_share(
        least(1024 * promote.max_tasks::bigint / greatest(_due, 1) + 1, 1024)::integer, _now, promote.max_tasks) p;
    return _first.handled - _first.refused + _second.handled - _second.refused;
end
$$;

comment on function peers.promote is
    'Moves tasks that are due from scheduled to ready. Returns how many rows it handled; call again while that is '
    'max_tasks.';

-- Returns when the next scheduled task is due. It does not look at times that are long past: there the index may have
-- many entries of promoted tasks that vacuum has not removed yet.
create or replace function peers.next_due() returns timestamptz
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _since timestamptz := peers.now() - interval '1 minute';
begin
    return (select s.due_at from peers.scheduled s where s.due_at > _since order by s.due_at limit 1);
end
$$;

comment on function peers.next_due is
    'When the next scheduled task is due; null if there is none. A task that is due for more than a minute, because '
    'its row was locked whenever peers.promote was called, is left out.';

-- Notifies the peers of tasks that are due soon. A peer looks for scheduled tasks every 10 seconds, so it finds later
-- ones by itself; 30 seconds leave time for a transaction that stays open.
create or replace function peers.notify_scheduled() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _first timestamptz := (select min(n.due_at) from new_rows n);
begin
    if _first < peers.now() + interval '30 seconds' then
        perform peers._notify('scheduled ' || extract(epoch from _first));
    end if;
    return null;
end
$$;

comment on function peers.notify_scheduled() is
    'Trigger: notifies the peers when the first of the tasks that were just scheduled is due, if that is soon.';

create or replace trigger notify_scheduled after insert on peers.scheduled
    referencing new table as new_rows
    for each statement execute function peers.notify_scheduled();
