"""Run the periodic maintenance of the database, in every peer.

It is idempotent, so that no leader is needed. It uses the main loop's connection: each step is a
short transaction between those that record and claim.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

import psycopg
from psycopg.pq.abc import PGresult

from peers import events
from peers.database import maintenance
from peers.database.deadlines import Bounds
from peers.database.jobs import Job
from peers.database.pipeline import Statement, StatementRefused
from peers.database.pooler import SYMPTOMS
from peers.database.reconnecting import ReconnectingConnection
from peers.errors import PeerLost
from peers.peer.promotion import Promotion
from peers.peer.state import PeerState

_CHECK_KINDS_EVERY: Final = 60.0
_PLACE_LIMITED_EVERY: Final = 30.0
_RETENTION_EVERY: Final = 600.0
_DELETE_PEEKS_EVERY: Final = 60.0
_JITTER: Final = 0.1  # of the interval, so that peers that started together spread out
_STEP_SECONDS: Final = 0.05
"""A step is sized to take about this long, because the peer's own tasks wait meanwhile."""
_SESSION_ERRORS: Final = (*SYMPTOMS, psycopg.errors.FeatureNotSupported)


class Retention(NamedTuple):
    """How long tasks are kept after their end. None: for ever."""

    completed: timedelta | None = None
    dead: timedelta | None = None


class Chore:
    """One kind of maintenance: when its next step is due, and how many rows that may handle."""

    def __init__(
        self, name: str, write: Callable[[UUID, int], Statement],
        read: Callable[[PGresult, int], bool], every: float, most: int = 1,
    ) -> None:  # fmt: skip
        self.name = name
        self.write = write
        self.read = read
        """It takes the result of a step and its size, and returns whether the chore is done."""
        self.size = most
        self._most = most
        self._every = every
        self._due_at = time.monotonic() + self._interval()

    def due_at(self) -> float:
        """Return when (monotonic) the next step is due."""
        return self._due_at

    def done(self, seconds: float, *, finished: bool) -> None:
        """Note that a step took so long. While more is to do, the peer's own work comes between."""
        if seconds > 2 * _STEP_SECONDS:
            self.size = max(1, self.size // 2)
        elif seconds < _STEP_SECONDS:
            self.size = min(self._most, self.size * 2)
        self._due_at = time.monotonic() + (self._interval() if finished else seconds)

    def set_due(self) -> None:
        """Make the next step due now."""
        self._due_at = 0.0

    def failed(self) -> None:
        """Make the next step smaller: this one may have taken too long."""
        self.size = max(1, self.size // 4)

    def _interval(self) -> float:
        return self._every * (1 + random.uniform(-_JITTER, _JITTER))


class _Promote(Chore):
    """Promotes when the next scheduled task is due."""

    def __init__(self, promotion: Promotion, is_listening: Callable[[], bool]) -> None:
        super().__init__("promote", lambda _, most: maintenance.promote(most), self._read, 0, 1000)
        self._promotion = promotion
        self._is_listening = is_listening

    def due_at(self) -> float:
        """Return when (monotonic) the next task is due."""
        return max(super().due_at(), self._promotion.due_at(is_listening=self._is_listening()))

    def _read(self, result: PGresult, most: int) -> bool:
        reply = maintenance.read_promoted(result)
        finished = reply.promoted < most
        self._promotion.note(reply, finished=finished)
        return finished


class Maintenance:
    """The chores of a peer. One step of one chore is in progress at a time."""

    def __init__(
        self, state: PeerState, connection: ReconnectingConnection, lease: timedelta,
        retention: Retention, is_listening: Callable[[], bool], chores: Sequence[Chore] = (),
    ) -> None:  # fmt: skip
        self._state = state
        self._connection = connection
        self._bounds = Bounds.of_maintenance(lease.total_seconds())
        self.promotion = Promotion()
        self._reported: set[tuple[str, str]] = set()
        self._pruned = 0
        self._place_limited = Chore(
            "place_limited", lambda _, most: maintenance.place_limited(most),
            lambda result, _: not maintenance.read_placed(result), _PLACE_LIMITED_EVERY, 10_000,
        )  # fmt: skip
        self._chores = [
            _Promote(self.promotion, is_listening),
            Chore(
                "check_kinds", lambda *_: maintenance.unrunnable(), self._read_unrunnable,
                _CHECK_KINDS_EVERY,
            ),
            self._place_limited,
            Chore(
                "delete_peeks", lambda *_: maintenance.delete_peeks(), lambda *_: True,
                _DELETE_PEEKS_EVERY,
            ),
            *chores,
        ]  # fmt: skip
        keep_completed, keep_dead = retention
        if keep_completed is not None or keep_dead is not None:
            self._chores.append(Chore(
                "apply_retention",
                lambda _, most: maintenance.apply_retention(keep_completed, keep_dead, most),
                self._read_pruned, _RETENTION_EVERY, 10_000,
            ))  # fmt: skip
        if keep_completed is not None:
            self._chores.append(Chore(
                "prune_schedule_runs",
                lambda _, most: maintenance.prune_schedule_runs(keep_completed, most),
                lambda result, most: maintenance.read_count(result) < most, _RETENTION_EVERY,
                10_000,
            ))  # fmt: skip

    def limits_changed(self) -> None:
        """Move tasks to where they wait now: a limit was added, changed or removed."""
        self._place_limited.set_due()

    def due_at(self) -> float:
        """Return when (monotonic) the next step is due."""
        return min(map(self._due_at, self._chores))

    def start_due(self) -> None:
        """Begin the step that is due, if there is one. Raises `DatabaseUnreachable`."""
        chore = min(self._chores, key=self._due_at)
        peer_id, now = self._state.peer_id, time.monotonic()
        if peer_id is None or not self._connection.is_idle or self._due_at(chore) > now:
            return
        size = chore.size
        self._connection.start(
            Job(
                [chore.write(peer_id, size)],
                lambda results: self._done(chore, results[0], size, now),
                lambda refused: self._refused(chore, refused),
                bounds=self._bounds,
            )
        )

    def _due_at(self, chore: Chore) -> float:
        return max(chore.due_at(), self._connection.retry_at(chore.name))

    def _done(self, chore: Chore, result: PGresult, size: int, began: float) -> None:
        self._connection.succeeded(chore.name)
        finished = chore.read(result, size)
        chore.done(time.monotonic() - began, finished=finished)

    def _refused(self, chore: Chore, refused: StatementRefused) -> None:
        """Put off this chore alone. Another peer may succeed meanwhile."""
        chore.failed()
        self._connection.delay(chore.name)
        events.maintenance_failed(job=chore.name, error=str(refused.error).strip())
        if isinstance(refused.error, PeerLost):
            raise refused.error
        if isinstance(refused.error, _SESSION_ERRORS):
            self._connection.renew_session(refused.error)

    def _read_unrunnable(self, result: PGresult, _: int) -> bool:
        unrunnable = maintenance.read_unrunnable(result)
        for queue, kind, tasks, oldest in unrunnable:
            if (queue, kind) not in self._reported:
                events.tasks_unrunnable(queue=queue, kind=kind, tasks=tasks, oldest_ready_at=oldest)
        self._reported = {(row.queue, row.kind) for row in unrunnable}
        return True

    def _read_pruned(self, result: PGresult, _: int) -> bool:
        step = maintenance.read_pruned(result)
        self._pruned += step.deleted
        if step.finished and self._pruned:
            events.tasks_pruned(deleted=self._pruned)
            self._pruned = 0
        return step.finished
