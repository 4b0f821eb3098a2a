-- Checks of peers.doctor: peers, and tasks that wait although they should not.

-- Returns the text as one word of a shell command.
create or replace function peers._shell_word(_text text) returns text
    language sql immutable
    set search_path = pg_catalog, peers, pg_temp
as $$
    select case when _text ~ '^[a-zA-Z0-9@%+=:,./_-]+$' then _text
                else '''' || replace(_text, '''', '''"''"''') || '''' end
$$;

create or replace function peers._has_live_peer() returns boolean
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select exists (select from peers.peer p where peers._is_alive(p, peers.now()))
$$;

create or replace function peers._doctor_no_peer(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'no_peer', 'the fleet', 'no peer is alive, and ' || w.what,
           'start one: peers run --app YOUR.APP; on its host, journalctl -u ''peers@*'' says why it ended'
    from (
        select concat_ws(' and ',
            case when exists (
                     select from peers.ready r join peers.task t on t.id = r.task_id where t.state = 'ready'
                     union all
                     select from peers.ready_limited r join peers.task t on t.id = r.task_id where t.state = 'ready'
                 ) then 'ready tasks wait' end,
            case when exists (select from peers.scheduled s where s.due_at < peers.now())
                 then 'scheduled tasks are due' end,
            case when exists (select from peers.lease) then 'tasks that lost peers ran wait to be reclaimed' end,
            case when exists (select from peers.schedule s where s.paused_at is null) then 'schedules do not fire' end
        ) as what
    ) w
    where w.what <> '' and not peers._has_live_peer()
$$;

comment on function peers._doctor_no_peer is 'Is a peer alive, if there is anything to do?';

-- PL/pgSQL, because the SQL language would need peers.unrunnable before it is created. With a million tasks this takes
-- longer than all other checks together.
create or replace function peers._doctor_unrunnable_kind(_older_than interval) returns setof peers.finding
    language plpgsql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
begin
    if not peers._has_live_peer() then
        return;  -- no_peer says so
    end if;
    return query
    select 'error', 'unrunnable_kind', u.kind || ' in ' || u.queue,
           format('no live peer runs the kind %L in the queue %L, and %s of its tasks wait, the oldest for %s', u.kind,
                  u.queue, u.tasks, peers._duration_text(peers.now() - u.oldest_ready_at)),
           'start a peer whose app has a handler for this kind and that serves the queue: peers run --app YOUR.APP '
           '--queues ' || peers._shell_word(u.queue || '=4')
    from peers.unrunnable() u
    where u.oldest_ready_at <= peers.now() - least(_older_than, interval '10 seconds')
    order by u.tasks desc limit 20;
end
$$;

comment on function peers._doctor_unrunnable_kind is 'Which kinds have ready tasks that no live peer runs?';

-- Without a live peer, no_peer says so. A live peer reclaims at most 2 s after the end of a lease, unless the database
-- was away.
create or replace function peers._doctor_expired_lease(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'expired_lease', coalesce('peer ' || p.id || ' on ' || p.host, 'peer ' || l.peer_id),
           format('the lease of this peer ended %s ago, and no peer has reclaimed its %s tasks',
                  coalesce(peers._duration_text(peers.now() - p.heartbeat_at - p.lease_timeout), 'long'), sum(l.open)),
           'look in the logs of the live peers for errors, and in this list for lock_wait and old_snapshot'
    from peers.lease l
    left join peers.peer p on p.id = l.peer_id
    where peers._has_live_peer()
      and (p.id is null or p.heartbeat_at + p.lease_timeout + greatest(p.lease_timeout, interval '10 seconds')
                           < peers.now())
    group by l.peer_id, p.id, p.host, p.heartbeat_at, p.lease_timeout
    limit 20
$$;

comment on function peers._doctor_expired_lease is 'Which leases have ended without being reclaimed?';

create or replace function peers._doctor_late_heartbeat(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'late_heartbeat', 'peer ' || p.id || ' on ' || p.host,
           format('the last heartbeat of process %s on host %s was %s ago; without one it kills its workers soon, and '
                  'after %s its tasks run elsewhere', p.pid, p.host, peers._duration_text(peers.now() - p.heartbeat_at),
                  peers._duration_text(p.lease_timeout)),
           'look at this host: does the process run, is the host overloaded, does it reach the database?'
    from peers.peer p
    where peers._is_alive(p, peers.now()) and p.heartbeat_at + p.lease_timeout * 0.6 < peers.now()
    limit 20
$$;

comment on function peers._doctor_late_heartbeat is 'Which peers are about to lose their leases?';

create or replace function peers._doctor_lost_peer(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'note', 'lost_peer', 'host ' || p.host,
           format('%s of host %s %s lost within the last hour, the last one %s ago: %s',
                  case when count(*) = 1 then '1 peer' else count(*) || ' peers' end, p.host,
                  case when count(*) = 1 then 'was' else 'were' end, peers._duration_text(peers.now() - max(p.lost_at)),
                  (array_agg(coalesce(p.lost_because, 'unknown') order by p.lost_at desc))[1]),
           'on this host: journalctl -u ''peers@*'' --since -1h; dmesg says whether the kernel killed it for its memory'
    from peers.peer p
    where p.lost_at > peers.now() - interval '1 hour'
    group by p.host
    limit 20
$$;

comment on function peers._doctor_lost_peer is 'Which hosts have lost peers within the last hour?';

create or replace function peers._doctor_peer_before_migration(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'note', 'peer_before_migration', 'peer ' || p.id || ' on ' || p.host,
           format('process %s on host %s joined before the tables were last migrated (%s): it still runs the older '
                  'release', p.pid, p.host, m.name),
           'restart it: systemctl restart ''peers@*'''
    from peers.peer p
    join (select m.name, m.applied_at from peers.migration m order by m.version desc limit 1) m on true
    where peers._is_alive(p, peers.now()) and p.joined_at < m.applied_at
    limit 20
$$;

comment on function peers._doctor_peer_before_migration is 'Which peers run an older release than the schema?';

-- A rolling upgrade is no finding while it goes on, so the last peer must have joined some time ago.
create or replace function peers._doctor_version_skew(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'version_skew', 'the fleet',
           'live peers run several versions of the package: '
           || string_agg(format('%s (%s, such as on %s)', v.version, v.peers, v.host), ', ' order by v.last_join desc),
           'finish the upgrade: systemctl restart ''peers@*'' on the hosts of the older version'
    from (
        select p.version, count(*) as peers, min(p.host) as host, max(p.joined_at) as last_join
        from peers.peer p
        where peers._is_alive(p, peers.now()) and p.version is not null
        group by p.version
    ) v
    having count(*) > 1 and max(v.last_join) <= peers.now() - _older_than
$$;

comment on function peers._doctor_version_skew is 'Do all live peers run the same version of the package?';

create or replace function peers._doctor_limit_shut(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'limit_shut', l.name,
           format('the limit %L is shut without an end%s: none of its tasks starts', l.name,
                  ' (' || l.shut_because || ')'),
           format('peers limit open %s; or SELECT peers.open_limit(%L);', peers._shell_word(l.name), l.name)
    from peers.limit l
    where l.shut_until = 'infinity'
$$;

comment on function peers._doctor_limit_shut is 'Which limits are shut without an end?';

create or replace function peers._doctor_paused_queue(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'paused_queue', q.queue,
           format('%s has paused the queue %L %s ago, and tasks wait in it', q.paused_by, q.queue,
                  peers._duration_text(peers.now() - q.paused_at)),
           format('peers resume %s; or SELECT peers.resume(%L);', peers._shell_word(q.queue), q.queue)
    from peers.paused_queue q
    where q.paused_at <= peers.now() - _older_than
      and exists (
          select from peers.ready r join peers.task t on t.id = r.task_id
          where r.queue = q.queue and t.state = 'ready'
          union all
          select from peers.ready_limited r join peers.task t on t.id = r.task_id
          where r.queue = q.queue and t.state = 'ready'
      )
$$;

comment on function peers._doctor_paused_queue is 'Which queues are paused while tasks wait in them?';

create or replace function peers._doctor_paused_graph(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'paused_graph', 'graph ' || g.id,
           format('the graph %s (%s) has been paused for %s, and its tasks wait', g.id, g.name,
                  peers._duration_text(peers.now() - g.paused_at)),
           format('peers graph resume %s; or SELECT peers.resume_graph(%s);', g.id, g.id)
    from peers.graph g
    where g.paused_at <= peers.now() - _older_than
      and exists (select from peers.task t
                  where t.graph_id = g.id and t.state in ('ready', 'scheduled', 'blocked'))
    order by g.paused_at limit 20
$$;

comment on function peers._doctor_paused_graph is 'Which graphs are paused while their tasks wait?';

create or replace function peers._doctor_held_children(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'held_children', h.kind,
           format('dead letters of the kind %L (%s) keep children waiting (%s) until they are retried or discarded',
                  h.kind, h.dead, h.children),
           format('peers dead list --kind %s; fix the cause, then: peers dead retry --kind %s',
                  peers._shell_word(h.kind), peers._shell_word(h.kind))
    from (
        select d.kind, count(distinct d.task_id) as dead, count(*) as children
        from (select d.task_id, d.kind from peers.dead d order by d.task_id desc limit 10000) d
        join peers.dependency e on e.parent_id = d.task_id and e.on_parent_failure = 'hold'
        join peers.blocked b on b.task_id = e.child_id
        group by d.kind
    ) h
    order by h.children desc limit 20
$$;

comment on function peers._doctor_held_children is 'Which dead letters keep their children waiting?';

-- Peers fire a schedule within 10 s of its due time. Without a live peer, no_peer says so.
create or replace function peers._doctor_late_schedule(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'late_schedule', s.name,
           format('the schedule %L was due %s ago, and no peer has fired it', s.name,
                  peers._duration_text(peers.now() - s.next_due_at)),
           format('peers schedule explain %s; look in the logs of the peers for errors', peers._shell_word(s.name))
    from peers.schedule s
    where s.paused_at is null and s.failures = 0 and peers._has_live_peer()
      and s.next_due_at < peers.now() - least(_older_than, interval '1 minute')
    order by s.next_due_at limit 20
$$;

comment on function peers._doctor_late_schedule is 'Which schedules are due and were not fired?';

create or replace function peers._doctor_failing_schedule(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'failing_schedule', s.name,
           format('the database has refused the task of the schedule %L %s times: %s', s.name, s.failures, s.error),
           format('correct the schedule (UPDATE peers.schedule SET ... WHERE name = %L); peers schedule explain %s',
                  s.name, peers._shell_word(s.name))
    from peers.schedule s
    where s.failures > 0 and s.paused_at is null
    order by s.failures desc limit 20
$$;

comment on function peers._doctor_failing_schedule is 'Which schedules cannot submit their task?';

create or replace function peers._doctor_open_alert(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'open_alert', a.subject, a.message,
           case when a.alert = 'schedule_late' then 'peers schedule explain ' || peers._shell_word(a.subject)
                else 'TABLE peers.alert; has its details' end
    from peers.alert a
    order by a.raised_at limit 20
$$;

comment on function peers._doctor_open_alert is 'Which alerts are open?';

create or replace function peers._doctor_overdue_task(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'error', 'overdue_task', 'peers.scheduled',
           format('%s%s scheduled tasks are due, the oldest since %s, and no peer has made them ready',
                  case when count(*) >= 1000 then 'at least ' else '' end, count(*),
                  peers._duration_text(peers.now() - min(o.due_at))),
           'look in the logs of the peers for errors, and in this list for lock_wait'
    from (
        select s.due_at
        from peers.scheduled s join peers.task t on t.id = s.task_id
        where s.due_at < peers.now() - least(_older_than, interval '1 minute')
          and t.state = 'scheduled' and t.scheduled_at = s.due_at
        order by s.due_at limit 1000
    ) o
    where peers._has_live_peer()
    having count(*) > 0
$$;

comment on function peers._doctor_overdue_task is 'Which scheduled tasks are due and not ready?';

create or replace function peers._doctor_slow_cancel(_older_than interval) returns setof peers.finding
    language sql stable security definer
    set search_path = pg_catalog, peers, pg_temp
as $$
    select 'warning', 'slow_cancel', 'task ' || c.task_id,
           format('task %s was asked to stop %s ago and still runs on host %s: its handler ignores the request',
                  c.task_id, peers._duration_text(peers.now() - c.requested_at), coalesce(p.host, '(unknown)')),
           format('peers explain %s; give the handler a timeout, or restart its peer', c.task_id)
    from peers.cancel_request c
    join peers.lease l on l.token = c.token
    join peers.task t on t.id = c.task_id and t.token = c.token and t.state = 'running'
    left join peers.peer p on p.id = l.peer_id
    where c.requested_at <= peers.now() - _older_than
    order by c.requested_at limit 20
$$;

comment on function peers._doctor_slow_cancel is 'Which tasks do not stop although they were cancelled?';
