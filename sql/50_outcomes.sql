-- Outcomes. An outcome is recorded only for the attempt that it belongs to: the lease with this token is the peer's,
-- and the task is running under this token. Each function takes a batch and returns what it did not record, with a
-- verdict:
--   stale      the attempt is over or is another peer's; the outcome is void
--   already    this outcome was recorded before (the reply to that commit was lost)
--   busy       another session has the task or one of its children locked; try again in a moment
--   too large  the result exceeds 1 MiB; fail the task instead
--
-- Order of locks. Complete, fail, release, reclaim, reconcile, leave, cancel and hold_lease take their locks in this
-- order, so that no two of them wait for each other in a circle:
--   1. the peer's row: claim, reclaim, declare_lost and leave; each of them skips a row that is locked
--   2. the table dependency_lock: sessions that add edges, and outcomes that wait for these (patient)
--   3. task rows: running tasks before tasks that wait, and each of the two by ascending id
--   4. leases by ascending token, after all tasks of the batch
-- Rows of cancel_request and task_progress are written only while their task is locked. A peer also gives up a lock
-- that it does not get soon (lock_timeout), because an application may lock task rows in any order and for any time.

-- Waits until no transaction that adds edges is open, and keeps new ones waiting until the end of this transaction.
-- Those transactions lock parents in a mode that they share. A steady stream of them would make a parent's outcome busy
-- for ever. Here they wait in a queue with it. If one of them stays open, this gives up.
create or replace function peers._wait_for_edges() returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '200ms'
as $$
begin
    lock table peers.dependency_lock in exclusive mode;
exception when lock_not_available then null;
end
$$;

-- Locks and returns those of the given attempts that the peer still holds, by ascending task. It leaves out tasks that
-- another session has locked. `_details`: one element for each attempt, or null.
create or replace function peers._lock_attempts(
    _peer_id uuid, inout _task_ids bigint[], inout _tokens uuid[], inout _details jsonb[]
)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    select coalesce(array_agg(t.id), '{}'), array_agg(t.token), array_agg(o.detail)
    into _task_ids, _tokens, _details
    from (
        select distinct on (o.task_id, o.token) o.task_id, o.token, o.detail
        from unnest(_task_ids, _tokens, _details) o(task_id, token, detail)
        where exists (select from peers.lease l where l.token = o.token and l.peer_id = _peer_id)
        order by o.task_id, o.token
    ) o
    cross join lateral (
        select t.id, t.token from peers.task t
        where t.id = o.task_id and t.token = o.token and t.state = 'running'
        for no key update skip locked
    ) t;
end
$$;

-- Takes attempts that have just ended off their leases, and deletes the leases that have no running task left.
-- `_tokens` has one element for each attempt.
create or replace function peers._close_attempts(_tokens uuid[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    perform from peers.lease l where l.token = any (_tokens) order by l.token for update;
    update peers.lease l set open = l.open - e.ended
    from (select o.token, count(*)::integer as ended from unnest(_tokens) o(token) group by o.token) e
    where l.token = e.token;
    with ended as (
        delete from peers.lease l where l.token = any (_tokens) and l.open = 0
        returning l.fair_key, l.claimed_at, least(cardinality(l.task_ids), l.most_running) as running
    )
    insert into peers.limit_use (limit_key, ended_at, seconds)
    select e.fair_key, n.now, e.running * greatest(extract(epoch from n.now - e.claimed_at), 0)
    from ended e cross join peers.now() n(now)
    where e.fair_key is not null;
    perform peers._forget_attempts(_tokens);
end
$$;

-- Deletes the cancel requests and the progress of attempts under these tokens that have ended.
create or replace function peers._forget_attempts(_tokens uuid[]) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if exists (select from peers.cancel_request r where r.token = any (_tokens))
       or exists (select from peers.task_progress g where g.token = any (_tokens)) then
        delete from peers.cancel_request r
        where r.token = any (_tokens) and not exists (
            select from peers.task t where t.id = r.task_id and t.token = r.token and t.state = 'running');
        delete from peers.task_progress g
        where g.token = any (_tokens) and not exists (
            select from peers.task t where t.id = g.task_id and t.token = g.token and t.state = 'running');
    end if;
end
$$;

-- Records a batch of failures (`_details` are the reports) or releases (`_details`: why the peer stopped each handler).
-- Returns the tasks for which it did.
create or replace function peers._record_outcomes(
    _peer_id uuid, _task_ids bigint[], _tokens uuid[], _outcome text, _details jsonb[]
) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    select * into _task_ids, _tokens, _details
    from peers._lock_attempts(_peer_id, _task_ids, _tokens, _details);
    if _task_ids <> '{}' then
        if _outcome = 'fail' then
            perform peers._record_failures(_task_ids, _tokens, _details);
        else
            perform peers._release_attempts(_task_ids, _tokens, _details);
        end if;
        if exists (select from peers.lease l where l.token = any (_tokens) and l.limit_keys is not null) then
            perform peers._notify();  -- another peer may have waited for the limit
        end if;
        perform peers._close_attempts(_tokens);
    end if;
    return _task_ids;
end
$$;

-- Records the outcomes that can be recorded without a long wait. An outcome locks more than its own task: the children,
-- the descendants that a death cancels, the lease. Peers that record outcomes of siblings wait there for each other,
-- for a short time. An application may keep such a row locked for much longer. So the batch waits once, up to this
-- lock_timeout. After that it is divided, and the outcomes that would have to wait are left out. `_skip_errors`:
-- outcomes that raise, such as in an application's trigger, are left out as well.
create or replace function peers._record_without_waiting(
    _peer_id uuid, _task_ids bigint[], _tokens uuid[], _outcome text, _details jsonb[],
    _skip_errors boolean default false
) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '200ms'
as $$
declare
    -- it begins at a random place: rows that stay locked cannot use up the time of those behind them in each call
    _first constant integer := 1 + floor(random() * cardinality(_task_ids));
begin
    perform peers._require_read_committed();
    begin
        return peers._record_outcomes(_peer_id, _task_ids, _tokens, _outcome, _details);
    exception when others then
        if sqlstate <> '55P03' and not _skip_errors then
            raise;
        end if;
    end;
    return peers._record_by_halves(
        _peer_id, _task_ids[_first:] || _task_ids[:_first - 1], _tokens[_first:] || _tokens[:_first - 1], _outcome,
        _details[_first:] || _details[:_first - 1], _skip_errors, clock_timestamp() + interval '500 milliseconds'
    );
end
$$;

-- Records a batch. If it cannot, it tries the batch's halves, and so isolates the outcomes that have to wait or raise.
-- After _until it divides no further.
create or replace function peers._record_by_halves(
    _peer_id uuid, _task_ids bigint[], _tokens uuid[], _outcome text, _details jsonb[], _skip_errors boolean,
    _until timestamptz
) returns bigint[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '1ms'
as $$
declare
    _half constant integer := cardinality(_task_ids) / 2;
begin
    begin
        return peers._record_outcomes(_peer_id, _task_ids, _tokens, _outcome, _details);
    exception when others then
        if sqlstate <> '55P03' then
            if not _skip_errors then
                raise;
            elsif _half = 0 then
                raise warning 'the outcome of task % (%) could not be recorded: %', _task_ids[1], _outcome, sqlerrm;
            end if;
        end if;
    end;
    if _half = 0 or clock_timestamp() >= _until then
        return '{}';
    end if;
    return peers._record_by_halves(_peer_id, _task_ids[:_half], _tokens[:_half], _outcome, _details[:_half],
                                   _skip_errors, _until)
        || peers._record_by_halves(_peer_id, _task_ids[_half + 1:], _tokens[_half + 1:], _outcome,
                                   _details[_half + 1:], _skip_errors, _until);
end
$$;

-- Returns why failures and releases were not recorded. The task's last token tells whether an outcome was recorded
-- before.
create or replace function peers._why_not_recorded(
    _peer_id uuid, _task_ids bigint[], _tokens uuid[], _recorded bigint[]
) returns table (task_id bigint, token uuid, verdict text)
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return query
    select o.task_id, o.token,
           case
               when t.state = 'running' and t.token = o.token and exists (
                        select from peers.lease l where l.token = o.token and l.peer_id = _peer_id) then 'busy'
               when exists (
                        select from peers.failure f
                        where f.task_id = o.task_id and f.token = o.token and f.error_type <> 'lost') then 'already'
               else 'stale'
           end
    from unnest(_task_ids, _tokens) o(task_id, token)
    left join peers.task t on t.id = o.task_id
    where o.task_id is not null and (o.task_id <> all (_recorded) or o.token is distinct from t.token);
end
$$;
