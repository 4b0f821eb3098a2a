"""The peer: claim a batch, hand it out, settle a batch, and so on until told to stop.

This process holds the leases. It never runs user code, and it waits for nobody: for workers with a
selector, for the database no longer than a statement takes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import socket
import time
from typing import Final
from uuid import UUID

from peers import db, events, kernel
from peers.chores import Chores
from peers.db import Connection
from peers.errors import ConfigError, DatabaseUnreachable, PeerLost
from peers.heartbeat import Heartbeat, Watch, boottime
from peers.link import Link
from peers.model import CONTRACT_VERSION, KindPolicy
from peers.model import Heartbeat as Beat
from peers.service import Notifier, stop_signals
from peers.settings import Settings
from peers.wake import CANCEL, Doorbell
from peers.work import Work

_IMPORT_PATIENCE: Final = 60.0
_LONGEST_WAIT: Final = 1.0
_PATIENCE_OF_LEASE: Final = 6  # connecting may take a sixth of a lease
_EXIT_OUTDATED: Final = 1
_WAKE_BYTES: Final = 4096


class Peer:
    """One peer process: `run()` is its life, and happens once."""

    def __init__(self, settings: Settings) -> None:
        if settings.app is None:
            raise ConfigError(
                "no app is configured",
                "Name the module with your handlers: --app shop.tasks, or PEERS_APP.",
            )
        self._settings = settings
        self._stops = 0
        self._drain_until = float("inf")
        self._outdated = False
        self._selector = selectors.DefaultSelector()
        self._notifier = Notifier()
        self._link = Link(lambda: self._connect("main"), self._on_return)
        self._work = Work(
            settings, settings.app, self._selector, self._link, lambda: self._connect("requests")
        )
        self._heartbeat = Heartbeat(
            lambda: self._connect("heartbeat"), settings.lease_timeout, settings.heartbeat_interval,
            Watch(self._on_beat, self._on_expiry, self._notifier.alive),
        )  # fmt: skip
        self._beats: queue.SimpleQueue[tuple[UUID, Beat]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._doorbell = Doorbell(lambda: self._connect("doorbell"), self._selector, self._on_ring)
        self._chores = Chores(
            lambda: self._connect("chores"), lambda: self._work.peer_id,
            settings.lease_timeout, settings.prune_after,
        )  # fmt: skip

    def run(self) -> int:
        """Join, work until told to stop, leave; the exit code (1: the database has moved on).

        Raises `ConfigError` for what a restart cannot mend, `DatabaseUnreachable` when there is no
        database at the start.
        """
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._on_wake)
        with stop_signals(self._selector, self._on_stop):
            try:
                self._link.open()
                self._work.crew.start(_IMPORT_PATIENCE)
                if not self._work.crew.asynchronous:
                    _stand_back()
                self._join()
                self._chores.start()
                while not self._finished():
                    self._turn()
                self._leave()
            finally:
                self._heartbeat.stop()
                self._work.requests.stop()
                self._work.crew.stop()
                self._doorbell.close()
                self._link.close()
        return _EXIT_OUTDATED if self._outdated else 0

    def _turn(self) -> None:
        self._heartbeat.turned()
        self._take_events()
        self._work.crew.tick(time.monotonic())
        if not self._heartbeat.fenced:
            self._work.hand_out()  # slots that got free shall not wait for a commit
        with contextlib.suppress(DatabaseUnreachable):
            if self._link.restore():
                self._use_database()

    def _take_events(self) -> None:
        now = time.monotonic()
        due = min(self._work.next_due(), self._drain_until, now + _LONGEST_WAIT)
        for key, _ in self._selector.select(max(0.0, due - now)):
            key.data()
        with contextlib.suppress(queue.Empty):
            while True:
                self._heed(*self._beats.get_nowait())

    def _use_database(self) -> None:
        try:
            self._work.settle()
            if not self._heartbeat.fenced:
                self._work.claim()
            self._work.keep_house()
            self._doorbell.ensure()
        except PeerLost as error:
            self._join_again(str(error))

    # -------------------------------------------------------------------------- joining and leaving

    def _connect(self, duty: str) -> Connection:
        patience = self._settings.lease_timeout.total_seconds() / _PATIENCE_OF_LEASE
        return db.connect(self._settings.url, application_name=f"peers {duty}", patience=patience)

    def _join(self) -> None:
        settings, kinds = self._settings, self._work.crew.kinds
        joined_at, host, pid = boottime(), socket.gethostname(), os.getpid()
        policies = [
            KindPolicy(k.kind, k.max_attempts, k.timeout, k.backoff_base, k.backoff_cap)
            for k in kinds.values()
        ]
        peer_id = self._link.do(
            lambda c: kernel.join(c, host, pid, settings.queues, policies, settings.lease_timeout)
        )
        self._work.peer_id = peer_id
        self._heartbeat.start(peer_id, joined_at)
        events.peer_joined(
            peer_id=peer_id, host=host, pid=pid, queues=settings.queues, kinds=sorted(kinds),
            lease_timeout=settings.lease_timeout.total_seconds(),
        )  # fmt: skip
        self._notifier.ready(f"joined as {peer_id}")

    def _join_again(self, reason: str) -> None:
        """The leases are gone: stop what runs under them, and start afresh under a new identity."""
        if self._work.peer_id is not None:
            events.peer_lost(peer_id=self._work.peer_id, reason=reason)
        self._work.abandon()
        self._join()

    def _leave(self) -> None:
        self._chores.stop()
        self._heartbeat.stop()
        peer_id = self._work.peer_id
        if peer_id is not None:
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
        self._work.asked_to_stop = True
        self._work.release_backlog()
        self._work.crew.recall()
        events.draining(running=self._work.in_workers, timeout=timeout)

    def _finished(self) -> bool:
        if not self._stops:
            return False
        if time.monotonic() < self._drain_until:
            return self._work.finished
        self._work.stop_started()
        with contextlib.suppress(DatabaseUnreachable):
            self._work.flush()
        return True

    # ---------------------------------------------------------------------- what is heard meanwhile

    def _on_return(self) -> None:
        """The database is back: what it answered last may never have reached us."""
        self._work.reconcile()
        self._work.look()

    def _on_ring(self, payload: str) -> None:
        if payload == CANCEL:
            self._heartbeat.beat_now()
        self._work.look()

    def _on_beat(self, peer_id: UUID, beat: Beat) -> None:
        """In the heartbeat's thread: the main loop shall look at it."""
        self._beats.put((peer_id, beat))
        self._wake()

    def _on_expiry(self, silent: float) -> None:
        """In either thread: the lease is nearly over, and others may take over these tasks."""
        if self._work.peer_id is not None:
            events.fenced(
                peer_id=self._work.peer_id, tasks=self._work.in_workers, seconds_silent=silent
            )
        self._work.crew.kill_all()
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, _WAKE_BYTES)

    def _heed(self, peer_id: UUID, beat: Beat) -> None:
        """A heartbeat was answered."""
        if peer_id != self._work.peer_id:
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
            self._work.stop_all()
            self._heartbeat.unfence()
        for task_id, token in beat.cancelled:
            self._work.cancel(task_id, token)


def _stand_back() -> None:
    """An answer of a worker wakes this thread, which shall not take the worker's core away.

    A sync worker has its next task already; async ones have none ahead, and are better served fast.
    Measured on two cores with 8 handlers that wait for 28 ms: 98.8 % of the ideal became 99.0, and
    no-op tasks gained 5 %. Heartbeat and workers are not concerned.
    """
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return  # an operator has chosen
    with contextlib.suppress(OSError):  # a sandbox may refuse
        os.sched_setscheduler(0, os.SCHED_BATCH | os.SCHED_RESET_ON_FORK, os.sched_param(0))
