-- The roles, and what each may do. They are optional: an application that connects as the owner needs none of them.
-- Roles belong to the whole server. A migration without CREATEROLE does not create them and says so.

do $$
begin
    if not exists (select from pg_roles where rolname = 'peers_submitter') then
        create role peers_submitter nologin;
    end if;
    if not exists (select from pg_roles where rolname = 'peers_worker') then
        create role peers_worker nologin;
    end if;
    if not exists (select from pg_roles where rolname = 'peers_operator') then
        create role peers_operator nologin;
    end if;
    if not exists (select from pg_roles where rolname = 'peers_reader') then
        create role peers_reader nologin;
    end if;
exception
    when insufficient_privilege then
        raise notice 'the roles peers_submitter, peers_worker, peers_operator and peers_reader were not created: '
            'that needs CREATEROLE';
    when duplicate_object or unique_violation then
        null;  -- another database of this server is being migrated at the same moment
end
$$;

revoke all on schema peers from public;
revoke all on all tables in schema peers from public;
revoke all on all functions in schema peers from public;

do $$
begin
    if (select count(*) from pg_roles
        where rolname in ('peers_submitter', 'peers_worker', 'peers_operator', 'peers_reader')) < 4 then
        return;
    end if;

    grant usage on schema peers to peers_submitter, peers_worker, peers_operator, peers_reader;
    grant execute on function peers.contract_version(), peers.now()
        to peers_submitter, peers_worker, peers_operator, peers_reader;
    grant execute on function peers.await_results(bigint[]), peers.kind_defaults(text)
        to peers_submitter, peers_worker, peers_operator, peers_reader;

    -- A submitter inserts, and cannot set what the scheduler keeps. It may read the state of a task, but neither its
    -- contents nor its key. ON CONFLICT DO NOTHING needs no right to read the key, as long as it names no column.
    grant insert (kind, args, queue, priority, scheduled_at, max_attempts, timeout, idempotency_key, metadata, graph_id)
        on peers.task to peers_submitter;
    grant insert (name, idempotency_key, metadata) on peers.graph to peers_submitter;
    grant select (id) on peers.graph to peers_submitter;
    grant select (id, state) on peers.task to peers_submitter;
    grant insert (parent_id, child_id, on_parent_failure) on peers.dependency to peers_submitter;
    grant select (parent_id, child_id) on peers.dependency to peers_submitter;
    grant execute on function
        peers.submit(text, jsonb, text, integer, timestamptz, integer, interval, bigint[],
                     peers.parent_failure_policy, text, jsonb, bigint, text, text, text, interval, interval),
        peers.submit_unique(text, jsonb, text, integer, timestamptz, integer, interval, bigint[],
                            peers.parent_failure_policy, text, jsonb, bigint, text, text, text, interval, interval),
        peers.submit_many_unique(text, json, text[], text, integer, timestamptz, integer, interval, bigint[],
                                 peers.parent_failure_policy, jsonb, bigint, text, text, interval, interval),
        peers.submit_many(text, json, text, integer, timestamptz, integer, interval, bigint[],
                          peers.parent_failure_policy, jsonb, bigint),
        peers.submit_graph(jsonb, text, text, jsonb)
        to peers_submitter, peers_worker, peers_operator;
    -- what the scheduler keeps cannot be inserted
    grant insert (name, cron, every, anchor, timezone, kind, args, queue, priority, max_attempts, timeout, metadata,
                  misfire, catch_up, overlap, jitter, expect_within, paused_at)
        on peers.schedule to peers_submitter, peers_operator;
    grant select (name) on peers.schedule to peers_submitter;
    grant execute on function peers.add_schedule(jsonb, boolean) to peers_submitter, peers_worker, peers_operator;

    -- a worker calls the verbs of a peer, and touches no table
    grant execute on function
        peers.join(text, integer, jsonb, jsonb, interval, integer, jsonb), peers.heartbeat(uuid),
        peers.siblings(uuid), peers.declare_lost(uuid, uuid[], uuid[], integer[], integer[]),
        peers.next_reclaim(uuid),
        peers.claim(uuid, text, integer, peers.claim_resume),
        peers.claim_limited(uuid, text, integer, integer, jsonb, peers.claim_resume, bigint[], peers.limited_resume),
        peers.place_limited(integer),
        peers.complete(uuid, uuid[], bigint[], jsonb, boolean), peers.fail(uuid, jsonb, boolean),
        peers.release(uuid, bigint[], uuid[], text[], boolean), peers.reconcile(uuid, uuid[]),
        peers.reclaim(uuid, integer),
        peers.leave(uuid), peers.promote(integer), peers.next_due(),
        peers.progress(uuid, bigint, uuid, bigint, bigint),
        peers.hold_lease(uuid, bigint, uuid),
        peers.parent_results(bigint), peers.apply_retention(interval, interval, integer), peers.unrunnable(),
        peers.start_cooldown(text, interval, text), peers.cooldown_left(text), peers.declare_limits(uuid, jsonb),
        peers.shut_limit_of_task(bigint, interval, text),
        peers.due_schedules(integer, boolean), peers.fire_schedules(jsonb), peers.run_backfills(jsonb),
        peers.declare_schedules(uuid, jsonb), peers.task_due_at(bigint), peers.prune_schedule_runs(interval, integer)
        to peers_worker;

    -- an operator reads everything and acts through the verbs; limits are changed in their table
    grant insert, update, delete on peers.limit to peers_operator;
    grant select on all tables in schema peers to peers_operator, peers_reader;
    grant execute on function peers.explain(bigint), peers.unrunnable(), peers.readable(jsonb),
        peers.limit_keys(text, integer), peers.limit_settings(peers.limit), peers.limit_most_now(peers.limit),
        peers.explain_schedule(text, timestamptz), peers.schedule_settings(peers.schedule)
        to peers_operator, peers_reader;
    grant execute on function
        peers.cancel(bigint), peers.change(bigint, integer, timestamptz, jsonb, integer, interval),
        peers.retry(bigint, jsonb), peers.discard(bigint), peers.pause(text, text), peers.resume(text, text),
        peers.cancel_graph(bigint, boolean, text), peers.pause_graph(bigint, text), peers.resume_graph(bigint, text),
        peers.retry_graph(bigint, boolean, text),
        peers.check(boolean), peers.parent_results(bigint),
        peers.place_limited(integer), peers.set_limit(text, jsonb, text), peers.remove_limit(text, text),
        peers.shut_limit(text, timestamptz, text), peers.open_limit(text, text),
        peers.start_cooldown(text, interval, text), peers.cooldown_left(text), peers.end_cooldown(text, text),
        peers.pause_schedule(text, text), peers.resume_schedule(text, text), peers.remove_schedule(text, text),
        peers.run_schedule(text, text), peers.backfill_schedule(text, timestamptz, timestamptz, text),
        peers.cancel_backfill(bigint, text),
        peers.prune_schedule_runs(interval, integer),
        peers.task_due_at(bigint)
        to peers_operator;
    grant update (cron, every, anchor, timezone, kind, args, queue, priority, max_attempts, timeout, metadata,
                  misfire, catch_up, overlap, jitter, expect_within, paused_at), delete
        on peers.schedule to peers_operator;

    -- the verbs that act on many tasks; each writes peers.action, which nobody may change
    grant execute on function
        peers.retry_dead(jsonb, boolean, text, jsonb, integer), peers.discard_dead(jsonb, boolean, text, integer),
        peers.cancel_tasks(jsonb, boolean, text, integer), peers.prune(interval, integer, boolean, text),
        peers.prune_dead(interval, integer, boolean, text)
        to peers_operator;
    -- the views dead_cause and demand call them with the rights of their reader
    grant execute on function peers.innermost_frame(text), peers.queue_demand() to peers_operator, peers_reader;
    -- metrics: a peer reports what it has counted, and everybody who reads may read them
    grant execute on function peers.record_metrics(uuid, jsonb) to peers_worker;
    grant execute on function peers.throughput(interval), peers.metric_bounds(), peers.gauges(), peers.counters(),
        peers.histogram(text, interval)
        to peers_worker, peers_operator, peers_reader;
    -- the logs of attempts: a worker stores them, an operator or reader can follow a running one
    grant execute on function
        peers.store_logs(uuid, bigint[], uuid[], integer[], text[], bigint[], bytea[]) to peers_worker;
    grant execute on function peers.follow_log(bigint) to peers_operator, peers_reader;
    -- stacks are for operators only; a worker replies through a function
    revoke select on peers.peek from peers_reader;
    grant execute on function peers.request_peek(bigint) to peers_operator;
    grant execute on function peers.delete_peeks(), peers.reply_to_peek(uuid, bigint, jsonb, text) to peers_worker;
    -- The checks of peers.doctor. Those that read tables return names and counts, and run with the owner's rights.
    grant select on peers.doctor_check to peers_worker;
    grant execute on function peers.doctor(text[], interval),
        peers._duration_text(interval), peers._session_text(pg_stat_activity),
        peers._end_session_text(pg_stat_activity),
        peers._doctor_trigger_disabled(interval), peers._doctor_foreign_trigger(interval),
        peers._doctor_index_invalid(interval), peers._doctor_index_hinders_hot(interval),
        peers._doctor_grants_missing(interval), peers._doctor_owner_differs(interval),
        peers._doctor_row_security(interval), peers._doctor_unlogged_table(interval),
        peers._doctor_old_snapshot(interval), peers._doctor_idle_in_transaction(interval),
        peers._doctor_prepared_transaction(interval), peers._doctor_replication_slot(interval),
        peers._doctor_standby_feedback(interval), peers._doctor_lock_wait(interval),
        peers._doctor_connections(interval), peers._doctor_notification_queue(interval),
        peers._doctor_synchronous_standby(interval), peers._doctor_hidden_sessions(interval),
        peers._starting_settings(), peers._setting_interval(text), peers._doctor_session_timeout(interval),
        peers._doctor_isolation_default(interval), peers._doctor_read_only(interval),
        peers._doctor_replication_role(interval), peers._doctor_notify_off(interval),
        peers._doctor_statistics_off(interval), peers._doctor_small_memory(interval),
        peers._doctor_fsync_off(interval), peers._doctor_encoding(interval),
        peers._doctor_collation_version(interval), peers._doctor_clock_shift(interval),
        peers._vacuum_triggers(), peers._doctor_autovacuum_off(interval),
        peers._doctor_autovacuum_busy(interval), peers._doctor_dead_rows(interval),
        peers._doctor_index_bloat(interval), peers._doctor_wraparound(interval),
        peers._doctor_sequence_position(interval), peers._doctor_no_peer(interval),
        peers._doctor_unrunnable_kind(interval), peers._doctor_expired_lease(interval),
        peers._doctor_late_heartbeat(interval), peers._doctor_lost_peer(interval),
        peers._doctor_peer_before_migration(interval), peers._doctor_version_skew(interval),
        peers._doctor_limit_shut(interval),
        peers._doctor_paused_queue(interval), peers._doctor_paused_graph(interval),
        peers._doctor_held_children(interval), peers._doctor_late_schedule(interval),
        peers._doctor_failing_schedule(interval), peers._doctor_open_alert(interval),
        peers._doctor_overdue_task(interval), peers._doctor_slow_cancel(interval)
        to peers_worker, peers_operator, peers_reader;
end
$$;
