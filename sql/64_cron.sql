-- What a schedule's cron expression and time zone may be. peers/schedules/ computes the due times, and refuses the same
-- values with the same messages.

-- Returns the value of one number or name of a field, or null.
create or replace function peers._cron_number(_field text, _text text) returns integer
    language plpgsql immutable strict
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _number integer;
begin
    if _field = 'month' then
        _number := array_position('{JAN,FEB,MAR,APR,MAY,JUN,JUL,AUG,SEP,OCT,NOV,DEC}'::text[], _text);
    elsif _field = 'weekday' then
        _number := array_position('{SUN,MON,TUE,WED,THU,FRI,SAT}'::text[], _text) - 1;
    end if;
    if _number is null and _text ~ '^[0-9]{1,9}$' then
        _number := _text::integer;
    end if;
    return case when _number between peers._cron_first(_field) and peers._cron_last(_field) then _number end;
end
$$;

create or replace function peers._cron_first(_field text) returns integer
    language plpgsql immutable strict
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case when _field in ('day of month', 'month') then 1 else 0 end;
end
$$;

create or replace function peers._cron_last(_field text) returns integer
    language plpgsql immutable strict
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case _field
        when 'minute' then 59 when 'hour' then 23 when 'day of month' then 31 when 'month' then 12 else 7
    end;
end
$$;

create or replace function peers._cron_examples(_field text) returns text
    language plpgsql immutable strict
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return case _field
        when 'minute' then '0 or 5,35 or 10-20 or */15'
        when 'hour' then '2 or 9-17 or 22-4 or */6'
        when 'day of month' then '1 or 1,15 or L or */2'
        when 'month' then '1 or JAN,JUL or NOV-FEB or */3'
        else 'MON-FRI or 0 or MON#1 or 5L'
    end;
end
$$;

-- Returns what is wrong with one item of a field's list; null: nothing.
create or replace function peers._cron_item_problem(_field text, _item text) returns text
    language plpgsql immutable strict
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _base constant text := split_part(_item, '/', 1);
    _step constant text := substr(_item, length(_base) + 2);
    _start constant text := split_part(_base, '-', 1);
    _end constant text := substr(_base, length(_start) + 2);
begin
    if _field = 'day of month' and _item = 'L' then
        return null;
    elsif _field = 'weekday' and _item ~ '^[0-9A-Z]+(L|#[1-5])$' then
        if peers._cron_number(_field, (regexp_match(_item, '^([0-9A-Z]+)(L|#[1-5])$'))[1]) is not null then
            return null;
        end if;
    elsif _base = '*' or peers._cron_number(_field, _start) is not null
        and (_start = _base or peers._cron_number(_field, _end) is not null)
    then
        if _base = _item or _step ~ '^[0-9]{1,9}$' and _step::integer between 1 and peers._cron_last(_field) then
            return null;
        end if;
        return 'the step of ' || _field || ' must be 1 to ' || peers._cron_last(_field) || ', not "' || _item
            || '"; examples: ' || peers._cron_examples(_field) || '; steps start again at '
            || peers._cron_first(_field) || ': for other periods use every';
    end if;
    return _field || ' must be ' || peers._cron_first(_field) || ' to ' || peers._cron_last(_field)
        || case _field
               when 'day of month' then ' or L'
               when 'month' then ' or JAN to DEC'
               when 'weekday' then ' or SUN to SAT (0 and 7 are Sunday)'
               else ''
           end
        || ', not "' || _item || '"; examples: ' || peers._cron_examples(_field);
end
$$;

-- Returns the first thing that is wrong with a field; null: nothing.
create or replace function peers._cron_field_problem(_field text, _text text) returns text
    language plpgsql immutable strict
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _item text;
    _problem text;
begin
    foreach _item in array string_to_array(_text, ',') loop
        continue when _item = '*';
        _problem := peers._cron_item_problem(_field, _item);
        exit when _problem is not null;
    end loop;
    return _problem;
end
$$;

-- Returns the days or months of a field that has nothing wrong. -1 is the last day of the month.
create or replace function peers._cron_numbers(_field text, _text text) returns integer[]
    language plpgsql immutable strict
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _first constant integer := peers._cron_first(_field);
    _last constant integer := peers._cron_last(_field);
begin
    return (
        select array_agg(case item when 'L' then -1 else (number - _first) % (_last - _first + 1) + _first end)
        from unnest(string_to_array(_text, ',')) item,
            lateral (
                select split_part(item, '/', 1) as base,
                    coalesce(nullif(split_part(item, '/', 2), ''), '1')::integer as step
            ) parts,
            lateral (
                select coalesce(peers._cron_number(_field, split_part(base, '-', 1)), _first) as start,
                    case
                        when base like '%-%' then peers._cron_number(_field, split_part(base, '-', 2))
                        when base = '*' or base <> item then _last
                    end as stop
            ) bounds,
            generate_series(
                start, case when stop < start then stop + _last - _first + 1 else coalesce(stop, start) end, step
            ) number
    );
end
$$;

-- Returns whether any date matches a day, a month and a weekday that must all match. In 400 years each date falls on
-- each weekday, so only weekdays that are limited to one week of the month exclude a date.
create or replace function peers._cron_has_date(_day text, _month text, _weekday text) returns boolean
    language plpgsql immutable strict
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _days constant integer[] := peers._cron_numbers('day of month', _day);
    _weeks constant integer[] := array(
        select case when item ~ '#' then split_part(item, '#', 2)::integer when item ~ 'L' then -1 else 0 end
        from unnest(string_to_array(_weekday, ',')) item
    );
begin
    return exists (
        select
        from unnest(peers._cron_numbers('month', _month)) month,
            unnest(
                case when month = 2 then array[28, 29] when month in (4, 6, 9, 11) then array[30] else array[31] end
            ) length,
            unnest(_days) number,
            lateral (select case number when -1 then length else number end as day) days
        where day <= length
            and (0 = any (_weeks) or (day + 6) / 7 = any (_weeks) or -1 = any (_weeks) and day + 7 > length)
    );
end
$$;

-- Returns what is wrong with a cron expression, with the bound and an example; null: nothing.
create or replace function peers._cron_problem(_cron text) returns text
    language plpgsql immutable strict
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _upper constant text := btrim(upper(_cron collate "C"), E'\t ');
    _fields constant text[] := case when _upper <> '' then regexp_split_to_array(_upper, '[\t ]+') else '{}' end;
    _nicknames constant text[] := '{@YEARLY,@ANNUALLY,@MONTHLY,@WEEKLY,@DAILY,@MIDNIGHT,@HOURLY}';
    _problem text;
begin
    if _cron collate "C" ~ '[^\t -~]' then
        return 'cron must have printable ASCII characters only; example: 0 2 * * *';
    elsif length(_cron) > 200 then
        return 'cron must have at most 200 characters, not ' || length(_cron) || '; example: 0 2 * * *';
    elsif _upper = any (_nicknames) then
        return null;
    elsif _upper like '@%' then
        return 'cron must not be "' || _upper || '"; use @hourly, @daily, @weekly, @monthly or @yearly, or five '
            'fields; example: 0 2 * * *';
    elsif cardinality(_fields) <> 5 then
        return 'cron must have five fields (minute, hour, day of month, month, weekday), not '
            || cardinality(_fields) || '; example: 0 2 * * MON-FRI; there is no field for seconds or years: for a '
            'period below one minute use every';
    end if;
    _problem := coalesce(
        peers._cron_field_problem('minute', _fields[1]), peers._cron_field_problem('hour', _fields[2]),
        peers._cron_field_problem('day of month', _fields[3]), peers._cron_field_problem('month', _fields[4]),
        peers._cron_field_problem('weekday', _fields[5])
    );
    if _problem is null and _fields[3] <> '*' and (_fields[3] like '*%' or _fields[5] like '*%')
        and not peers._cron_has_date(_fields[3], _fields[4], _fields[5])
    then
        return 'no date has day of month "' || _fields[3] || '", month "' || _fields[4] || '" and weekday "'
            || _fields[5] || '"; example: 0 2 L 2 * for the last day of February';
    end if;
    return _problem;
end
$$;

-- Returns what is wrong with a time zone, with an example; null: nothing. Postgres knows more than the names of the
-- IANA database. In POSIX notation UTC+3 is three hours behind UTC, so names with digits are refused, except those of
-- the area Etc. set_config returns the name as the database spells it; Python needs that spelling.
create or replace function peers._timezone_problem(_timezone text) returns text
    language plpgsql volatile strict
    set search_path = pg_catalog, peers, pg_temp
    set timezone = 'UTC'
as $$
begin
    if _timezone collate "C" ~ '^([A-Z][A-Za-z]*([/_-][A-Za-z]+)*|Etc/GMT([+]([0-9]|1[0-2])|-([0-9]|1[0-4])))$'
        and length(_timezone) <= 100 and _timezone <> 'Factory'
        and set_config('timezone', _timezone, true) = _timezone
    then
        return null;
    end if;
    return peers._describe_timezone(_timezone);
exception when invalid_parameter_value then
    return peers._describe_timezone(_timezone);
end
$$;

create or replace function peers._describe_timezone(_timezone text) returns text
    language plpgsql immutable strict
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return 'timezone must be a name of the IANA time zone database, such as Europe/Berlin or UTC, not "'
        || left(_timezone, 100) || '"; a fixed offset is Etc/GMT-3 for three hours ahead of UTC';
end
$$;
