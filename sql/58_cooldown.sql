-- Cooldowns: all peers stop calling an external system for a while, because it asked them to.
--
-- A cooldown with the name of a limit shuts that limit: no task under it starts, so that none has to wait in a handler.
-- Other cooldowns are rows of peers.cooldown, which handlers check before they call.

-- Shuts the limit of this name, if there is one, and halves it if it learns. While it is shut it is not halved again:
-- the tasks that ran when the first one was refused are refused as well. Returns how long it is shut from now.
create or replace function peers._shut_limit(_name text, _now timestamptz, _duration interval, _reason text)
returns interval
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _left interval;
begin
    update peers.limit l
    set shut_until = greatest(l.shut_until, _now + _duration),
        shut_because = case when l.shut_until > _now + _duration then l.shut_because else left(_reason, 1000) end,
        learned = case
            when l.learns and (l.shut_until > _now) is not true then greatest(1, ceil(peers._most_now(l, _now) / 2.0))
            else l.learned
        end,
        learned_at = case when l.learns and (l.shut_until > _now) is not true then _now else l.learned_at end
    where l.name = _name
    -- one that an operator has shut has no end: the handlers ask again after a day
    returning case when isfinite(l.shut_until) then l.shut_until - _now else interval '1 day' end into _left;
    return _left;
end
$$;

-- If the database's clock was set back, a cooldown can start in the future. It would then last for too long, so
-- it counts as one that starts now. The first reader stores that.
create or replace function peers._correct_future_cooldown(_name text, _now timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    update peers.cooldown c set started_at = _now, ends_at = _now + (c.ends_at - c.started_at)
    where c.name = any (array(
        select f.name from peers.cooldown f
        where f.name = _name and f.started_at > _now + interval '1 second' for no key update skip locked
    ));
end
$$;

create or replace function peers.start_cooldown(name text, duration interval, reason text default null)
    returns interval
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
    set lock_timeout = '1s'
as $$
declare
    _now timestamptz := peers.now();
    _longest constant interval := '1 day';
    _left interval;
begin
    if length(name) not between 1 and 200 or name is null then
        raise exception 'the name of a cooldown must have 1 to 200 characters, not %', coalesce(length(name), 0)
            using errcode = 'PE009', hint = 'Use the name of the external system, such as its URL.';
    end if;
    if duration is null or duration <= '0' or duration > _longest then
        raise exception 'a cooldown must last for more than 0 and at most %, not %', _longest, duration
            using errcode = 'PE009', hint = 'If it is not enough, start another cooldown when this one has ended.';
    end if;
    _left := peers._shut_limit(start_cooldown.name, _now, duration, reason);
    if _left is not null then
        return _left;
    end if;
    perform peers._correct_future_cooldown(start_cooldown.name, _now);
    insert into peers.cooldown as t (name, started_at, ends_at, reason)
    values (start_cooldown.name, _now, _now + duration, left(start_cooldown.reason, 1000))
    on conflict on constraint cooldown_pkey do update
        set started_at = excluded.started_at,
            ends_at = greatest(t.ends_at, excluded.ends_at),
            reason = case when excluded.ends_at >= t.ends_at then excluded.reason else t.reason end
    returning t.ends_at - _now into _left;
    return _left;
end
$$;

comment on function peers.start_cooldown is
    'Stops all peers from calling the external system of this name for this duration. A cooldown that ends later is '
    'kept. If a limit has this name, it is shut instead: no task under it starts. Returns how long the cooldown lasts '
    'from now.';

create or replace function peers.cooldown_left(name text) returns interval
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
begin
    perform peers._correct_future_cooldown(cooldown_left.name, _now);
    return greatest(
        interval '0',
        (select t.ends_at - _now from peers.cooldown t where t.name = cooldown_left.name),
        (select l.shut_until - _now from peers.limit l where l.name = cooldown_left.name and isfinite(l.shut_until)),
        (select interval '1 day' from peers.limit l where l.name = cooldown_left.name and l.shut_until = 'infinity')
    );
end
$$;

comment on function peers.cooldown_left is
    'Returns for how long no handler may call the external system of this name. 0: it may be called.';

create or replace function peers.end_cooldown(name text, reason text default null) returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    update peers.limit l set shut_until = null, shut_because = null
    where l.name = end_cooldown.name and l.shut_until > peers.now();
    if not found then
        delete from peers.cooldown c where c.name = end_cooldown.name and c.ends_at > peers.now();
        if not found then
            return false;
        end if;
    end if;
    perform peers._record_action(
        'end_cooldown', jsonb_build_object('cooldown', end_cooldown.name), end_cooldown.reason);
    return true;
end
$$;

comment on function peers.end_cooldown is
    'Ends the cooldown of this name. Handlers that wait for it check again within seconds. False: there was none. It '
    'writes peers.action, with the reason.';
