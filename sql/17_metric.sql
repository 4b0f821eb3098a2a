-- What the peers count. Each report of a peer adds to the row of the current minute, and later reports add minutes that
-- are more than an hour old to one row for each kind. So totals never fall, and the table stays small.

-- The free space lets an update write no index entry, because it changes no column of the primary key.
create table if not exists peers.metric (
    minute timestamptz not null,
    queue text collate "C" not null,
    kind text collate "C" not null,
    completed bigint not null default 0,
    failed bigint not null default 0,
    retried bigint not null default 0,
    dead bigint not null default 0,
    reclaimed bigint not null default 0,
    refused bigint not null default 0,
    stale bigint not null default 0,
    fenced bigint not null default 0,
    run_seconds double precision not null default 0,
    run_buckets bigint[] not null default '{}',
    wait_seconds double precision not null default 0,
    wait_buckets bigint[] not null default '{}',
    -- serves record_metrics and throughput: the rows of some minutes
    primary key (minute, queue, kind)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

comment on table peers.metric is
    'What the peers have counted: one row for each minute of the last hour, queue and kind, and one for all earlier '
    'minutes. Read it through the view peers.metrics, peers.histogram and peers.throughput.';
comment on column peers.metric.minute is 'The minute in which the peers reported it. -infinity: all earlier minutes.';
comment on column peers.metric.queue is 'The queue. Empty: what concerns no task.';
comment on column peers.metric.kind is 'The kind. (other): all kinds beyond the first 500 pairs of queue and kind.';
comment on column peers.metric.completed is 'Tasks whose completion was recorded.';
comment on column peers.metric.failed is 'Attempts that failed, without cancelled and snoozed ones.';
comment on column peers.metric.retried is 'Failed attempts after which the task is tried again.';
comment on column peers.metric.dead is 'Tasks that became dead letters.';
comment on column peers.metric.reclaimed is 'Attempts that failed because their peer was lost.';
comment on column peers.metric.refused is 'Outcomes that the database refused, such as a result that it cannot hold.';
comment on column peers.metric.stale is 'Outcomes that came too late: the peer had lost the task.';
comment on column peers.metric.fenced is 'How often a peer killed its own workers because its lease was about to end.';
comment on column peers.metric.run_seconds is 'How long all attempts ran, together.';
comment on column peers.metric.run_buckets is
    'How many attempts ran for up to each bound of peers.metric_bounds(), and more than the bound before. The last '
    'element counts those beyond all bounds.';
comment on column peers.metric.wait_seconds is
    'How long all claimed tasks had waited since they became ready, together.';
comment on column peers.metric.wait_buckets is 'How many tasks had waited for so long; the same form as run_buckets.';
