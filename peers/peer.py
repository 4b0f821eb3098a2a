"""The peer: claim a batch, hand it out, settle a batch, and so on until told to stop.

This process holds the leases. It never runs user code, and it waits for nobody: for workers with a
selector, for the database no longer than a statement takes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import selectors
import socket
import time
from typing import Final
from uuid import UUID

from peers import db, events, kernel
from peers.asked import answer
from peers.chores import Chores
from peers.db import Connection
from peers.errors import ConfigError, DatabaseUnreachable, PeerLost
from peers.heartbeat import Heartbeat, Watch, boottime
from peers.lane import Lane, Lease
from peers.link import Link
from peers.model import CONTRACT_VERSION, KindPolicy
from peers.model import Heartbeat as Beat
from peers.outbox import MOST_SETTLED, Failure, Outbox
from peers.pace import MOST_CLAIMED, Pace
from peers.service import Notifier, stop_signals
from peers.settings import Settings
from peers.wake import CANCEL, Doorbell
from peers.workers.crew import Crew

_IMPORT_PATIENCE: Final = 60.0
_LONGEST_WAIT: Final = 1.0
# Outcomes are collected for this long while more keep coming.
_SETTLE_WITHIN: Final = 0.01
# Claimed work that waits longer than this for a worker is given back: another peer may be idle.
_RELEASE_AFTER: Final = 5.0
_RECONCILE_EVERY: Final = 60.0
_POLL_JITTER: Final = 0.25


class Peer:
    """One peer process. `run()` is its life.

    Raises `ConfigError` for what a restart cannot mend, `DatabaseUnreachable` when there is no
    database at the start.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.app is None:
            raise ConfigError("no app is configured", "Name the module with your handlers: --app shop.tasks, or PEERS_APP.")
        self._settings = settings
        self._id: UUID | None = None
        self._held: dict[int, Lease] = {}
        self._stops = 0
        self._notifier = Notifier()
        self._drain_until = float("inf")
        self._outdated = False
        self._oldest_outcome = 0.0
        self._reconcile_at = 0.0
        self._selector = selectors.DefaultSelector()
        pace = Pace()
        self._lanes = {name: Lane(name, slots, pace) for name, slots in settings.queues.items()}
        self._outbox = Outbox(self._done)
        self._crew = Crew(settings.app, sum(settings.queues.values()), self._selector, pace, self)
        self._link = Link(lambda: self._connect("main"), self._reconcile)
        self._heartbeat = Heartbeat(
            lambda: self._connect("heartbeat"),
            settings.lease_timeout,
            settings.heartbeat_interval,
            Watch(self._on_beat, self._on_expiry, self._notifier.alive),
        )
        self._beats: queue.SimpleQueue[tuple[UUID, Beat]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._doorbell = Doorbell(lambda: self._connect("doorbell"), self._selector, self._ring)
        self._chores = Chores(
            lambda: self._connect("chores"), lambda: self._id, settings.lease_timeout, settings.prune_after
        )

    # ------------------------------------------------------------------------------------ its life

    def run(self) -> int:
        """Join, work until told to stop, leave; the exit code (1: the database has moved on)."""
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._on_wake)
        with stop_signals(self._selector, self._on_stop):
            try:
                self._link.open()
                self._crew.start(_IMPORT_PATIENCE)
                self._join()
                self._chores.start()
                while not self._finished():
                    self._turn()
                self._leave()
            finally:
                self._crew.stop()
                self._heartbeat.stop()
                self._doorbell.close()
                self._link.close()
        return 1 if self._outdated else 0

    def _turn(self) -> None:
        self._heartbeat.turned()
        self._heartbeat.check()
        self._take_events()
        self._crew.tick(time.monotonic())
        with contextlib.suppress(DatabaseUnreachable):
            if self._link.restore():
                self._settle()
                self._claim()
                self._keep_house()
        if not self._heartbeat.fenced:
            for lane in self._lanes.values():
                self._crew.hand_out(lane)

    def _take_events(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            key.data()
        while True:
            try:
                peer_id, beat = self._beats.get_nowait()
            except queue.Empty:
                break
            self._heed(peer_id, beat)

    def _patience(self) -> float:
        """How long the selector may wait: until the next thing that is due."""
        if self._outbox:
            return 0.0 if self._link.up else 0.05
        now = time.monotonic()
        due = [self._crew.next_deadline(), self._outbox.next_due(), self._drain_until, now + _LONGEST_WAIT]
        if self._link.up:
            due += [lane.ask_at for lane in self._lanes.values() if lane.wanted() and not self._stops]
        else:
            due.append(self._link.again_at)
        return max(0.0, min(due) - now)

    # -------------------------------------------------------------------------- joining and leaving

    def _connect(self, duty: str) -> Connection:
        lease = self._settings.lease_timeout.total_seconds()
        return db.connect(self._settings.url, application_name=f"peers {duty}", patience=lease / 6)

    def _join(self) -> None:
        joined_at = boottime()
        host, pid = socket.gethostname(), os.getpid()
        policies = [
            KindPolicy(k.kind, k.max_attempts, k.timeout, k.backoff_base, k.backoff_cap)
            for k in self._crew.kinds.values()
        ]
        settings = self._settings
        self._id = self._link.do(
            lambda c: kernel.join(c, host, pid, settings.queues, policies, settings.lease_timeout)
        )
        self._heartbeat.start(self._id, joined_at)
        events.peer_joined(
            peer_id=self._id, host=host, pid=pid, queues=settings.queues, kinds=sorted(self._crew.kinds),
            lease_timeout=settings.lease_timeout.total_seconds(),
        )  # fmt: skip
        self._notifier.ready(f"joined as {self._id}")

    def _join_again(self, reason: str) -> None:
        """The leases are gone: stop what runs under them and start afresh under a new identity."""
        assert self._id is not None
        events.peer_lost(peer_id=self._id, reason=reason)
        self._crew.kill_all()
        self._crew.bury_all()
        self._forget_backlog()
        self._held.clear()
        self._join()

    def _leave(self) -> None:
        self._chores.stop()
        self._heartbeat.stop()
        if self._id is None:
            return
        peer_id = self._id
        with contextlib.suppress(DatabaseUnreachable):
            released = self._link.do(lambda c: kernel.leave(c, peer_id))
            events.peer_left(peer_id=peer_id, released=released)

    def _on_stop(self) -> None:
        """SIGTERM: drain. A second one: give everything back now."""
        self._stops += 1
        if self._stops > 1:
            self._drain_until = 0.0
            return
        timeout = self._settings.drain_timeout.total_seconds()
        self._drain_until = time.monotonic() + timeout
        self._notifier.stopping()
        self._release_backlog()
        self._crew.recall()
        events.draining(running=self._in_workers(), timeout=timeout)

    def _finished(self) -> bool:
        if not self._stops:
            return False
        if time.monotonic() < self._drain_until:
            return self._in_workers() == 0 and not self._outbox.waits
        self._crew.kill_all()
        self._crew.bury_all()
        self._release_backlog()
        with contextlib.suppress(DatabaseUnreachable):
            self._flush()
        return True

    # ------------------------------------------------------------------------------ claim and settle

    def _claim(self) -> None:
        if self._stops or self._heartbeat.fenced or self._id is None:
            return
        peer_id, now = self._id, time.monotonic()
        for lane in self._lanes.values():
            wanted = lane.wanted()
            if not wanted or now < lane.ask_at:
                continue
            try:
                tasks = self._link.do(lambda c: kernel.claim(c, peer_id, lane.queue, wanted))  # noqa: B023  # called at once
            except PeerLost as error:
                self._join_again(str(error))
                return
            if len(tasks) < wanted:
                poll = self._settings.poll_interval.total_seconds()
                lane.ask_at = now + poll * (1 + random.uniform(-_POLL_JITTER, _POLL_JITTER))
            leases = [
                Lease(task, str(task.token).encode(), lane.queue, now, task.priority) for task in tasks
            ]
            for lease in leases:
                self._held[lease.task.task_id] = lease
            lane.claimed(leases, self._crew.asynchronous)

    def _settle(self) -> None:
        """Record outcomes: at once when no more are coming, in batches while they do."""
        if self._id is None or (not self._outbox and self._outbox.next_due() > time.monotonic()):
            return
        now = time.monotonic()
        if len(self._outbox) < MOST_SETTLED and now - self._oldest_outcome < _SETTLE_WITHIN:
            if self._selector.select(0):
                return
        self._flush()

    def _flush(self) -> None:
        peer_id = self._id
        if peer_id is not None:
            self._link.do(lambda c: self._outbox.flush(c, peer_id))

    def _keep_house(self) -> None:
        """Now and then: give back what waits too long, and what a lost answer left behind."""
        self._doorbell.ensure()
        now = time.monotonic()
        if now >= self._reconcile_at:
            self._reconcile()
        if self._stops:
            self._release_backlog()
        else:
            for lane in self._lanes.values():
                waiting = [lease for lease in lane if now - lease.claimed_at > _RELEASE_AFTER]
                self._give_back(lane, waiting)

    def _reconcile(self) -> None:
        """Tell the database which leases we know of; it takes back what its answer never reached us with."""
        self._reconcile_at = time.monotonic() + _RECONCILE_EVERY
        if self._id is None:
            return
        peer_id, tokens = self._id, list({lease.task.token for lease in self._held.values()})
        released = self._link.do(lambda c: kernel.reconcile(c, peer_id, tokens))
        if released:
            events.reconciled(released=released)

    def _release_backlog(self) -> None:
        for lane in self._lanes.values():
            self._give_back(lane, list(lane))

    def _give_back(self, lane: Lane, leases: list[Lease]) -> None:
        if leases:
            lane.drop(leases)
            self.aborted(leases)

    def _forget_backlog(self) -> None:
        for lane in self._lanes.values():
            lane.drop(list(lane))

    def _in_workers(self) -> int:
        return sum(lane.in_workers for lane in self._lanes.values())

    # ------------------------------------------------------------- what the workers tell (crew.Sink)

    def completed(self, lease: Lease, result: bytes) -> None:
        """A handler returned."""
        self._note_outcome()
        self._outbox.completed(lease, result)

    def failed(self, lease: Lease, failure: Failure) -> None:
        """An attempt failed."""
        self._note_outcome()
        self._outbox.failed(lease, failure)
        task = lease.task
        events.task_failed(
            task_id=task.task_id, kind=task.kind, attempt=task.attempt,
            error_type=str(failure["error_type"]), error_message=str(failure["error_message"]),
        )  # fmt: skip

    def unstarted(self, leases: list[Lease]) -> None:
        """Given back by a worker that did not start them."""
        for lease in leases:
            self._lanes[lease.queue].put_back([lease], self._crew.asynchronous)
        if self._stops:
            self._release_backlog()

    def aborted(self, leases: list[Lease]) -> None:
        """Stopped, or never started: the attempt does not count."""
        if leases:
            self._note_outcome()
            self._outbox.aborted(leases)

    def asked(self, lease: Lease, verb: str, body: bytes) -> bytes:
        """A handler asks the scheduler."""
        peer_id = self._id
        assert peer_id is not None
        return self._link.do(lambda c: answer(c, peer_id, lease.task, verb, body))

    def _note_outcome(self) -> None:
        if not self._outbox:
            self._oldest_outcome = time.monotonic()

    def _done(self, lease: Lease) -> None:
        if self._held.get(lease.task.task_id) is lease:
            del self._held[lease.task.task_id]

    # -------------------------------------------------------------------- what the database tells

    def _ring(self, payload: str) -> None:
        if payload == CANCEL:
            self._heartbeat.beat_now()
        for lane in self._lanes.values():
            lane.ask_at = 0.0

    def _on_beat(self, peer_id: UUID, beat: Beat) -> None:
        """In the heartbeat's thread: the main loop shall look at it."""
        self._beats.put((peer_id, beat))
        self._wake()

    def _on_expiry(self, silent: float) -> None:
        """In either thread: the lease is nearly over, and others may take these tasks."""
        assert self._id is not None
        events.fenced(peer_id=self._id, tasks=self._in_workers(), seconds_silent=silent)
        self._crew.kill_all()
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, MOST_CLAIMED)

    def _heed(self, peer_id: UUID, beat: Beat) -> None:
        if peer_id != self._id:
            return
        self._notifier.alive()
        if beat.contract_version != CONTRACT_VERSION and not self._outdated:
            events.contract_changed(ours=CONTRACT_VERSION, theirs=beat.contract_version)
            self._outdated = True
            self._on_stop()
        if not beat.alive:
            with contextlib.suppress(DatabaseUnreachable):
                self._join_again("its heartbeat had expired")
            return
        if self._heartbeat.fenced:
            self._crew.bury_all()
            self._release_backlog()
            self._heartbeat.unfence()
        for task_id, token in beat.cancelled:
            self._cancel(task_id, token)

    def _cancel(self, task_id: int, token: UUID) -> None:
        lease = self._held.get(task_id)
        if lease is None or lease.task.token != token or lease.cancelled:
            return
        lease.cancelled = True
        events.task_cancelled(task_id=task_id, kind=lease.task.kind, attempt=lease.task.attempt)
        if not self._crew.cancel(lease, self._settings.cancel_grace.total_seconds()):
            self._give_back(self._lanes[lease.queue], [lease])
