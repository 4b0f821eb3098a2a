"""What every peer does now and then for all: there is no leader, and twice does no harm."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from peers import events
from peers.database import functions
from peers.database.background import Background
from peers.database.connection import Backoff, Connection, is_connection_lost
from peers.database.deadlines import LONG_MAINTENANCE, SHORT_MAINTENANCE, BoundedConnection, Bounds
from peers.database.functions import PROMOTE_MAX_TASKS, RECLAIM_MAX_TASKS
from peers.errors import DatabaseUnreachable, PeersError

_PROMOTE_EVERY: Final = 1.0
_ALARM_EVERY: Final = 60.0
_PRUNE_EVERY: Final = 600.0
_JITTER: Final = 0.1  # of the interval, so that peers that started together do not come together
_RETRY_CAP: Final = 5.0
_STOP_WITHIN: Final = 2.0
_LOOK_AGAIN: Final = 0.1
_CONNECTION: Final = ""
"""Stands where the name of a job may: what keeps all of them waiting."""

Connect = Callable[[str, Bounds], BoundedConnection]


class Maintenance:
    """Timers, and two threads with a connection each: none that is stuck may stop the others.

    Promote and reclaim are short and let tasks go on; prune and alarms may take minutes.
    """

    def __init__(
        self, connect: Connect, peer_id: Callable[[], UUID | None],
        lease: timedelta, prune_after: timedelta | None,
    ) -> None:  # fmt: skip
        self._peer_id = peer_id
        self._prune_after = prune_after
        self._alarmed: set[tuple[str, str]] = set()
        self._short = _Hand(lambda: connect("maintenance", SHORT_MAINTENANCE))
        self._long = _Hand(lambda: connect("long maintenance", LONG_MAINTENANCE), keeps=False)
        # One thread each: a connection serves one statement at a time. Late is better than never.
        self._scheduler = BackgroundScheduler(
            executors={"short": ThreadPoolExecutor(1), "long": ThreadPoolExecutor(1)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            timezone="UTC",
        )
        self._every(_PROMOTE_EVERY, "short", self._promote)
        self._every(lease.total_seconds() / 3, "short", self._reclaim)
        self._every(_ALARM_EVERY, "long", self._alarm)
        if prune_after is not None:
            self._every(_PRUNE_EVERY, "long", self._prune)

    def start(self) -> None:
        """Start the timers, unless they run."""
        if not self._scheduler.running:
            self._scheduler.start()

    def stop(self) -> None:
        """Stop them. A statement that is under way is not waited for: it is as good later."""
        hands = (self._short, self._long)
        for hand in hands:
            hand.stop()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        deadline = time.monotonic() + _STOP_WITHIN
        for hand in hands:
            hand.idle.wait(max(0.0, deadline - time.monotonic()))

    def _every(self, seconds: float, name: str, job: Callable[[Connection], None]) -> None:
        hand = self._short if name == "short" else self._long
        spread = seconds * (1 + random.uniform(-_JITTER, _JITTER))
        self._scheduler.add_job(lambda: hand.do(job), "interval", seconds=spread, executor=name)

    def _promote(self, connection: Connection) -> None:
        while functions.promote(connection) >= PROMOTE_MAX_TASKS and not self._short.stopping:
            pass

    def _reclaim(self, connection: Connection) -> None:
        peer_id = self._peer_id()
        while peer_id is not None and not self._short.stopping:
            reclaimed = functions.reclaim(connection, peer_id)
            for task_id, attempt, lost_peer_id, host in reclaimed:
                events.reclaimed(
                    task_id=task_id, attempt=attempt, lost_peer_id=lost_peer_id, lost_host=host
                )
            if len(reclaimed) < RECLAIM_MAX_TASKS:
                return

    def _alarm(self, connection: Connection) -> None:
        unrunnable = functions.unrunnable(connection)
        for queue, kind, tasks, oldest in unrunnable:
            if (queue, kind) not in self._alarmed:
                events.kinds_unrunnable(queue=queue, kind=kind, tasks=tasks, oldest_ready_at=oldest)
        self._alarmed = {(row.queue, row.kind) for row in unrunnable}

    def _prune(self, connection: Connection) -> None:
        assert self._prune_after is not None
        deleted, finished = 0, False
        while not finished and not self._long.stopping:
            step = functions.prune(connection, self._prune_after)
            deleted, finished = deleted + step.deleted, step.finished
        if deleted:
            events.pruned(deleted=deleted)


@dataclass(slots=True)
class _Again:
    """When to try again what failed."""

    backoff: Backoff = field(default_factory=lambda: Backoff(cap=_RETRY_CAP))
    at: float = 0.0


class _Hand:
    """Does maintenance in the thread that calls it, one after the other, with one connection.

    `keeps`: between two maintenance, too.
    """

    def __init__(self, connect: Callable[[], BoundedConnection], *, keeps: bool = True) -> None:
        self._stop = threading.Event()
        self.idle = threading.Event()
        self.idle.set()
        self._connect = connect
        self._keeps = keeps
        self._connection: BoundedConnection | None = None
        self._put_off: dict[str, _Again] = {}

    @property
    def stopping(self) -> bool:
        """Whether it takes no more."""
        return self._stop.is_set()

    def do(self, job: Callable[[Connection], None]) -> None:
        """Do it, unless it was refused, or the connection lost, a moment ago."""
        name = job.__name__.strip("_")
        reasons = [self._put_off[key] for key in (name, _CONNECTION) if key in self._put_off]
        if self.stopping or any(reason.at > time.monotonic() for reason in reasons):
            return
        self.idle.clear()
        try:
            job(self._connected())
        except (psycopg.Error, PeersError, OSError, RuntimeError) as error:
            self._drop()
            self._fail(name, error)
        else:
            self._put_off.pop(name, None)
            self._put_off.pop(_CONNECTION, None)
        finally:
            if self._stop.is_set() or not self._keeps:
                self._drop()
            self.idle.set()

    def stop(self) -> None:
        """From another thread: end what is under way, and take no more."""
        self._stop.set()
        connection = self._connection
        if connection is None:
            return
        if self.idle.is_set():
            self._drop()
        else:
            connection.cut(0.0)

    def _connected(self) -> BoundedConnection:
        if self._connection is None:
            attempt = Background(self._connect, lambda connection: connection.close())
            while not attempt.wait(_LOOK_AGAIN):
                if self.stopping:
                    attempt.give_up()
                    raise DatabaseUnreachable("there is no connection yet")
            self._connection = attempt.take()
        return self._connection

    def _fail(self, name: str, error: Exception) -> None:
        lost = is_connection_lost(error)
        known = self._put_off.get(_CONNECTION if lost else name)
        again = known or self._put_off.setdefault(_CONNECTION if lost else name, _Again())
        again.at = time.monotonic() + again.backoff.next()
        # the main loop tells of an outage, too: here it is told once
        if not self.stopping and not (lost and known):
            events.maintenance_failed(job=name, error=str(error).strip())

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
