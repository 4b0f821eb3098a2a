"""Declare in the database what the app declares in code, after each join.

A declaration that has not changed since the last one changes nothing, so that an operator's change
with SQL stays until the code itself changes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from psycopg.pq.abc import PGresult

from peers import events
from peers.database import maintenance
from peers.database.pipeline import Statement
from peers.peer.maintenance import Chore

_NEVER: Final = float("inf")
_LOCKED: Final = "locked"
_AGAIN_AFTER: Final = 1.0
"""Seconds until a schedule that a session has locked is declared again."""
_LOCKED_TRIES: Final = 3
"""How often in a row it must be locked until the peer logs it: a peer that fires locks it, too."""


class _DeclareSchedules(Chore):
    """Declares the schedules again while a session has locked one of them."""

    def __init__(self, write: Callable[[UUID, int], Statement]) -> None:
        super().__init__("declare_schedules", write, self._read, _NEVER)
        self._tries = 0

    def done(self, seconds: float, *, finished: bool) -> None:
        """Note that a step took so long. The next one waits: the other session needs time."""
        super().done(seconds, finished=finished)
        if not finished:
            self._due_at = time.monotonic() + _AGAIN_AFTER

    def _read(self, result: PGresult, _: int) -> bool:
        locked = []
        for name, change in maintenance.read_declared(result):
            if change == _LOCKED:
                locked.append(name)
            else:
                events.schedule_declared(schedule=name, change=change)
        self._tries = self._tries + 1 if locked else 0
        if self._tries == _LOCKED_TRIES:
            error = f"another session has locked schedule {', '.join(locked)}"
            events.maintenance_failed(job=self.name, error=error)
        return not locked


class Declarations:
    """The chores that declare what the app declares. Each runs once after a join.

    `read` returns the app's declarations as JSON: a list for each sort of them.
    """

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._schedules = _DeclareSchedules(self._write_schedules)
        self._limits = Chore("declare_limits", self._write_limits, self._read_limits, _NEVER)
        self.chores = (self._limits, self._schedules)

    def declare(self) -> None:
        """Declare everything as soon as possible: the peer has joined."""
        if self._declared("limits"):
            self._limits.set_due()
        if self._declared("schedules"):
            self._schedules.set_due()

    def _declared(self, sort: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self._read()).get(sort, [])
        return found

    def _write_schedules(self, peer_id: UUID, _: int) -> Statement:
        return maintenance.declare_schedules(peer_id, self._declared("schedules"))

    def _write_limits(self, peer_id: UUID, _: int) -> Statement:
        return maintenance.declare_limits(peer_id, self._declared("limits"))

    def _read_limits(self, result: PGresult, _: int) -> bool:
        for name, change, error in maintenance.read_declared_limits(result):
            if error:
                events.limit_refused(limit=name, error=error)
            else:
                events.limit_declared(limit=name, change=change)
        return True
