-- Unique keys: at most one task for each kind and key, while the rule of the submission says so.
--
-- The row of a key in peers.unique_key names the last task that was submitted with it. Submissions of one key lock this
-- row one after another. Claims and outcomes neither read nor write it: whether the task still holds its key follows
-- from its state. A submission that has to know that a task still waits locks the task. So the task either takes over
-- the new args before it starts, or has started, and then the submission gets a task of its own.
--
-- Order of locks: keys by ascending (kind, key), then tasks by ascending id.

-- Returns for each submission the task that holds its key, if nothing has to be locked: the submission keeps that task,
-- and both rules hold while the task runs. Null: the key has to be locked.
create or replace function peers._find_kept(_kinds text[], _keys text[], _rules peers.unique_rule[]) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz;
begin
    if cardinality(_rules) = 1 and (_rules[1].on_duplicate <> 'keep' or _rules[1].unique_while = 'waiting') then
        return array[null::bigint];
    end if;
    _now := peers.now();
    return array(
        select holder.task_id
        from unnest(_kinds, _keys, _rules) with ordinality
            s(kind, key, unique_while, span, on_duplicate, wait, max_wait, place)
        left join lateral (
            select k.task_id
            from peers.unique_key k
            left join peers.task t on t.id = k.task_id
            where k.kind = s.kind and k.key = s.key
              and s.on_duplicate = 'keep' and s.unique_while <> 'waiting' and k.unique_while <> 'waiting'
              and peers._holds_key(k.unique_while, k.until, false, t.state, _now)
              and peers._holds_key(s.unique_while, k.since + s.span, false, t.state, _now)
        ) holder on true
        order by s.place
    );
end
$$;

-- Returns what is decided about each submission of a batch whose keys are locked. `_waiting`: the tasks that wait and
-- are locked, by ascending id. A key that this batch has just inserted has the id of the first submission that needs
-- it.
create or replace function peers._decide_submissions(
    _kinds text[], _keys text[], _rules peers.unique_rule[], _ids bigint[], _kept bigint[], _waiting bigint[],
    _now timestamptz
) returns peers.unique_decision[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return array(
        select row(
            i.place,
            case when i.kept is null and i.place >= i.new_place then _ids[i.new_place]
                 else coalesce(i.kept, i.holder) end,
            (i.kept is null and i.place = i.new_place) is true,
            i.kept is null and i.on_duplicate <> 'keep'
                and (i.place > i.new_place or i.place is distinct from i.new_place and i.is_waiting) is true,
            case
                when i.key is null then null
                when i.on_duplicate = 'debounce' and i.place >= i.new_place then _now + i.wait
                when i.on_duplicate = 'debounce' then
                    least(_now + i.wait, case when i.max_wait is not null then
                        greatest(_now, case when i.attempt > 0 then _now else i.since end + i.max_wait) end)
            end
        )::peers.unique_decision
        from (
            select h.*,
                   min(h.place) filter (where not h.held) over (
                       partition by h.kind, h.key, case when h.key is null then h.place end) as new_place
            from (
                select s.*, k.task_id as holder, k.since, t.attempt, w.is_waiting,
                       s.kept is not null
                       or coalesce(
                           k.task_id <> _ids[s.first_place]
                           and peers._holds_key(k.unique_while, k.until, w.is_waiting, t.state, _now)
                           and peers._holds_key(s.unique_while, k.since + s.span, w.is_waiting, t.state, _now),
                           false) as held
                from (
                    select u.*, min(u.place) filter (where u.kept is null) over (partition by u.kind, u.key)
                               as first_place
                    from unnest(_kinds, _keys, _rules, _kept) with ordinality
                        u(kind, key, unique_while, span, on_duplicate, wait, max_wait, kept, place)
                ) s
                left join peers.unique_key k on k.kind = s.kind and k.key = s.key and s.kept is null
                left join peers.task t on t.id = k.task_id
                cross join lateral (
                    -- a binary search: any (_waiting) would compare each task with each
                    select coalesce(_waiting[width_bucket(t.id, _waiting)] = t.id, false) as is_waiting
                ) w
            ) h
        ) i
        order by i.place
    );
end
$$;

-- Locks the keys of a batch and returns what is decided about each submission. `_ids` are the ids of the tasks that it
-- may create. A key stays held only while both the rule of its task and the rule of the submission say so. Of several
-- submissions of one key in the batch, the first creates the task. A null key is no key.
--
-- The INSERT locks the rows that exist and inserts the others, in one pass in the order of the keys: two batches wait
-- for each other and do not deadlock. Tasks that run are not locked, because that would delay their outcomes.
create or replace function peers._take_unique_keys(
    _kinds text[], _keys text[], _rules peers.unique_rule[], _ids bigint[]
) returns peers.unique_decision[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _kept constant bigint[] := peers._find_kept(_kinds, _keys, _rules);
    _now timestamptz := peers.now();
    _waiting bigint[];
    _decisions peers.unique_decision[];
    _any_new boolean;
    _any_debounced boolean;
begin
    insert into peers.unique_key as k (kind, key, task_id, unique_while, since, until)
    select distinct on (s.kind collate "C", s.key collate "C")
           s.kind, s.key, s.id, s.unique_while, _now, _now + s.span
    from unnest(_kinds, _keys, _rules, _ids, _kept) with ordinality
        s(kind, key, unique_while, span, on_duplicate, wait, max_wait, id, kept, place)
    where s.kept is null and s.key is not null
    order by s.kind collate "C", s.key collate "C", s.place
    on conflict (kind, key) do update set task_id = k.task_id where false;

    -- in a new statement, which sees what was committed while this session waited for a key
    _waiting := array(
        select t.id from peers.task t
        where t.id = any (array(
                  select k.task_id
                  from unnest(_kinds, _keys, _rules, _kept)
                      s(kind, key, unique_while, span, on_duplicate, wait, max_wait, kept)
                  cross join lateral (
                      select k.* from peers.unique_key k where k.kind = s.kind and k.key = s.key offset 0) k
                  where s.kept is null
                    and (s.on_duplicate <> 'keep' or s.unique_while = 'waiting' or k.unique_while = 'waiting')
              ))
          and t.state in ('blocked', 'scheduled', 'ready')
        order by t.id for no key update
    );
    _now := peers.now();

    _decisions := peers._decide_submissions(_kinds, _keys, _rules, _ids, _kept, _waiting, _now);
    perform peers._check_key_owner(
        array(select a.task_id from unnest(_decisions) a where not a.is_new), 'unique_key');
    select bool_or(a.is_new), bool_or(a.replaced and a.start_at is not null) into _any_new, _any_debounced
    from unnest(_decisions) a;
    if _any_new then
        update peers.unique_key k
        set task_id = s.task_id, unique_while = s.unique_while, since = _now, until = _now + s.span
        from unnest(_kinds, _keys, _rules, _decisions)
            s(kind, key, unique_while, span, on_duplicate, wait, max_wait, place, task_id, is_new, replaced, start_at)
        where k.kind = s.kind and k.key = s.key and s.is_new and k.task_id <> s.task_id;
    end if;
    if _any_debounced then
        -- a task that has started before waits for a retry: max_wait counts from this submission
        update peers.unique_key k set since = _now
        from unnest(_kinds, _keys, _decisions) s(kind, key, place, task_id, is_new, replaced, start_at)
        cross join lateral (
            select from peers.task t where t.id = s.task_id and t.attempt > 0 offset 0
        ) started
        where k.kind = s.kind and k.key = s.key and k.task_id = s.task_id and s.replaced and s.start_at is not null;
    end if;
    return _decisions;
end
$$;

-- Passes on the keys of new tasks (`_ids`) that were not inserted after all, because another session has just inserted
-- tasks with their idempotency_keys (`_known`). Those tasks then hold the keys, if they are of the same kind. The key
-- becomes free otherwise: a submission that replaces the holder of a key must not change a task of another kind.
create or replace function peers._hand_over_keys(_kinds text[], _keys text[], _ids bigint[], _known bigint[])
    returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    update peers.unique_key k set task_id = o.known
    from unnest(_kinds, _keys, _ids, _known) o(kind, key, id, known) join peers.task t on t.id = o.known
    where k.kind = o.kind and k.key = o.key and k.task_id = o.id and t.kind = o.kind;
    delete from peers.unique_key k
    using unnest(_kinds, _keys, _ids, _known) o(kind, key, id, known)
    where k.kind = o.kind and k.key = o.key and k.task_id = o.id and o.id <> o.known;
end
$$;

-- Deletes the rows whose tasks can never hold their keys again: they are completed, cancelled or gone, or the interval
-- is over. A dead task may be retried, and a running one may wait for its next attempt, so their rows stay. It locks
-- the rows first and looks again in a new statement: a submission may have taken the key for another task.
create or replace function peers._delete_free_keys(_now timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
as $$
declare
    _rows tid[];
begin
    _rows := array(
        select k.ctid from peers.unique_key k
        where k.until <= _now
           or k.until is null and not exists (
                  select from peers.task t where t.id = k.task_id and t.state not in ('completed', 'cancelled'))
        for update skip locked
    );
    delete from peers.unique_key k
    where k.ctid = any (_rows)
      and (k.until <= _now
           or k.until is null and not exists (
                  select from peers.task t where t.id = k.task_id and t.state not in ('completed', 'cancelled')));
end
$$;
