"""Run the periodic maintenance of the database, in every peer.

It is idempotent, so that no leader is needed.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from peers import events
from peers.database import functions
from peers.database.background import Background
from peers.database.backoff import Backoff, RetryTimer
from peers.database.connection import Connection, is_connection_lost
from peers.database.deadlines import LONG_MAINTENANCE, SHORT_MAINTENANCE, BoundedConnection, Bounds
from peers.database.functions import PROMOTE_MAX_TASKS, RECLAIM_MAX_TASKS
from peers.errors import DatabaseUnreachable, PeersError

_PROMOTE_EVERY: Final = 1.0
_CHECK_KINDS_EVERY: Final = 60.0
_PRUNE_EVERY: Final = 600.0
_JITTER: Final = 0.1  # of the interval, so that peers that started together spread out
_RETRY_MAX: Final = 5.0
_STOP_WITHIN: Final = 2.0
_STOP_CHECK_EVERY: Final = 0.1
_CONNECTING: Final = "connecting"

Connect = Callable[[str, Bounds], BoundedConnection]


class Maintenance:
    """Timers, and two threads with a connection each.

    Promote and reclaim are short, and tasks wait for them. Prune and the check for unrunnable kinds
    may take minutes, so that they have the second thread.
    """

    def __init__(
        self, connect: Connect, peer_id: Callable[[], UUID | None],
        lease: timedelta, prune_after: timedelta | None,
    ) -> None:  # fmt: skip
        self._peer_id = peer_id
        self._prune_after = prune_after
        self._reported: set[tuple[str, str]] = set()
        self._short = _JobThread(lambda: connect("maintenance", SHORT_MAINTENANCE))
        self._long = _JobThread(
            lambda: connect("long maintenance", LONG_MAINTENANCE), keeps_connection=False
        )
        # One thread for each connection. A job that is late still runs, once.
        self._scheduler = BackgroundScheduler(
            executors={"short": ThreadPoolExecutor(1), "long": ThreadPoolExecutor(1)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            timezone="UTC",
        )
        self._every(_PROMOTE_EVERY, "short", self._promote)
        self._every(lease.total_seconds() / 3, "short", self._reclaim)
        self._every(_CHECK_KINDS_EVERY, "long", self._check_kinds)
        if prune_after is not None:
            self._every(_PRUNE_EVERY, "long", self._prune)

    def start(self) -> None:
        """Start the timers unless they already run."""
        if not self._scheduler.running:
            self._scheduler.start()

    def stop(self) -> None:
        """Stop the timers, and interrupt a job that is under way: another peer will do it."""
        threads = (self._short, self._long)
        for thread in threads:
            thread.stop()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        deadline = time.monotonic() + _STOP_WITHIN
        for thread in threads:
            thread.idle.wait(max(0.0, deadline - time.monotonic()))

    def _every(self, seconds: float, name: str, job: Callable[[Connection], None]) -> None:
        thread = self._short if name == "short" else self._long
        spread = seconds * (1 + random.uniform(-_JITTER, _JITTER))
        self._scheduler.add_job(lambda: thread.do(job), "interval", seconds=spread, executor=name)

    def _promote(self, connection: Connection) -> None:
        while functions.promote(connection) >= PROMOTE_MAX_TASKS and not self._short.stopping:
            pass

    def _reclaim(self, connection: Connection) -> None:
        peer_id = self._peer_id()
        while peer_id is not None and not self._short.stopping:
            reclaimed = functions.reclaim(connection, peer_id)
            for task_id, attempt, lost_peer_id, host in reclaimed:
                events.task_reclaimed(
                    task_id=task_id, attempt=attempt, lost_peer_id=lost_peer_id, lost_host=host
                )
            if len(reclaimed) < RECLAIM_MAX_TASKS:
                return

    def _check_kinds(self, connection: Connection) -> None:
        unrunnable = functions.unrunnable(connection)
        for queue, kind, tasks, oldest in unrunnable:
            if (queue, kind) not in self._reported:
                events.tasks_unrunnable(queue=queue, kind=kind, tasks=tasks, oldest_ready_at=oldest)
        self._reported = {(row.queue, row.kind) for row in unrunnable}

    def _prune(self, connection: Connection) -> None:
        assert self._prune_after is not None
        deleted, finished = 0, False
        while not finished and not self._long.stopping:
            step = functions.prune(connection, self._prune_after)
            deleted, finished = deleted + step.deleted, step.finished
        if deleted:
            events.tasks_pruned(deleted=deleted)


class _JobThread:
    """Does jobs one after the other, in the scheduler's thread, on one connection.

    `keeps_connection`: also between two jobs.
    """

    def __init__(
        self, connect: Callable[[], BoundedConnection], *, keeps_connection: bool = True
    ) -> None:
        self._stop = threading.Event()
        self.idle = threading.Event()
        self.idle.set()
        self._connect = connect
        self._keeps_connection = keeps_connection
        self._connection: BoundedConnection | None = None
        self._retries: dict[str, RetryTimer] = {}

    @property
    def stopping(self) -> bool:
        """Return whether it takes no more jobs."""
        return self._stop.is_set()

    def do(self, job: Callable[[Connection], None]) -> None:
        """Do a job, unless it waits for its next try after a failure."""
        name = job.__name__.strip("_")
        waiting = [self._retries.get(key) for key in (name, _CONNECTING)]
        if self.stopping or any(retry is not None and not retry.is_due for retry in waiting):
            return
        self.idle.clear()
        try:
            job(self._connected())
        except (psycopg.Error, PeersError, OSError, RuntimeError) as error:
            self._disconnect()
            self._put_off(name, error)
        else:
            self._retries.pop(name, None)
            self._retries.pop(_CONNECTING, None)
        finally:
            if self._stop.is_set() or not self._keeps_connection:
                self._disconnect()
            self.idle.set()

    def stop(self) -> None:
        """Take no more jobs, and interrupt the running one. Another thread calls this."""
        self._stop.set()
        connection = self._connection
        if connection is None:
            return
        if self.idle.is_set():
            self._disconnect()
        else:
            connection.interrupt(0.0)

    def _connected(self) -> BoundedConnection:
        if self._connection is None:
            attempt = Background(self._connect, lambda connection: connection.close())
            while not attempt.wait(_STOP_CHECK_EVERY):
                if self.stopping:
                    attempt.cancel()
                    raise DatabaseUnreachable("the peer stops before it has connected")
            self._connection = attempt.result()
        return self._connection

    def _put_off(self, name: str, error: Exception) -> None:
        is_lost = is_connection_lost(error)
        key = _CONNECTING if is_lost else name
        is_known = key in self._retries
        self._retries.setdefault(key, RetryTimer(Backoff(cap=_RETRY_MAX))).failed()
        # An outage is logged once here: the main loop logs it as well.
        if not self.stopping and not (is_lost and is_known):
            events.maintenance_failed(job=name, error=str(error).strip())

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
