"""Fire schedules when they are due.

Every peer tries, and the database lets one win. The chore has two steps: it asks which schedules
are due, computes their due times, and passes them to the database. It repeats both until nothing is
due. An idle peer asks when the next schedule is due, and every 30 seconds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from psycopg.pq.abc import PGresult

from peers import events
from peers.database import maintenance
from peers.database.pipeline import Statement
from peers.database.rows import DueSchedules, ScheduleRun
from peers.peer.due_times import backfill_of, fire_of, prepare
from peers.peer.maintenance import Chore

SCHEDULE: Final = "schedule"
"""The payload of a notification that the times of a schedule have changed."""

_MAX_SCHEDULES: Final = 50
_FIRE: Final = ("name", "revision", "next_due_at")
_BACKFILL: Final = ("id", "name", "revision", "done_until")
_REFUSED: Final = "the database refused to submit the task, or did not finish it in time"
_NEVER: Final = float("inf")
_AT_LEAST_EVERY: Final = 30.0
"""Seconds. A notification may be lost, or someone may set the database's clock."""
_WITHOUT_NOTIFICATIONS: Final = 1.0
_SPREAD: Final = 0.03
"""Seconds over which the peers spread their looks, so that the others find the first one's work."""
_AGAIN_AFTER: Final = 0.05
"""Seconds until the next look after the first miss."""
_AGAIN_MAX: Final = 1.0
_COMPUTE_SECONDS: Final = 0.05


class Schedules(Chore):
    """Is due when the next schedule is due."""

    def __init__(self, is_listening: Callable[[], bool]) -> None:
        super().__init__("fire_schedules", self._write, self._read, 0.0, _MAX_SCHEDULES)
        self._is_listening = is_listening
        self._looked_at = 0.0
        self._look_at = 0.0
        """When (monotonic) the next schedule is due."""
        self._fires: list[dict[str, Any]] = []
        self._backfills: list[dict[str, Any]] = []
        self._sent_fires: list[dict[str, Any]] = []
        self._sent_backfills: list[dict[str, Any]] = []
        """What the step in progress submits: fires or backfills, or neither if it looks."""
        self._then_at = _NEVER
        """When (monotonic) the first schedule is due of those that are not yet."""
        self._misses = 0
        """How many times in a row it could fire nothing of what was due."""

    def look_now(self) -> None:
        """Look soon: schedules have changed, or a notification may have been lost."""
        self._look_at = 0.0

    def due_at(self) -> float:
        """Return when (monotonic) to fire, or to look."""
        if self._fires or self._backfills:
            return super().due_at()
        longest = _AT_LEAST_EVERY if self._is_listening() else _WITHOUT_NOTIFICATIONS
        return max(super().due_at(), min(self._look_at, self._looked_at + longest))

    def failed(self) -> None:
        """Forget what was to be fired: another peer may have fired it meanwhile.

        A schedule or a backfill that was refused alone, for example because a trigger took too
        long, is recorded as failed, so that the others go on while it waits for its next try.
        """
        super().failed()
        self._fires = _refused(self._sent_fires, _FIRE)
        self._backfills = _refused(self._sent_backfills, _BACKFILL)
        self._sent_fires, self._sent_backfills = [], []

    def _write(self, _: UUID, most: int) -> Statement:
        """Write a step. A backfill has a step of its own: if it fails, no schedule has to wait."""
        self._sent_fires, self._fires = self._fires, []
        self._sent_backfills = []
        if not self._sent_fires:
            self._sent_backfills, self._backfills = self._backfills, []
        if self._sent_fires or self._sent_backfills:
            return maintenance.fire_schedules(self._sent_fires, self._sent_backfills)
        # Of hundreds that a session has locked, the peer could try in vain again and again.
        return maintenance.due_schedules(most, unlocked=self._misses > 0)

    def _read(self, result: PGresult, _: int) -> bool:
        if self._sent_fires or self._sent_backfills:
            return self._read_fired(maintenance.read_fired(result))
        return self._read_due(maintenance.read_due_schedules(result))

    def _read_due(self, reply: DueSchedules) -> bool:
        received_at = time.monotonic()
        self._looked_at = received_at
        wait = reply.next_at - reply.now
        spread = random.uniform(0, _SPREAD)
        self._look_at = received_at + wait + spread
        self._then_at = received_at + reply.then_at - reply.now + spread
        if reply.next_at < _NEVER:  # a peer without schedules need not load it
            prepare()
        for alert in reply.late:
            events.schedule_late(schedule=alert["schedule"], due_at=alert["due_at"])
        now = datetime.fromtimestamp(reply.now, UTC)
        self._fires = _fires_of(reply.schedules, now)
        self._backfills = [backfill_of(backfill) for backfill in reply.backfills]
        if self._fires or self._backfills:
            return False
        if wait <= 0:
            self._back_off()
        else:
            self._misses = 0
        return True

    def _read_fired(self, runs: list[ScheduleRun]) -> bool:
        """Log what became of the due times, and look again: there may be more."""
        report(runs)
        if runs:
            self._misses = 0
            self._look_at = 0.0
            return False
        self._back_off()
        return not self._backfills

    def _back_off(self) -> None:
        """Look again after a wait that grows: another peer was faster, or has locked the rows.

        What is due meanwhile does not wait for that.
        """
        self._misses += 1
        wait = min(_AGAIN_MAX, _AGAIN_AFTER * 2 ** min(self._misses - 1, 10))
        self._look_at = min(time.monotonic() + wait * random.uniform(0.5, 1), self._then_at)


def _fires_of(schedules: list[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """Compute the due times of as many schedules as the peer's own work can wait for.

    The next look returns the others. After a day without peers, 50 schedules that are due each
    minute would take 3.5 s.
    """
    until = time.monotonic() + _COMPUTE_SECONDS
    fires = []
    for schedule in schedules:
        fires.append(fire_of(schedule, now))
        if time.monotonic() > until:
            break
    return fires


def _refused(sent: list[dict[str, Any]], identity: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return what records that the only one that was sent has failed."""
    if len(sent) != 1 or "error" in sent[0]:
        return []
    return [{name: sent[0][name] for name in identity} | {"error": _REFUSED}]


def report(runs: list[ScheduleRun]) -> None:
    """Log what became of due times. There is one line for all that a schedule has skipped."""
    skipped: dict[tuple[str, str], list[datetime]] = {}
    for schedule, due_at, outcome, reason, task_id in runs:
        if outcome == "failed":
            when = None if due_at is None else due_at.isoformat()
            events.schedule_failed(schedule=schedule, due_at=when, error=reason or "")
        elif due_at is None:
            continue  # its next due time was computed
        elif task_id is None:
            skipped.setdefault((schedule, reason or ""), []).append(due_at)
        else:
            events.schedule_fired(schedule=schedule, due_at=due_at, task_id=task_id)
    for (schedule, reason), times in skipped.items():
        events.schedule_skipped(
            schedule=schedule, due_at=min(times), times=len(times), reason=reason
        )
