-- Hold-offs: an outside system that asks to be left alone for a while is left alone by all peers together.

-- Where the database's clock was set back, a hold-off can begin in the future, and would last until then and
-- longer. It counts as one that begins now, noted once.
create or replace function peers._note_future_hold_off(_name text, _now timestamptz) returns void
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    update peers.hold_off h set held_at = _now, resume_at = _now + (h.resume_at - h.held_at)
    where h.name = any (array(
        select f.name from peers.hold_off f
        where f.name = _name and f.held_at > _now + interval '1 second' for no key update skip locked
    ));
end
$$;

create or replace function peers.hold_off(name text, span interval, reason text default null) returns interval
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
        raise exception 'the name of a hold-off must have 1 to 200 characters, not %', coalesce(length(name), 0)
            using errcode = 'PE009', hint = 'Name what is called, such as its URL.';
    end if;
    if span is null or span <= '0' or span > _longest then
        raise exception 'a hold-off must last for more than 0 and at most %, not %', _longest, span
            using errcode = 'PE009', hint = 'Hold off again when it is over, if need be.';
    end if;
    perform peers._note_future_hold_off(hold_off.name, _now);
    insert into peers.hold_off as t (name, held_at, resume_at, reason)
    values (hold_off.name, _now, _now + span, left(hold_off.reason, 1000))
    on conflict on constraint hold_off_pkey do update
        set held_at = excluded.held_at,
            resume_at = greatest(t.resume_at, excluded.resume_at),
            reason = case when excluded.resume_at >= t.resume_at then excluded.reason else t.reason end
    returning t.resume_at - _now into _left;
    return _left;
end
$$;

comment on function peers.hold_off is
    'Keeps all peers from calling the outside system of this name for the span; an earlier hold-off that ends later '
    'still holds. Returns how long the hold-off lasts from now.';

create or replace function peers.held_off(name text) returns interval
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _now timestamptz := peers.now();
begin
    perform peers._note_future_hold_off(held_off.name, _now);
    return coalesce((
        select t.resume_at - _now from peers.hold_off t where t.name = held_off.name and t.resume_at > _now
    ), interval '0');
end
$$;

comment on function peers.held_off is
    'Returns for how long nobody may call the outside system of this name; 0: it may be called.';

create or replace function peers.lift_hold_off(name text) returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    delete from peers.hold_off h where h.name = lift_hold_off.name and h.resume_at > peers.now();
    return found;
end
$$;

comment on function peers.lift_hold_off is
    'Ends the hold-off of this name: handlers that wait ask again within seconds. False: there was none.';
