-- What a submission says about its unique key, and how long a task holds a key.

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
