-- What handlers declare about their kinds.

-- Writes only what has changed, so that it rarely waits for a session that has a kind's row locked.
create or replace function peers._declare_kinds(_kinds jsonb, _now timestamptz) returns void
    language sql
    set search_path = pg_catalog, peers, pg_temp
as $$
    insert into peers.kind (kind, queue, priority, max_attempts, timeout, backoff_base, backoff_cap, declared_at)
    select d.kind, d.queue, d.priority, d.max_attempts, d.timeout, d.backoff_base, d.backoff_cap, _now
    from (
        select distinct on (k.kind)
               k.kind, coalesce(k.queue, 'default') as queue, coalesce(k.priority, 100) as priority,
               coalesce(k.max_attempts, 5) as max_attempts, k.timeout,
               coalesce(k.backoff_base, '1 second') as backoff_base, coalesce(k.backoff_cap, '1 hour') as backoff_cap
        from jsonb_to_recordset(_kinds)
            k(kind text, queue text, priority smallint, max_attempts smallint, timeout interval,
              backoff_base interval, backoff_cap interval)
        order by k.kind
    ) d
    left join peers.kind k on k.kind = d.kind
    where (k.queue, k.priority, k.max_attempts, k.timeout, k.backoff_base, k.backoff_cap)
          is distinct from (d.queue, d.priority, d.max_attempts, d.timeout, d.backoff_base, d.backoff_cap)
    order by d.kind
    on conflict (kind) do update
    set queue = excluded.queue, priority = excluded.priority, max_attempts = excluded.max_attempts,
        timeout = excluded.timeout, backoff_base = excluded.backoff_base, backoff_cap = excluded.backoff_cap,
        declared_at = excluded.declared_at;
$$;

create or replace function peers.kind_defaults(kind text) returns jsonb
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select coalesce(
        (select jsonb_build_object('queue', k.queue, 'priority', k.priority) from peers.kind k
         where k.kind = kind_defaults.kind),
        '{}'
    )
$$;

comment on function peers.kind_defaults is
    'Returns the queue and the priority that the handler of a kind declares, {"queue", "priority"}. It is {} if no '
    'peer has had a handler for the kind. `peers submit` and `peers schedule add` use it. An INSERT and peers.submit '
    'do not: they use the queue default unless they name another.';
