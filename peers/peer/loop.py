"""The peer: claim a batch, hand it out, settle a batch, and so on until told to stop.

This process holds the leases. It never runs user code, and it waits for nobody: for workers with a
selector, for the database no longer than `peers.database.deadlines` lets a statement take. What the
database or the system refuses is logged and tried again; a peer that ends all the same leaves
first.
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import socket
import time
import traceback
from typing import Final
from uuid import UUID

from peers import events
from peers.database import functions
from peers.database.background import Background
from peers.database.connection import Backoff
from peers.database.reconnecting import ReconnectingConnection
from peers.database.rows import HeartbeatReply
from peers.errors import ConfigError, ContractMismatch, DatabaseUnreachable, PeerLost
from peers.peer.connections import Connections, close_all
from peers.peer.heartbeat import Heartbeat, Watch, boottime
from peers.peer.leases import Work
from peers.peer.listener import CANCEL, Listener
from peers.peer.maintenance import Maintenance
from peers.peer.systemd import SystemdNotifier, Waker, stand_back, stop_signals
from peers.settings import Settings
from peers.types import CONTRACT_VERSION, KindPolicy

_IMPORT_PATIENCE: Final = 60.0
_LONGEST_WAIT: Final = 1.0
_TURNS_PER_LEASE: Final = 6  # at least: the heartbeat wants one within a third
_LOOK_AGAIN: Final = 0.05
"""Seconds between two turns when what is due has to wait for something else."""
_PROBE_EVERY: Final = 1.0
_LAST_CONNECT: Final = 2.0
_EXIT_OUTDATED: Final = 1


class Peer:
    """One peer process: `run()` is its life, and happens once."""

    def __init__(self, settings: Settings) -> None:
        if settings.app is None:
            raise ConfigError(
                "no app is configured",
                "Name the module with your handlers: --app shop.tasks, or PEERS_APP.",
            )
        self._settings = settings
        self._lease = settings.lease_timeout.total_seconds()
        self._stops = 0
        self._drain_until = float("inf")
        self._joined = False
        self._outdated = False
        self._probe_at = 0.0
        self._patience = Backoff(base=_LOOK_AGAIN, cap=min(_LONGEST_WAIT, self._lease / 12))
        self._selector = selectors.DefaultSelector()
        self._waker = Waker(self._selector)
        self._notifier = SystemdNotifier()
        self._connections = connections = Connections(settings)
        self._heartbeat = Heartbeat(
            connections.heartbeat, settings.lease_timeout, settings.heartbeat_interval,
            Watch(self._on_beat, self._on_expiry, self._on_silence),
        )  # fmt: skip
        self._connection = ReconnectingConnection(
            connections.main, self._on_return, self._waker.wake, self._heartbeat.turned
        )
        self._work = Work(
            settings, settings.app, self._selector, self._connection,
            # a large graph takes its time: these connections have bounds of their own
            lambda: connections.make("requests", None),
        )  # fmt: skip
        self._beats: queue.SimpleQueue[tuple[UUID, HeartbeatReply]] = queue.SimpleQueue()
        self._listener = Listener(
            connections.listener, self._selector, self._on_ring, self._waker.wake
        )
        self._maintenance = Maintenance(
            connections.make, lambda: self._work.peer_id,
            settings.lease_timeout, settings.prune_after,
        )  # fmt: skip

    def run(self) -> int:
        """Join, work until told to stop, leave; the exit code (1: the database has moved on).

        Whatever ends it, it leaves first. Raises `ConfigError` for what a restart cannot mend,
        `DatabaseUnreachable` when there is no database at the start.
        """
        failed = True
        with stop_signals(self._selector, self._connection.cut, self._on_stop):
            try:
                self._start()
                while not self._finished():
                    self._turn()
                failed = False
            finally:
                self._leave(failed=failed)
        return _EXIT_OUTDATED if self._outdated else 0

    def _turn(self) -> None:
        self._heartbeat.turned()
        well = True
        for step in (self._take_events, self._tend_workers, self._use_database):
            try:
                step()
            except OSError as error:  # no descriptor, no process
                well = False
                wait = self._patience.next()
                events.system_refused(
                    error=repr(error), retry_in=wait, traceback=traceback.format_exc()
                )
                time.sleep(wait)
            except DatabaseUnreachable:
                pass  # the connection has told of it, and tries again
        if well:
            self._patience.reset()

    def _take_events(self) -> None:
        now = time.monotonic()
        longest = min(_LONGEST_WAIT, self._lease / _TURNS_PER_LEASE)
        due = min(self._work.next_due(), self._drain_until, now + longest)
        if self._work.peer_id is None or self._heartbeat.fenced or self._connection.puts_off:
            due = max(due, now + _LOOK_AGAIN)  # what is due cannot be done: no reason to spin
        self._hear(max(0.0, due - now))
        with contextlib.suppress(queue.Empty):
            while True:
                self._heed(*self._beats.get_nowait())

    def _hear(self, within: float) -> None:
        for key, _ in self._selector.select(within):
            key.data()

    def _tend_workers(self) -> None:
        self._work.pool.tick(time.monotonic())
        if not self._heartbeat.fenced:
            self._work.hand_out()  # slots that got free shall not wait for a commit

    def _use_database(self) -> None:
        if not self._connection.restore():
            return
        try:
            if self._work.peer_id is None:
                self._try_to_join()
                return
            self._connection.attempt("outcomes", self._work.settle)
            if self._heartbeat.fenced:
                self._probe()
            else:
                self._work.claim()
            self._connection.attempt("housekeeping", self._work.maintain)
            self._listener.ensure()
        except PeerLost as error:
            self._lose(str(error))

    def _probe(self) -> None:
        """Nothing else tells meanwhile whether it is the database that is away."""
        if time.monotonic() >= self._probe_at:
            self._probe_at = time.monotonic() + _PROBE_EVERY
            self._connection.attempt("a question", self._check_contract)

    # -------------------------------------------------------------------------- joining and leaving

    def _start(self) -> None:
        """Connect, and learn from a worker what the app can run; a signal ends either."""
        opening = Background(self._connections.first, close_all, self._waker.wake)
        while not opening.over and not self._stops:
            self._hear(_LONGEST_WAIT)
        if self._stops:
            opening.give_up()
            return
        main, beats = opening.take()
        self._connection.adopt(main)
        self._heartbeat.adopt(beats)
        self._work.pool.start(_IMPORT_PATIENCE, lambda: self._stops > 0)
        if not self._work.pool.asynchronous:
            stand_back()

    def _try_to_join(self) -> None:
        """Join when the database lets us. Raises `ConfigError` if it is the first time."""
        if self._work.asked_to_stop:
            return
        try:
            self._connection.attempt(
                "joining", self._join, ContractMismatch if self._joined else ConfigError
            )
        except ContractMismatch:
            if not self._joined:
                raise
            self._connection.attempt("a question", self._check_contract)

    def _join(self) -> None:
        settings, kinds = self._settings, self._work.pool.kinds
        joined_at, host, pid = boottime(), socket.gethostname(), os.getpid()
        policies = [
            KindPolicy(k.kind, k.max_attempts, k.timeout, k.backoff_base, k.backoff_cap)
            for k in kinds.values()
        ]
        peer_id = self._connection.do(
            lambda c: functions.join(
                c, host, pid, settings.queues, policies, settings.lease_timeout
            )
        )
        self._work.peer_id = peer_id
        if self._heartbeat.fenced:
            self._work.stop_all()
        self._heartbeat.start(peer_id, joined_at)
        self._maintenance.start()
        self._joined = True
        self._notifier.ready(f"joined as {peer_id}")
        events.peer_joined(
            peer_id=peer_id, host=host, pid=pid, queues=settings.queues, kinds=sorted(kinds),
            lease_timeout=self._lease,
        )  # fmt: skip

    def _lose(self, reason: str) -> None:
        """The leases have expired: stop what runs under them. The next turn joins afresh.

        Nobody may have reclaimed them yet, where the database's clock was set forward, say. What is
        over is recorded then, and the rest is given back, so that no attempt counts.
        """
        lost = self._work.peer_id
        self._heartbeat.pause()
        self._work.abandon()
        with contextlib.suppress(DatabaseUnreachable):
            self._connection.attempt("giving back expired leases", self._give_up)
        self._work.peer_id = None
        if lost is not None:
            events.peer_lost(peer_id=lost, reason=reason)

    def _give_up(self) -> None:
        self._work.flush(last=True)
        peer_id = self._work.peer_id
        if peer_id is not None:
            self._connection.do(lambda c: functions.leave(c, peer_id))

    def _leave(self, *, failed: bool) -> None:
        """Stop everything and give back what we hold. What fails keeps nothing else from it."""
        self._connection.end_by(min(self._drain_until, time.monotonic()))
        by = "a peer that failed" if failed else "a draining peer"

        def stop_tasks() -> None:
            self._work.stop_started(by)

        for step in (
            *([stop_tasks] if failed or not self._work.finished else []), self._work.requests.stop,
            self._maintenance.stop, self._give_back, self._heartbeat.stop, self._say_goodbye,
            self._work.pool.stop, self._listener.close, self._connection.close,
            self._notifier.close,
        ):  # fmt: skip
            try:
                step()
            except Exception as error:  # noqa: BLE001  # told; the next step may still be possible
                events.leave_failed(step=step.__qualname__, error=repr(error))

    def _give_back(self) -> None:
        if self._work.peer_id is not None and self._connection.reopen(_LAST_CONNECT):
            self._work.flush(last=True)

    def _say_goodbye(self) -> None:
        peer_id = self._work.peer_id
        if peer_id is not None:
            released = self._connection.do(lambda c: functions.leave(c, peer_id))
            events.peer_left(peer_id=peer_id, released=released)

    def _on_stop(self) -> None:
        """SIGTERM: drain. A second one: give everything back now."""
        self._stops += 1
        if self._stops > 1:
            self._drain_until = 0.0
        else:
            self._drain()

    def _drain(self) -> None:
        """Claim nothing more and let running tasks finish. A second call changes nothing."""
        if self._work.asked_to_stop:
            return
        timeout = self._settings.drain_timeout.total_seconds()
        self._drain_until = time.monotonic() + timeout
        self._connection.end_by(self._drain_until)
        self._notifier.stopping()
        self._work.asked_to_stop = True
        self._work.release_backlog()
        self._work.pool.recall()
        events.draining(running=self._work.in_workers, timeout=timeout)

    def _finished(self) -> bool:
        if not self._work.asked_to_stop:
            return False
        over = self._work.peer_id is None or time.monotonic() >= self._drain_until
        return over or self._work.finished

    # ---------------------------------------------------------------------- what is heard meanwhile

    def _on_return(self) -> None:
        """The database is back: what it answered last may never have reached us."""
        self._connection.attempt("reconciling", self._work.reconcile)
        self._work.look()

    def _on_ring(self, payload: str) -> None:
        if payload == CANCEL:
            self._heartbeat.beat_now()
        self._work.look()

    def _on_beat(self, peer_id: UUID, beat: HeartbeatReply) -> None:
        """In the heartbeat's thread: the main loop shall look at it."""
        self._beats.put((peer_id, beat))
        self._waker.wake()

    def _on_expiry(self, silent: float) -> None:
        """In another thread: the lease is nearly over, and others may take over these tasks.

        Killed first, told then: whoever reads the log may have stopped to.
        """
        tasks, peer_id = self._work.in_workers, self._work.peer_id
        self._work.pool.kill_all()
        self._waker.wake()
        if peer_id is not None:
            events.fenced(peer_id=peer_id, tasks=tasks, seconds_silent=silent)

    def _on_silence(self, silent: float) -> None:
        """In the heartbeat's thread: an outage is no reason to be restarted, other silence is."""
        if silent < self._lease or not self._connection.up:
            self._notifier.alive()

    def _heed(self, peer_id: UUID, beat: HeartbeatReply) -> None:
        """A heartbeat was answered."""
        if peer_id != self._work.peer_id:
            return
        self._notifier.alive()
        self._follow_contract(beat.contract_version)
        if not beat.alive:
            self._lose("its heartbeat had expired")
            return
        if self._heartbeat.fenced:
            self._work.stop_all()
            self._heartbeat.unfence()
        for task_id, token in beat.cancelled:
            self._work.cancel(task_id, token)

    def _check_contract(self) -> None:
        self._follow_contract(self._connection.do(functions.contract_version))

    def _follow_contract(self, theirs: int) -> None:
        """After a migration under our feet we end, for our supervisor to start the new release."""
        if theirs != CONTRACT_VERSION and not self._outdated:
            self._outdated = True
            self._drain()  # no signal: one that comes as well must not cut the drain short
            events.contract_changed(ours=CONTRACT_VERSION, theirs=theirs)
