"""Run a peer: claim tasks, assign them to workers, record their outcomes, until it must stop.

This process holds the leases. It never runs user code and never blocks for long: it waits for
workers with a selector, and `peers.database.deadlines` limits each statement. It logs what the
database or the system refuses, and tries again. Before it ends, for whatever reason, it leaves.
"""

from __future__ import annotations

import queue
import selectors
import time
import traceback
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg

from peers import events
from peers.database.background import Background
from peers.database.backoff import Backoff
from peers.database.connection import is_connection_lost, report_wait
from peers.database.deadlines import BoundedConnection
from peers.database.reconnecting import ReconnectingConnection
from peers.database.rows import HeartbeatReply
from peers.errors import ConfigError, DatabaseUnreachable, PeerLost
from peers.metrics.report import Report
from peers.peer.connections import Connections, close_all
from peers.peer.declarations import Declarations
from peers.peer.drain import Drain
from peers.peer.heartbeat import Heartbeat, HeartbeatCallbacks
from peers.peer.leases import Leases
from peers.peer.listener import CANCEL, LIMITS, LOG, PEEK, Listener
from peers.peer.maintenance import Maintenance, Retention
from peers.peer.membership import Membership
from peers.peer.monitoring import Monitoring
from peers.peer.peeks import Peeks
from peers.peer.promotion import SCHEDULED
from peers.peer.schedules import SCHEDULE, Schedules
from peers.peer.state import PeerState
from peers.peer.systemd import SystemdNotifier, watchdog_timeout, yield_cpu_to_workers
from peers.peer.takeover import JOINED, Takeover
from peers.peer.wakeup import Waker, stop_signals
from peers.settings import Settings

_IMPORT_TIMEOUT: Final = 60.0
_WAIT_MAX: Final = 1.0
_TURNS_PER_LEASE: Final = 6  # at least: the heartbeat requires one within a third of a lease
_RETRY_AFTER: Final = 0.05
"""Seconds between two turns when a step that is due cannot be done yet."""
_CONNECT_AGAIN_AFTER: Final = 1.0
_CONNECT_AGAIN_MAX: Final = 10.0
_EXIT_OUTDATED: Final = 1
_HEARTBEATS_PER_WATCHDOG: Final = 3


def _heartbeat_interval(configured: timedelta, watchdog: float) -> timedelta:
    """Return the time between heartbeats. With a long lease, systemd would take it for a hang."""
    if watchdog == float("inf"):
        return configured
    return min(configured, timedelta(seconds=watchdog / _HEARTBEATS_PER_WATCHDOG))


class Peer:
    """One peer process. `run()` is called once."""

    def __init__(self, settings: Settings) -> None:
        if settings.app is None:
            raise ConfigError(
                "no app is configured",
                "Name the module with your handlers: --app shop.tasks, or PEERS_APP.",
            )
        self._lease = settings.lease_timeout.total_seconds()
        self._backoff = Backoff(base=_RETRY_AFTER, cap=min(_WAIT_MAX, self._lease / 12))
        self._replies: queue.SimpleQueue[tuple[UUID, HeartbeatReply]] = queue.SimpleQueue()
        self._state = state = PeerState()
        self._report = Report(state.counts)
        self._selector = selector = selectors.DefaultSelector()
        self._waker = waker = Waker(selector)
        self._notifier = SystemdNotifier()
        watchdog = watchdog_timeout()
        self._connections = connections = Connections(settings, watchdog)
        self._heartbeat = heartbeat = Heartbeat(
            connections.heartbeat, settings.lease_timeout,
            _heartbeat_interval(settings.heartbeat_interval, watchdog),
            HeartbeatCallbacks(
                self._on_reply, self._on_expiry, self._on_silence, connections.note_error,
                self._report.send,
            ),
        )  # fmt: skip
        self._connection = connection = ReconnectingConnection(
            connections.main, selector, waker.wake,
            on_reconnect=self._on_reconnect, on_notify=self._on_notification,
            on_progress=heartbeat.note_turn, on_error=connections.note_error,
        )  # fmt: skip
        self._leases = leases = Leases(
            state, settings, settings.app, selector, connection,
            # no bounds: handlers may submit large graphs, and these sessions set limits themselves
            lambda: connections.make("requests", None), self._is_listening,
        )  # fmt: skip
        self._peeks = Peeks(leases.peek, connections.peek)
        leases.pool.on_peeked = self._peeks.worker_replied
        self._listener = Listener(connections.listener, selector, self._on_notification, waker.wake)
        self._takeover = Takeover(selector, settings.lease_timeout, state.counts)
        self._schedules = Schedules(self._is_listening)
        self._declarations = Declarations(lambda: leases.pool.declarations)
        self._maintenance = Maintenance(
            state, connection, settings.lease_timeout,
            Retention(settings.keep_completed, settings.keep_dead), self._is_listening,
            (*self._takeover.chores, self._schedules, *self._declarations.chores),
        )  # fmt: skip
        self._monitoring = Monitoring(settings.metrics_listen, state, heartbeat, connections)
        self._maintenance_due_at = 0.0
        self._drain = Drain(
            state, settings.drain_timeout.total_seconds(), connection, leases, self._notifier
        )
        self._membership = Membership(
            state, settings, connection, leases, heartbeat, self._on_join, self._drain.begin
        )

    def run(self) -> int:
        """Join, work until a signal or a migration ends it, leave, and return the exit code.

        It is 1 after a migration to another contract, so that a service manager restarts the peer.
        Raises `ConfigError` for errors that a restart cannot repair.
        """
        failed = True
        with stop_signals(self._selector, self._connection.interrupt, self._drain.on_signal):
            try:
                self._start()
                while not self._drain.is_finished():
                    self._turn()
                failed = False
            finally:
                self._shut_down(failed=failed)
        return _EXIT_OUTDATED if self._membership.is_outdated else 0

    # ----------------------------------------------------------------------------- one turn

    def _turn(self) -> None:
        self._heartbeat.note_turn()
        healthy = True
        for step in (
            self._take_events,
            self._take_results,
            self._hand_out,
            self._use_database,
            self._watch_workers,
        ):
            try:
                step()
            except OSError as error:  # no file descriptor, no process
                healthy = False
                wait = self._backoff.next()
                events.system_error(
                    error=repr(error), retry_in=wait, traceback=traceback.format_exc()
                )
                time.sleep(wait)
            except DatabaseUnreachable:
                pass  # the connection has logged it, and reconnects
            except PeerLost as error:
                self._membership.lose(str(error))
        if healthy:
            self._backoff.reset()

    def _take_events(self) -> None:
        now = time.monotonic()
        wait_max = min(_WAIT_MAX, self._lease / _TURNS_PER_LEASE)
        self._dispatch_events(max(0.0, min(self._next_due(now), now + wait_max) - now))
        while not self._replies.empty():  # this is their only reader
            self._take_reply(*self._replies.get_nowait())

    def _next_due(self, now: float) -> float:
        """Return when (monotonic) there is something to do even if nothing happens."""
        due = self._leases.next_due()
        self._maintenance_due_at = 0.0  # not known while the connection is in use
        if self._connection.is_idle:
            self._maintenance_due_at = self._maintenance.due_at()
            due = min(due, self._maintenance_due_at)
            if not self._can_claim():
                due = max(due, now + _RETRY_AFTER)  # a step that is due cannot be done: do not spin
        return min(due, self._connection.next_due, self._drain.deadline)

    def _can_claim(self) -> bool:
        return self._state.peer_id is not None and not self._heartbeat.fenced

    def _dispatch_events(self, timeout: float) -> None:
        events_due = self._selector.select(timeout)
        self._heartbeat.fence_if_due()
        for key, _ in events_due:
            key.data()

    def _take_results(self) -> None:
        self._connection.collect()

    def _hand_out(self) -> None:
        if not self._heartbeat.fenced:
            self._leases.hand_out()

    def _watch_workers(self) -> None:
        self._leases.pool.tick(time.monotonic())

    def _use_database(self) -> None:
        if not self._connection.restore():
            return
        if self._state.peer_id is None:
            self._membership.try_to_join()
            return
        fenced = self._heartbeat.fenced
        if fenced:
            self._membership.probe()
        elif time.monotonic() >= self._maintenance_due_at:
            self._maintenance.start_due()
        self._leases.start_due(claims=not fenced)
        self._leases.check()
        if self._connections.needs_listener:
            self._listener.ensure()

    # ---------------------------------------------------------------------- start and stop

    def _start(self) -> None:
        """Connect, and start a worker to learn what the app can run. A signal ends both."""
        self._monitoring.start()
        connections = self._connect()
        if connections is None:
            return
        main, heartbeat = connections
        self._connection.use(main)
        self._heartbeat.use(heartbeat)
        self._leases.pool.start(_IMPORT_TIMEOUT, lambda: self._drain.was_signalled)
        if not self._leases.pool.asynchronous:
            yield_cpu_to_workers()

    def _connect(self) -> tuple[BoundedConnection, BoundedConnection] | None:
        """Connect, and wait for the database if need be; None: a signal came first."""
        backoff = Backoff(base=_CONNECT_AGAIN_AFTER, cap=_CONNECT_AGAIN_MAX)
        while True:
            opening = Background(self._connections.first, close_all, self._waker.wake)
            while not opening.has_ended and not self._drain.was_signalled:
                self._dispatch_events(_WAIT_MAX)
            if self._drain.was_signalled:
                opening.cancel()
                return None
            try:
                return opening.result()
            except (DatabaseUnreachable, psycopg.Error) as error:
                if not is_connection_lost(error):
                    raise
                wait = backoff.next()
                report_wait(error, wait)
                self._await_signal(wait)

    def _await_signal(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        while time.monotonic() < until and not self._drain.was_signalled:
            self._dispatch_events(max(0.0, until - time.monotonic()))

    def _shut_down(self, *, failed: bool) -> None:
        """Stop everything and release every task. A step that fails does not prevent the next."""
        self._connection.set_deadline(min(self._drain.deadline, time.monotonic()))
        by = "a peer that failed" if failed else "a draining peer"

        def stop_tasks() -> None:
            self._leases.stop_started(by)

        for step in (
            *([stop_tasks] if failed or not self._leases.is_idle else []),
            self._leases.requests.stop, self._peeks.stop, self._membership.record_all,
            self._heartbeat.stop, self._report_last, self._membership.leave, self._leases.pool.stop,
            self._monitoring.close, self._takeover.close, self._listener.close,
            self._connection.close, self._notifier.close,
        ):  # fmt: skip
            try:
                step()
            except Exception as error:  # noqa: BLE001  # logged; the next step may succeed
                events.shutdown_step_failed(step=step.__qualname__, error=repr(error))

    def _report_last(self) -> None:
        peer_id = self._state.peer_id
        if peer_id is not None:
            self._connection.do(lambda connection: self._report.send(connection, peer_id))

    # --------------------------------------------------------------------------- callbacks

    def _on_join(self, status: str) -> None:
        self._takeover.look_now()
        self._declarations.declare()
        self._schedules.look_now()
        self._notifier.ready(status)

    def _is_listening(self) -> bool:
        return self._listener.is_up if self._connections.is_pooled else self._connection.is_up

    def _on_reconnect(self) -> None:
        """Look for tasks: notifications may have been lost, and the replies to claims."""
        self._leases.reconnected()
        self._maintenance.promotion.promote_now()
        self._schedules.look_now()

    def _on_notification(self, payload: str, is_own: bool = False) -> None:
        if payload.startswith(SCHEDULED):
            self._maintenance.promotion.notified(payload)
            return
        if payload == SCHEDULE:
            self._schedules.look_now()
            return
        if payload == JOINED:
            self._takeover.look_now()
            return
        if payload.startswith(LOG):
            self._leases.follow_log(payload)
            return
        if payload.startswith(PEEK):
            if payload == f"{PEEK}{self._state.peer_id}":
                self._heartbeat.send_now()
            return
        if payload == LIMITS:
            self._maintenance.limits_changed()
        if payload == CANCEL:
            self._heartbeat.send_now()
        if is_own and not payload:
            self._leases.made_ready()
        else:
            self._leases.poll_now()

    def _on_reply(self, peer_id: UUID, reply: HeartbeatReply) -> None:
        """Pass a reply from the heartbeat's thread to the main loop."""
        self._replies.put((peer_id, reply))
        self._waker.wake()

    def _on_expiry(self, silent: float) -> None:
        """Kill the workers, in the fence's thread: other peers may soon reclaim the tasks.

        Log it afterwards, because the reader of the log may have stopped reading.
        """
        tasks, peer_id = self._leases.in_workers, self._state.peer_id
        self._state.counts.fenced += 1
        self._leases.pool.kill_all()
        self._leases.pool.lease_ends(0.0)
        self._waker.wake()
        if peer_id is not None:
            events.peer_fenced(peer_id=peer_id, tasks=tasks, seconds_silent=silent)

    def _on_silence(self, silent: float) -> None:
        """Keep systemd from restarting us in an outage. A silence for another reason may do so."""
        if silent < self._lease or not self._connection.is_up:
            self._notifier.alive()

    def _take_reply(self, peer_id: UUID, reply: HeartbeatReply) -> None:
        if peer_id != self._state.peer_id:
            return
        self._notifier.alive()
        if reply.alive:
            self._leases.pool.lease_ends(self._heartbeat.kill_at)
        self._membership.compare_contract(reply.contract_version)
        if not reply.alive:
            self._membership.lose("its heartbeat had expired")
            return
        if self._heartbeat.fenced:
            self._leases.stop_all()
            self._heartbeat.unfence()
        for task_id, token in reply.cancelled:
            self._leases.cancel(task_id, token)
        self._peeks.start(peer_id, reply.peeks)
