-- How a claim starts the tasks of the keys that it has locked.

-- Locks rows of keys of one kind, _keys[i].share times _depth of each, and returns them by task. It reads each key from
-- the first row that the claim has seen: before that are only rows of tasks that have started, and late ones.
create or replace function peers._lock_first_rows(
    _queue text, _rules peers.limit_rules, _keys peers.limited_key[], _depth integer,
    out spots tid[], out ids bigint[], out priorities smallint[], out positions bigint[], out places integer[],
    out ready_times timestamptz[]
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    select array_agg(r.spot), array_agg(r.task_id), array_agg(r.priority), array_agg(r.position), array_agg(r.n),
           array_agg(r.ready_at)
    into spots, ids, priorities, positions, places, ready_times
    from (
        select r.spot, r.task_id, r.priority, r.position, k.n::integer as n, r.ready_at
        from unnest(_keys) with ordinality k(
            rules, turn, rank, key, limit_keys, priority, "position", room, running, used, share, n)
        cross join lateral (
            select r.ctid as spot, r.task_id, r.priority, r.position, r.ready_at
            from peers.ready_limited r
            where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout and r.rank = k.rank
              and r.key = k.key and (r.priority, r.position) >= (k.priority, k.position)
            order by r.priority, r.position
            limit k.share * _depth
            for update of r skip locked
        ) r
        order by r.task_id, r.position
    ) r;
end
$$;

-- Starts tasks of keys of one kind, _keys[i].share times _depth of each. The usual case is that all rows are valid and
-- no other session has one of their tasks locked. If not, it starts none and returns null.
create or replace function peers._start_keys_at_once(
    _call peers.claim_call, _rules peers.limit_rules, _keys peers.limited_key[], _depth integer
) returns peers.limited_lease[]
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '5ms'
as $$
declare
    _tokens constant uuid[] := array(select gen_random_uuid() from unnest(_keys));
    _start_at constant timestamptz := peers._start_at(_call, _rules);
    _single constant boolean := cardinality(_rules.seeds) = 1;
    _path constant text := _rules.paths[1];
    _seed constant bigint := _rules.seeds[1];
    _hashes bigint[];
    _spots tid[];
    _ids bigint[];
    _priorities smallint[];
    _positions bigint[];
    _places integer[];
    _ready_times timestamptz[];
    _leases peers.limited_lease[];
    _started bigint;
    _plain boolean;
begin
    select r.spots, r.ids, r.priorities, r.positions, r.places, r.ready_times
    into _spots, _ids, _priorities, _positions, _places, _ready_times
    from peers._lock_first_rows(_call.queue, _rules, _keys, _depth) r;
    if _ids is null then
        return '{}';
    end if;
    _hashes := array(select case when _single then k.limit_keys[1] else k.key end from unnest(_keys) k);
    with started as (
        update peers.task t
        set state = 'running', attempt = t.attempt + 1, started_at = _call.claimed_at,
            token = _tokens[_places[width_bucket(t.id, _ids)]]
        where t.id = any (_ids) and t.state = 'ready' and t.queue = _call.queue and t.kind = _rules.kind
          and t.priority = _priorities[width_bucket(t.id, _ids)]
          and (not _call.any_graph_paused or t.graph_id is null or not exists (
                  select from peers.graph g where g.id = t.graph_id and g.paused_at is not null))
          and (not _rules.keyed or _hashes[_places[width_bucket(t.id, _ids)]] = case
                  when _single then peers._limit_key(_seed, _path, t.args)
                  else peers._keys_hash(_rules, t.args)
              end)
        returning t.id, t.attempt, t.kind, t.priority, _positions[width_bucket(t.id, _ids)] as position, t.timeout,
                  _places[width_bucket(t.id, _ids)] as n, _ready_times[width_bucket(t.id, _ids)] as ready_at,
                  case
                      when pg_column_size(t.args) <= 1000 and pg_column_compression(t.args) is null then t.args::text
                  end as args
    ), dropped as (
        delete from peers.ready_limited r where r.ctid = any (_spots)
    )
    select array_agg(row(_tokens[k.n], _keys[k.n].limit_keys, k.tasks, _keys[k.n].share, _start_at)
                         ::peers.limited_lease),
           sum(k.started), bool_and(k.plain)
    into _leases, _started, _plain
    from (
        select s.n, count(*) as started, bool_and(s.args is not null) as plain,
               row(array_agg(s.id), array_agg(s.attempt), array_agg(s.kind), array_agg(s.priority),
                   array_agg(s.position), array_agg(date_part('epoch', s.timeout)), array_agg(s.args),
                   array_agg(s.ready_at)
               )::peers.claim_tasks as tasks
        from (select s.* from started s order by s.n, s.priority, s.position) s
        group by s.n
    ) k;
    if _started is distinct from cardinality(_ids) or not _plain then
        raise exception using errcode = 'PE999';
    end if;
    return _leases;
exception when others then
    perform peers._raise_if_fatal(sqlstate, sqlerrm);
    return null;
end
$$;

-- Starts tasks of keys that have a share, and makes a lease for each key. Returns the leases. fewer: a key that has
-- room gave no task. unfinished: it ran out of time before it had looked at all rows.
create or replace function peers._start_keys(
    _call peers.claim_call, _rules peers.limit_rules, _keys peers.limited_key[], _depth integer,
    out leases peers.limited_lease[], out refused integer, out fewer boolean, out unfinished boolean
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most_args constant integer := 16777216;  -- bytes of text in one answer
    _by_weight constant boolean := array_remove(_rules.weights, null) <> '{}';
    _key peers.limited_key;
    _one record;
begin
    refused := 0;
    fewer := false;
    unfinished := false;
    if not _by_weight then
        leases := peers._start_keys_at_once(_call, _rules, _keys, _depth);
        perform peers._insert_leases(_call, _rules, leases);
        if leases is not null then
            return;
        end if;
    end if;
    leases := '{}';
    foreach _key in array _keys loop
        unfinished := clock_timestamp() > _call.until and leases <> '{}';
        exit when unfinished;
        _one := peers._start_key_carefully(
            _call, _rules, _key, _depth, _most_args - coalesce(pg_column_size(leases), 0)
        );
        refused := refused + _one.refused;
        fewer := fewer or (_one.lease).token is null;
        if (_one.lease).token is not null then
            leases := leases || _one.lease;
            perform peers._insert_leases(_call, _rules, array[_one.lease]);
        end if;
        unfinished := _one.unfinished;
        exit when unfinished;
    end loop;
end
$$;

-- Inserts leases, and the starts that a limit with a rate counts.
create or replace function peers._insert_leases(
    _call peers.claim_call, _rules peers.limit_rules, _leases peers.limited_lease[]
) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    insert into peers.lease (token, peer_id, task_ids, open, claimed_at, limit_keys, most_running, fair_key,
                             limit_layout)
    select l.token, _call.peer_id, (l.tasks).ids, cardinality((l.tasks).ids), _call.claimed_at, l.limit_keys,
           case when l.share < cardinality((l.tasks).ids) then l.share end, l.limit_keys[_rules.fair_at],
           _rules.layout
    from unnest(_leases) l;
    if array_remove(_rules.starts, null) <> '{}' then
        perform peers._insert_starts(_call, _rules, _leases);
    end if;
end
$$;

-- Starts tasks of the keys of all kinds that have a share. tasks_per_slot: how many tasks a slot runs one after the
-- other, by kind. With a weight or a rate each task is counted, and a slot gets one.
create or replace function peers._start_shared(
    _call peers.claim_call, _rules peers.limit_rules[], _keys peers.limited_key[], _tasks_per_slot jsonb,
    out leases peers.limited_lease[], out fewer boolean, out unfinished boolean
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _most_per_slot constant integer := 1000;
    _own peers.limited_key[];
    _depth integer;
    _started record;
begin
    leases := '{}';
    fewer := false;
    unfinished := false;
    for _i in 1 .. cardinality(_rules) loop
        _own := array(select k from unnest(_keys) k where k.rules = _i);
        continue when _own = '{}';
        _depth := case
            when array_remove(_rules[_i].weights, null) = '{}' and array_remove(_rules[_i].starts, null) = '{}'
            then least(coalesce((_tasks_per_slot ->> _rules[_i].kind)::integer, 1), _most_per_slot)
        end;
        _started := peers._start_keys(_call, _rules[_i], _own, greatest(_depth, 1));
        leases := leases || _started.leases;
        fewer := fewer or _started.fewer;
        unfinished := unfinished or _started.unfinished;
    end loop;
end
$$;
