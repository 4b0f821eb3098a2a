"""Compute the due times that a peer passes to `peers.fire_schedules` and `peers.run_backfills`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from peers.errors import BadSchedule

if TYPE_CHECKING:
    from peers.schedules.calendar import Calendar

MISSED_MAX: Final = 1000
"""How many missed due times one step records, each in a row of its own."""
SUBMITTED_MAX: Final = 50
"""How many due times may have tasks in one step."""


def prepare() -> None:
    """Load what computes due times. It takes 0.1 s, so do it before a schedule is due."""
    importlib.import_module("peers.schedules.calendar")


def fire_of(schedule: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return what is to be fired of a schedule, from a row of `peers.due_schedules`."""
    fire = {key: schedule[key] for key in ("name", "revision", "next_due_at")}
    try:
        return fire | _due(schedule, now)
    except BadSchedule as error:
        return fire | {"error": str(error)}


def backfill_of(backfill: Mapping[str, Any]) -> dict[str, Any]:
    """Return the next step of a backfill, from a row of `peers.due_schedules`."""
    step = {key: backfill[key] for key in ("id", "name", "revision", "done_until")}
    after = _time(backfill["done_until"]) or _before(_time(backfill["from_at"]))
    until = _time(backfill["until_at"])
    assert after is not None
    assert until is not None
    try:
        times = calendar_of(backfill).between(after, until, SUBMITTED_MAX)
    except BadSchedule as error:
        return step | {"error": str(error)}
    return step | {"due_times": _written(times), "finished": len(times) < SUBMITTED_MAX}


def calendar_of(schedule: Mapping[str, Any]) -> Calendar:
    """Return the calendar of a schedule. Raises `BadSchedule` if this host cannot compute it."""
    from peers.schedules.calendar import Calendar  # see `prepare`

    every = schedule["every"]
    return Calendar(
        schedule["cron"],
        None if every is None else timedelta(seconds=every),
        schedule["timezone"],
        _time(schedule["anchor"]) or datetime(1970, 1, 1, tzinfo=UTC),
    )


def _due(schedule: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    calendar = calendar_of(schedule)
    most = SUBMITTED_MAX if schedule["all"] else MISSED_MAX
    next_due_at, computed_from = _time(schedule["next_due_at"]), _time(schedule["computed_from"])
    assert computed_from is not None
    after = computed_from if next_due_at is None else _before(next_due_at)
    assert after is not None
    due = calendar.between(after, now, most + 1)
    if next_due_at is not None and due[:1] != [next_due_at]:
        due.insert(0, next_due_at)  # another release of the time zones moved it
    if len(due) <= most:
        then = calendar.next_after(max(due[-1] if due else after, now))
        return {"due_times": _written(due), "then_due_at": _text(then)}
    oldest = now - timedelta(seconds=schedule["catch_up"])
    if due[most] > oldest:
        return {"due_times": _written(due[:most]), "then_due_at": _text(due[most])}
    # none of these may run any more, and there may be millions of them
    return {
        "skipped_from": _text(due[0]), "skipped_until": _text(oldest), "due_times": [],
        "then_due_at": _text(calendar.next_after(oldest)),
    }  # fmt: skip


def _before(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment - timedelta(microseconds=1)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _written(times: list[datetime]) -> list[str]:
    return [moment.isoformat() for moment in times]
