"""What every peer does now and then for all: there is no leader, and twice does no harm."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from peers import events, kernel
from peers.db import Connection, is_connection_lost
from peers.errors import PeersError
from peers.kernel import PROMOTE_MAX_TASKS, RECLAIM_MAX_TASKS

_PROMOTE_EVERY: Final = 1.0
_ALARM_EVERY: Final = 60.0
_PRUNE_EVERY: Final = 600.0
_JITTER: Final = 0.1  # of the interval, so that peers that started together do not come together


class Chores:
    """Timers in a thread, with a connection of their own."""

    def __init__(
        self, connect: Callable[[], Connection], peer_id: Callable[[], UUID | None],
        lease: timedelta, prune_after: timedelta | None,
    ) -> None:  # fmt: skip
        self._connect = connect
        self._peer_id = peer_id
        self._prune_after = prune_after
        self._connection: Connection | None = None
        self._alarmed: set[tuple[str, str]] = set()
        # One thread: a connection serves one statement at a time. And late is better than never.
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(1)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            timezone="UTC",
        )
        self._every(_PROMOTE_EVERY, self._promote)
        self._every(lease.total_seconds() / 3, self._reclaim)
        self._every(_ALARM_EVERY, self._alarm)
        if prune_after is not None:
            self._every(_PRUNE_EVERY, self._prune)

    def start(self) -> None:
        """Start the timers."""
        self._scheduler.start()

    def stop(self) -> None:
        """Stop them; one that is under way is finished first."""
        self._scheduler.shutdown(wait=True)
        self._drop()

    def _every(self, seconds: float, chore: Callable[[Connection], None]) -> None:
        spread = seconds * (1 + random.uniform(-_JITTER, _JITTER))
        self._scheduler.add_job(lambda: self._do(chore), "interval", seconds=spread)

    def _do(self, chore: Callable[[Connection], None]) -> None:
        try:
            if self._connection is None:
                self._connection = self._connect()
            chore(self._connection)
        except (psycopg.Error, PeersError) as error:
            if not is_connection_lost(error):  # the main loop tells of that
                events.chore_failed(chore=chore.__name__.strip("_"), error=str(error))
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _promote(self, connection: Connection) -> None:
        while kernel.promote(connection) >= PROMOTE_MAX_TASKS:
            pass

    def _reclaim(self, connection: Connection) -> None:
        peer_id = self._peer_id()
        while peer_id is not None:
            reclaimed = kernel.reclaim(connection, peer_id)
            for task_id, attempt, lost_peer_id, host in reclaimed:
                events.reclaimed(
                    task_id=task_id, attempt=attempt, lost_peer_id=lost_peer_id, lost_host=host
                )
            if len(reclaimed) < RECLAIM_MAX_TASKS:
                return

    def _alarm(self, connection: Connection) -> None:
        unrunnable = kernel.unrunnable(connection)
        for queue, kind, tasks, oldest in unrunnable:
            if (queue, kind) not in self._alarmed:
                events.kinds_unrunnable(queue=queue, kind=kind, tasks=tasks, oldest_ready_at=oldest)
        self._alarmed = {(row.queue, row.kind) for row in unrunnable}

    def _prune(self, connection: Connection) -> None:
        assert self._prune_after is not None
        deleted, finished = 0, False
        while not finished:
            step = kernel.prune(connection, self._prune_after)
            deleted, finished = deleted + step.deleted, step.finished
        if deleted:
            events.pruned(deleted=deleted)
