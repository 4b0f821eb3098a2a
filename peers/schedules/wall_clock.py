"""The times of a cron expression on a wall clock whose hands are never moved.

A reading of the clock is a `datetime` in UTC. APScheduler does not see the real time zone, because
its cron trigger is wrong where clocks change: it runs a fixed hour twice if that hour comes twice.
`peers.schedules.zone` turns readings into instants.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from apscheduler.triggers.cron import CronTrigger

from peers.schedules.cron import Cron, parse_cron
from peers.schedules.fields import LAST

if TYPE_CHECKING:
    from collections.abc import Iterable

_TICK: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1)
_NTH: Final = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 5: "5th", LAST: "last"}
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ALL: Final = {"minute": 60, "hour": 24, "day": 31, "month": 12, "day_of_week": 7}
_SERIES_MIN: Final = 3


class WallClock:
    """The readings that match a cron expression."""

    def __init__(self, cron: Cron) -> None:
        self.fixed = cron.fixed
        self._cron = cron
        self._triggers = _triggers(cron)

    def next_after(self, reading: datetime) -> datetime | None:
        """Return the first match after a reading, or None if there is none up to the year 9999."""
        matches = [self._next_match(trigger, reading) for trigger in self._triggers]
        return min((match for match in matches if match is not None), default=None)

    def _next_match(self, trigger: Any, reading: datetime) -> datetime | None:
        while True:
            match: datetime | None = trigger.get_next_fire_time(None, reading + _TICK)
            if match is None or self._cron.either_day or self._has_day(match):
                return match
            reading = datetime.combine(match, time(), UTC) + _DAY - _TICK

    def _has_day(self, match: datetime) -> bool:
        # The trigger of a weekday that is limited to one week has no condition for the day.
        return self._cron.has_day(match.day, monthrange(match.year, match.month)[1])


@lru_cache(maxsize=20_000)
def wall_clock(text: str) -> WallClock:
    """Return the readings of a cron expression. Raises `BadSchedule`."""
    return WallClock(parse_cron(text))


def _triggers(cron: Cron) -> list[Any]:
    """Return APScheduler's triggers, any of which may match.

    They are made from the fields, because its `from_crontab` takes weekday 0 for Monday, and needs
    a matching day and a matching weekday where cron needs either.
    """
    days = _expression("day", cron.days - {LAST}) + ["last"] * (LAST in cron.days)
    weekdays = [_WEEKDAYS[weekday] for weekday in sorted(cron.weekdays)]
    limited = [f"{_NTH[nth]} {_WEEKDAYS[weekday]}" for weekday, nth in cron.limited_weekdays]
    triggers = [_trigger(cron, day=[item]) for item in sorted(limited)]
    if cron.either_day:
        triggers.append(_trigger(cron, day=days))
        if weekdays:
            triggers.append(_trigger(cron, weekday=weekdays))
    elif weekdays:
        triggers.append(_trigger(cron, day=days, weekday=weekdays))
    return triggers


def _trigger(cron: Cron, day: Iterable[str] = "*", weekday: Iterable[str] = "*") -> Any:
    return CronTrigger(
        month=",".join(_expression("month", cron.months)),
        day=",".join(day),
        day_of_week=",".join(weekday),
        hour=",".join(_expression("hour", cron.hours)),
        minute=",".join(_expression("minute", cron.minutes)),
        timezone=UTC,
    )


def _expression(field: str, values: Iterable[int]) -> list[str]:
    """Return the values as few items, because APScheduler tries each item at each step."""
    ordered = sorted(values)
    if len(ordered) == _ALL[field]:
        return ["*"]
    steps = {after - before for before, after in pairwise(ordered)}
    if len(ordered) >= _SERIES_MIN and len(steps) == 1:
        return [f"{ordered[0]}-{ordered[-1]}/{steps.pop()}"]
    return [str(value) for value in ordered]
