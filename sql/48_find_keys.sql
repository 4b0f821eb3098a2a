-- How a claim finds the keys that have room.

-- Returns the rank that comes after another one; the first rank if that is null. It takes the next known rank without a
-- look, because the rows of tasks that have started would come first.
create or replace function peers._next_rank(
    _queue text, _rules peers.limit_rules, _known smallint[], _after smallint
) returns smallint
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _next constant smallint := (select min(k.rank) from unnest(_known) k(rank) where k.rank > coalesce(_after, -32769));
begin
    return coalesce((
        select r.rank from peers.ready_limited r
        where r.queue = _queue and r.kind = _rules.kind and r.layout = _rules.layout
          and r.rank > coalesce(_after, -32769) and r.rank < coalesce(_next, 32768)
        order by r.rank limit 1
    ), _next);
end
$$;

-- Returns keys of one kind that have room, at least _wanted if there are as many, by rank. Within a rank it begins with
-- the keys of _try, then at a random key, so that claims do not meet, and looks at more keys while it finds too few. It
-- takes no lock. any_unseen: it had enough keys or no more time before it had looked at all of them. any_full: it has
-- seen a key without room. opens_at: when the first of these opens.
create or replace function peers._find_keys(
    _queue text, _number integer, _rules peers.limit_rules, _resume peers.limited_resume, _wanted integer,
    _try bigint[], _now timestamptz, _until timestamptz,
    out keys peers.limited_key[], out any_unseen boolean, out any_full boolean, out opens_at timestamptz
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _lowest constant bigint := -9223372036854775808;
    _chunk constant integer := 64;
    _most_chunks constant integer := 5;
    -- of the keys that it has seen, the one that waits longest is next; of few keys it sees all
    _enough constant integer := _chunk * case when _rules.fair_at is null then 1 else 4 end;
    _ranks constant smallint[] := peers._known_ranks(_resume, _rules.kind);
    _rank smallint := peers._next_rank(_queue, _rules, _ranks, null);
    _known peers.known_keys;
    _from bigint;
    _after bigint;
    _wrapped boolean;
    _seen peers.seen_keys;
    _number_seen integer;
    _open record;
    _looked integer := 0;
    _total integer := 0;
begin
    keys := '{}';
    any_unseen := true;
    any_full := false;
    while _rank is not null loop
        _known := peers._known_keys(_resume, _rules.kind, _rank);
        if _try <> '{}' then
            _seen := peers._given_keys(_queue, _number, _rules, _rank, _known, _try);
            if coalesce(cardinality(_seen.limit_keys), cardinality(_seen.keys)) > 0 then
                _open := peers._open_seen(_rules, _rank, _seen, _now);
                keys := keys || _open.keys;
                any_full := any_full or _open.any_full;
                opens_at := least(opens_at, _open.opens_at);
            end if;
        end if;
        _from := (random() * 18e18 - 9e18)::bigint;
        _after := _from;
        _wrapped := false;
        loop
            _seen := peers._next_keys(
                _queue, _number, _rules, _rank, _known, _after, case when _wrapped then _from end, _chunk
            );
            _number_seen := coalesce(cardinality(_seen.limit_keys), cardinality(_seen.keys), 0);
            if _number_seen > 0 then
                _open := peers._open_seen(_rules, _rank, _seen, _now);
                keys := keys || array(select k from unnest(_open.keys) k where k.key <> all (_try));
                any_full := any_full or _open.any_full;
                opens_at := least(opens_at, _open.opens_at);
            end if;
            _total := _total + _number_seen;
            exit when cardinality(keys) >= _wanted and _total >= _enough;
            _looked := _looked + least(_number_seen, 1);
            if _looked >= _most_chunks or clock_timestamp() > _until then
                return;
            end if;
            exit when _number_seen < _chunk and _wrapped;
            _after := case when _number_seen < _chunk then _lowest else _seen.last_key end;
            _wrapped := _wrapped or _number_seen < _chunk;
        end loop;
        if cardinality(keys) >= _wanted then
            return;
        end if;
        _rank := peers._next_rank(_queue, _rules, _ranks, _rank);
    end loop;
    any_unseen := false;
end
$$;

-- Returns how long the tasks of a key have run lately. What was longer ago counts less.
create or replace function peers._used_lately(_limit_key bigint, _now timestamptz) returns double precision
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    return (
        select coalesce(sum(u.seconds * exp(-greatest(extract(epoch from _now - u.ended_at), 0)::float8 / 300)), 0)
        from peers.limit_use u where u.limit_key = _limit_key
    ) + (
        select coalesce(sum(least(l.open, l.most_running) * extract(epoch from _now - l.claimed_at)::float8), 0)
        from peers.lease l where l.fair_key = _limit_key
    );
end
$$;

-- Returns keys that _find_keys has found, with their turn. Keys of a fair limit take the turn of the most urgent of
-- them, and among themselves that of those with the fewest running tasks.
create or replace function peers._give_turns(
    _rules peers.limit_rules, _keys peers.limited_key[], _now timestamptz
) returns peers.limited_key[]
    language plpgsql
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if _rules.fair_at is null then
        return array(
            select row(k.rules, k.turn, k.rank, k.key, k.limit_keys, k.priority, k.position, k.room, 0, 0, 0)
                       ::peers.limited_key
            from unnest(_keys) k
        );
    end if;
    return array(
        select row(k.rules, min(k.priority) over (), k.rank, k.key, k.limit_keys, k.priority, k.position, k.room,
                   k.running, peers._used_lately(k.limit_keys[_rules.fair_at], _now), 0)::peers.limited_key
        from unnest(_keys) k
    );
end
$$;

-- Returns keys with room of all kinds, and the rules with what runs from before a limit held. complete: it has looked
-- at all keys of each kind until it had enough of them.
create or replace function peers._find_in_all_kinds(
    _call peers.claim_call, inout rules peers.limit_rules[], _resume peers.limited_resume, _wanted integer,
    _try bigint[],
    out keys peers.limited_key[], out complete boolean, out any_unseen boolean, out any_full boolean,
    out opens_at timestamptz
)
    language plpgsql volatile
    set search_path = pg_catalog, peers, pg_temp
as $$
declare
    _look record;
begin
    keys := '{}';
    complete := true;
    any_unseen := false;
    any_full := false;
    for _i in 1 .. cardinality(rules) loop
        rules[_i] := peers._count_before(rules[_i]);
        _look := peers._find_keys(
            _call.queue, _i, rules[_i], _resume, _wanted, _try, _call.claimed_at, _call.until
        );
        keys := keys || peers._give_turns(rules[_i], _look.keys, _call.claimed_at);
        complete := complete and (not _look.any_unseen or cardinality(_look.keys) >= _wanted);
        any_unseen := any_unseen or _look.any_unseen;
        any_full := any_full or _look.any_full;
        opens_at := least(opens_at, _look.opens_at);
    end loop;
end
$$;
