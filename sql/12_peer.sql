-- What peers keep: themselves, the kinds that they can run, and the external systems that they must not call now.

create table if not exists peers.peer (
    -- serves heartbeat and claim
    id uuid primary key default gen_random_uuid(),
    host text not null,
    pid integer not null,
    queues jsonb not null,
    kinds text[] not null,
    lease_timeout interval not null,
    joined_at timestamptz not null,
    heartbeat_at timestamptz not null,
    healthy_since timestamptz not null,
    -- what peers on the same host need to recognize the process (peers.siblings)
    host_id text,
    process_start bigint,
    liveness_lock text,
    version text,
    lost_at timestamptz,
    lost_because text,
    constraint "a lease lasts 1 second to 1 day"
        check (lease_timeout between interval '1 second' and interval '1 day'),
    constraint "a process is known or not" check (num_nulls(host_id, process_start, liveness_lock) in (0, 3))
) with (fillfactor = 50);

comment on table peers.peer is
    'One row is one peer process. A process gets a new identity at every start.';
comment on column peers.peer.id is 'A random identity, never the host name, so that no two peers share one.';
comment on column peers.peer.host is 'The host that it runs on.';
comment on column peers.peer.pid is 'Its process id on that host.';
comment on column peers.peer.queues is 'The queues that it serves, each with its number of slots.';
comment on column peers.peer.kinds is 'The kinds that it can run. It never receives tasks of other kinds.';
comment on column peers.peer.lease_timeout is 'How long its leases last after its last heartbeat.';
comment on column peers.peer.joined_at is 'When it joined.';
comment on column peers.peer.heartbeat_at is
    'Its last heartbeat. A heartbeat writes one row, however many tasks the peer holds.';
comment on column peers.peer.healthy_since is
    'Since when the database has been reachable, as far as this peer knows: since then no two heartbeats were further '
    'apart than half a lease_timeout.';
comment on column peers.peer.host_id is
    'The running system and the process namespace. Two peers with the same one can see each other''s processes. Null: '
    'not known.';
comment on column peers.peer.process_start is
    'When the process started, in clock ticks since the system started: a later process with the same pid has another.';
comment on column peers.peer.liveness_lock is
    'The file that the peer and its workers keep locked for as long as one of them lives.';
comment on column peers.peer.version is 'The version of the package that it runs. Null: not known.';
comment on column peers.peer.lost_at is 'When it was declared lost. A lost peer has to join again.';
comment on column peers.peer.lost_because is 'Why: its lease ended, or a peer on the same host saw that it had ended.';

create table if not exists peers.kind (
    -- serves fail: the policy of a failed attempt; and join
    kind text collate "C" primary key,
    queue text not null default 'default',
    priority smallint not null default 100,
    max_attempts smallint not null default 5,
    timeout interval,
    backoff_base interval not null default interval '1 second',
    backoff_cap interval not null default interval '1 hour',
    declared_at timestamptz not null default now(),
    constraint "a queue has 1 to 200 characters" check (length(queue) between 1 and 200),
    constraint "max_attempts is 1 to 1000" check (max_attempts between 1 and 1000),
    constraint "a timeout is 1 millisecond to 30 days"
        check (timeout between interval '1 millisecond' and interval '30 days'),
    constraint "a backoff is 0 to 365 days, and its base no longer than its cap"
        check (backoff_base between interval '0' and backoff_cap and backoff_cap <= interval '365 days')
);

comment on table peers.kind is
    'What handlers declare about their kind. A peer writes it when it joins; the last one to join wins.';
comment on column peers.kind.kind is 'The kind.';
comment on column peers.kind.queue is
    'The queue of its tasks, for those who submit by the name of the kind: see peers.kind_defaults.';
comment on column peers.kind.priority is 'The priority of its tasks, in the same way.';
comment on column peers.kind.max_attempts is 'The limit for tasks that have none of their own.';
comment on column peers.kind.timeout is 'The time limit for tasks that have none of their own. Null: no limit.';
comment on column peers.kind.backoff_base is
    'The longest backoff after the first failure. It doubles with each further failure.';
comment on column peers.kind.backoff_cap is 'The upper bound of every backoff.';
comment on column peers.kind.declared_at is 'When a peer last declared a change.';

create table if not exists peers.paused_queue (
    queue text primary key,
    paused_at timestamptz not null,
    paused_by name not null default session_user
);

comment on table peers.paused_queue is 'The queues that no peer claims from: peers.pause and peers.resume.';
comment on column peers.paused_queue.queue is 'The queue.';
comment on column peers.paused_queue.paused_at is 'When it was paused.';
comment on column peers.paused_queue.paused_by is 'The database role that paused it.';

create table if not exists peers.cooldown (
    name text primary key
        constraint name_has_1_to_200_characters check (length(name) between 1 and 200),
    started_at timestamptz not null,
    ends_at timestamptz not null,
    reason text
);

comment on table peers.cooldown is
    'External systems (such as the URL of a model) that no handler may call for a while. Handlers check this '
    'before they call.';
comment on column peers.cooldown.name is 'The name that the handlers use for the external system.';
comment on column peers.cooldown.started_at is 'When the last cooldown was started.';
comment on column peers.cooldown.ends_at is 'No handler may call the system before this time.';
comment on column peers.cooldown.reason is 'The reason, as the external system gave it.';
