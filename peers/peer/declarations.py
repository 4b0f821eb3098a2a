"""Declare in the database what the app declares in code, after each join.

A declaration that has not changed since the last one changes nothing, so that an operator's change
with SQL stays until the code itself changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from psycopg.pq.abc import PGresult

from peers import events
from peers.database import maintenance
from peers.database.pipeline import Statement
from peers.peer.maintenance import Chore

_NEVER: Final = float("inf")


class Declarations:
    """The chores that declare what the app declares. Each runs once after a join.

    `read` returns the app's declarations as JSON: a list for each sort of them.
    """

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._schedules = Chore(
            "declare_schedules", self._write_schedules, self._read_schedules, _NEVER
        )
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

    def _read_schedules(self, result: PGresult, _: int) -> bool:
        for name, change in maintenance.read_declared(result):
            events.schedule_declared(schedule=name, change=change)
        return True

    def _write_limits(self, peer_id: UUID, _: int) -> Statement:
        return maintenance.declare_limits(peer_id, self._declared("limits"))

    def _read_limits(self, result: PGresult, _: int) -> bool:
        for name, change, error in maintenance.read_declared_limits(result):
            if error:
                events.limit_refused(limit=name, error=error)
            else:
                events.limit_declared(limit=name, change=change)
        return True
