-- Unique keys: at most one task for each kind and key, while the rule of the submission says so.
--
-- The row of a key in peers.unique_key names the last task that was submitted with it. Submissions of one key lock this
-- row one after another. Claims and outcomes neither read nor write it: whether the task still holds its key follows
-- from its state. A submission that has to know that a task still waits locks the task. So the task either takes over
-- the new args before it starts, or has started, and then the submission gets a task of its own.
--
-- Order of locks: keys by ascending (kind, key), then tasks by ascending id.

-- Returns a text as an interval; null: it is not an interval.
create or replace function peers._parse_interval(_text text) returns interval
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return _text::interval;
exception when data_exception then
    return null;
end
$$;

-- Returns the first thing that is wrong with what a submission says about its unique key, with the bound and the
-- remedy. Null: nothing is wrong.
create or replace function peers._unique_problem(
    _kind text, _unique_key text, _unique_while text, _on_duplicate text, _wait interval, _max_wait interval,
    _has_parents boolean, _has_time boolean
) returns text
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _shortest constant interval := '1 millisecond';
    _longest constant interval := '365 days';
begin
    return case
        when _unique_key is null then
            'unique_while, on_duplicate, wait and max_wait need a unique_key'
        when _kind is null or length(_kind) not between 1 and 200 then
            'kind must have 1 to 200 characters, not ' || coalesce(length(_kind)::text, 'null')
        when length(_unique_key) not between 1 and 400 then
            'unique_key must have 1 to 400 characters, not ' || length(_unique_key)
        when _unique_key ~ '[[:cntrl:]]' then
            'unique_key must not contain control characters'
        when _unique_while not in ('waiting', 'unfinished')
             and (peers._parse_interval(_unique_while) between _shortest and _longest) is not true then
            'unique_while must be "waiting", "unfinished" or an interval of 1 millisecond to 365 days such as '
            '"10 minutes", not "' || left(_unique_while, 100) || '"'
        when _on_duplicate not in ('keep', 'replace', 'debounce') then
            'on_duplicate must be "keep", "replace" or "debounce", not "' || left(_on_duplicate, 100) || '"'
        when _on_duplicate = 'debounce' and _unique_while <> 'waiting' then
            'on_duplicate "debounce" needs unique_while "waiting": with another one, a submission that comes while the '
            'task runs would be lost'
        when _on_duplicate = 'debounce' and _wait is null then
            'on_duplicate "debounce" needs a wait, such as "5 seconds"'
        when _on_duplicate = 'debounce' and _has_time then
            'on_duplicate "debounce" sets the time of the start itself: leave scheduled_at out, or use "replace"'
        when (_on_duplicate = 'debounce') is not true and num_nonnulls(_wait, _max_wait) > 0 then
            'wait and max_wait need on_duplicate "debounce"'
        when _wait not between _shortest and _longest then
            'wait must be 1 millisecond to 365 days, not ' || _wait
        when _max_wait not between _wait and _longest then
            'max_wait must be at least wait (' || _wait || ') and at most 365 days, not ' || _max_wait
        when _on_duplicate <> 'keep' and _has_parents then
            'on_duplicate must be "keep" for a task with parents: a task that waits already does not get the parents '
            'of another submission'
    end;
end
$$;

-- Returns the rule of a submission that _unique_problem finds nothing wrong with. Null takes the defaults.
create or replace function peers._unique_rule(
    _unique_while text, _on_duplicate text, _wait interval, _max_wait interval
) returns peers.unique_rule
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case
        when _unique_while is null or _unique_while in ('waiting', 'unfinished')
            then row(coalesce(_unique_while, 'waiting'), null, coalesce(_on_duplicate, 'keep'), _wait, _max_wait
                 )::peers.unique_rule
        else row('interval', _unique_while::interval, coalesce(_on_duplicate, 'keep'), _wait, _max_wait
             )::peers.unique_rule
    end;
end
$$;

-- Returns whether a task holds its key, by one rule.
create or replace function peers._holds_key(
    _unique_while text, _until timestamptz, _is_waiting boolean, _state peers.task_state, _now timestamptz
) returns boolean
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case _unique_while
        when 'waiting' then _is_waiting
        when 'unfinished' then coalesce(_state in ('blocked', 'scheduled', 'ready', 'running'), false)
        else _until > _now
    end;
end
$$;

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
