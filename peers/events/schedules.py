"""Events of schedules: what became of their due times, and what their declarations changed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from peers.events.record import event

if TYPE_CHECKING:
    from datetime import datetime


@event(logging.DEBUG, "schedule %(schedule)s, due at %(due_at)s: submitted task %(task_id)d")
def schedule_fired(*, schedule: str, due_at: datetime, task_id: int) -> None:
    """Report that this peer has submitted the task of a due time. Other peers then do not."""


@event(
    logging.INFO,
    "schedule %(schedule)s: skipped %(times)d due times from %(due_at)s on, because of %(reason)s",
)
def schedule_skipped(*, schedule: str, due_at: datetime, times: int, reason: str) -> None:
    """Report due times without a task. `peers schedule explain NAME` says what the reason means."""


@event(
    logging.WARNING,
    "schedule %(schedule)s could not be fired: %(error)s; the peers try again",
)
def schedule_failed(*, schedule: str, due_at: str | None, error: str) -> None:
    """Report that the database refused the task of a due time. Other schedules go on.

    An application's trigger may have raised. Fix the cause; the table peers.schedule_run has it.
    """


@event(
    logging.WARNING,
    "schedule %(schedule)s: no run has completed in time since it was due at %(due_at)s",
)
def schedule_late(*, schedule: str, due_at: str) -> None:
    """Report an alert: see expect_within of the schedule. The table peers.alert has those open."""


@event(logging.INFO, "schedule %(schedule)s was %(change)s as the app declares it")
def schedule_declared(*, schedule: str, change: str) -> None:
    """Report that a declaration in the app has created or changed a schedule."""
