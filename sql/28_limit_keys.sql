-- Which limits hold for a task, and the hashes of their keys.
--
-- The first two functions have no search_path: the names in their bodies are resolved when they are created. So queries
-- inline them. A call would cost 1.1 us for each key.

-- Returns the hash of a limit and of the value that its key has in args. Null stands for a missing value.
create or replace function peers._limit_key(_seed bigint, _key text, _args jsonb) returns bigint
    language sql immutable
    return hashtextextended(coalesce('=' || (_args #>> string_to_array(_key, '.')), ''), _seed);

-- Returns one row: the layout of the limits that hold for a task, whether one of them is fair, and the task's limit
-- keys, by the limit's name. All are null if the task is under no limit.
create or replace function peers._limits_of(_queue text, _kind text, _args jsonb)
returns table (layout bigint, fair boolean, limit_keys bigint[])
    language sql stable
begin atomic
    select hash_array_extended(array_agg(l.seed order by l.name), 0), bool_or(l.fair),
           array_agg(peers._limit_key(l.seed, l.key, _args) order by l.name)
    from peers.limit l where l.kind = _kind or l.queue = _queue;
end;

-- Returns the layout of the limits that hold for the tasks of a kind in a queue. Null: none does.
create or replace function peers._layout(_queue text, _kind text) returns bigint
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return (select l.layout from peers._limits_of(_queue, _kind, null) l);
end
$$;
