-- What a task's values may be. The submission trigger, the submission functions and the verbs share these checks.

-- Returns the size of a value as text, which is how it is read and sent; or some number above 1 MiB if the text is
-- larger than that. The size in storage is no measure: 1e131071 is 12 bytes of jsonb and 131 kB of text, and 4 kB
-- of such numbers are 50 MB. Some values exceed what Postgres can hold as one text. So a value of more than 4 kB
-- is only converted to text once its numbers are known to be short. This function never raises: text of 1 MiB
-- takes less than 5 MiB of jsonb, and a value that is nested so deep that a search through it could exhaust the
-- stack counts as too large.
create or replace function peers._text_size(value jsonb) returns bigint
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _mebibyte constant bigint := 1048576;
    _bytes constant bigint := pg_column_size(value #> '{}');  -- uncompressed
    _digits bigint;
begin
    if _bytes > 4096 then
        if _bytes > 5 * _mebibyte then
            return _bytes;
        elsif jsonb_path_exists(value, 'strict $.**{1000}') then
            return 1000 * _mebibyte;
        end if;
        -- a lower bound of the length of each number; the real length is at most ten times that plus 100 characters
        select sum(scale(n) + case
                       when abs(n) >= 1e100000 then 100000
                       when abs(n) >= 1e10000 then 10000
                       when abs(n) >= 1e1000 then 1000
                       when abs(n) >= 1e100 then 100
                       else 0
                   end)
        into _digits
        from (
            -- an array first: jsonb_path_query takes quadratic time to return its matches one by one
            select number::numeric as n
            from jsonb_array_elements(
                jsonb_path_query_array(value, 'strict $.** ? (@.type() == "number")')
            ) number
        ) numbers;
        if _digits > _mebibyte then
            return _digits;
        end if;
    end if;
    return octet_length(value::text);
end
$$;

-- Returns whether a timeout is 1 millisecond to 30 days. An interval with months or negative parts could add up to
-- that as well, but its parts could overflow a timestamp, and then every query of peers.running would fail.
create or replace function peers._is_valid_timeout(_timeout interval) returns boolean
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return _timeout between interval '1 millisecond' and interval '30 days'
        and extract(year from _timeout) = 0 and extract(month from _timeout) = 0 and extract(day from _timeout) >= 0
        and _timeout >= make_interval(days => extract(day from _timeout)::integer);
end
$$;

-- Returns what is wrong with a value that _text_size finds too large.
create or replace function peers._describe_too_large(_name text, _value jsonb) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if pg_column_size(_value #> '{}') <= 5 * 1048576 and jsonb_path_exists(_value, 'strict $.**{1000}') then
        return _name || ' must not be nested 1000 levels deep or more';
    end if;
    return _name || ' must be at most 1 MiB (1048576 bytes) of text, not ' || peers._text_size(_value)
        || '; store large data elsewhere and pass a reference to it';
end
$$;

-- Returns the first thing that is wrong with a task's values, with its bound and the remedy. Null: nothing is
-- wrong. Up to 100 bytes of jsonb hold 7 numbers at most, and so less than 1 MiB of text.
create or replace function peers._validate_task(
    _kind text, _args jsonb, _queue text, _max_attempts integer, _timeout interval,
    _idempotency_key text, _metadata jsonb, _scheduled_at timestamptz default null
) returns text
    language plpgsql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case
        when length(_kind) not between 1 and 200 then
            'kind must have 1 to 200 characters, not ' || length(_kind)
        when length(_queue) not between 1 and 200 then
            'queue must have 1 to 200 characters, not ' || length(_queue)
        when _kind ~ '[[:cntrl:]]' or _queue ~ '[[:cntrl:]]' or _idempotency_key ~ '[[:cntrl:]]' then
            'kind, queue and idempotency_key must not contain control characters'
        when jsonb_typeof(_args) <> 'object' then
            'args must be a JSON object such as {"path": "/srv/a.png"}, not a JSON ' || jsonb_typeof(_args)
        when pg_column_size(_args #> '{}') > 100 and peers._text_size(_args) > 1048576 then
            peers._describe_too_large('args', _args)
        when jsonb_typeof(_metadata) <> 'object' then
            'metadata must be a JSON object, not a JSON ' || jsonb_typeof(_metadata)
        when pg_column_size(_metadata #> '{}') > 100 and peers._text_size(_metadata) > 1048576 then
            peers._describe_too_large('metadata', _metadata)
        when _max_attempts not between 1 and 1000 then
            'max_attempts must be 1 to 1000, not ' || _max_attempts
        when not peers._is_valid_timeout(_timeout) then
            'timeout must be 1 millisecond to 30 days, in days or smaller units that are not negative, not '
            || _timeout
        when _scheduled_at not between '1900-01-01 00:00:00+00' and '9000-01-01 00:00:00+00' then
            'scheduled_at must be between the years 1900 and 9000, not ' || _scheduled_at
        when length(_idempotency_key) not between 1 and 500 then
            'idempotency_key must have 1 to 500 characters, not ' || length(_idempotency_key)
    end;
end
$$;
