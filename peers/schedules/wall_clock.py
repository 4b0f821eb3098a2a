"""The times of a cron expression on a wall clock whose hands are never moved.

A reading of the clock is a `datetime` in UTC. APScheduler does not see the real time zone, because
its cron trigger is wrong where clocks change: it runs a fixed hour twice if that hour comes twice.
`peers.schedules.zone` turns readings into instants.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import replace
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
_EVERY_DAY: Final = frozenset(range(1, 32))
_EVERY_WEEKDAY: Final = frozenset(range(7))
_SERIES_MIN: Final = 3


class WallClock:
    """The readings that match a cron expression."""

    def __init__(self, cron: Cron) -> None:
        self.fixed = cron.fixed
        self._parts = [(part, _trigger(part)) for part in _parts(cron)]

    def next_after(self, reading: datetime) -> datetime | None:
        """Return the first match after a reading, or None if there is none up to the year 9999."""
        matches = [_next_match(part, trigger, reading) for part, trigger in self._parts]
        return min((match for match in matches if match is not None), default=None)


@lru_cache(maxsize=4_000)  # one takes about 7 kB
def wall_clock(text: str) -> WallClock:
    """Return the readings of a cron expression. Raises `BadSchedule`."""
    return WallClock(parse_cron(text))


def _next_match(part: Cron, trigger: Any, reading: datetime) -> datetime | None:
    while True:
        match: datetime | None = trigger.get_next_fire_time(None, reading + _TICK)
        if match is None or not part.limited_weekdays:
            return match
        if part.has_day(match.day, monthrange(match.year, match.month)[1]):
            return match
        reading = datetime.combine(match, time(), UTC) + _DAY - _TICK


def _parts(cron: Cron) -> list[Cron]:
    """Return expressions that each need one trigger, and that together match the same readings.

    A part that matches no date is left out: its trigger would search up to the year 9999.
    """
    alternatives = [cron]
    if cron.either_day:
        by_day = replace(cron, weekdays=_EVERY_WEEKDAY, limited_weekdays=frozenset())
        alternatives = [by_day, replace(cron, days=_EVERY_DAY)]
    parts = []
    for each in alternatives:
        both_days = replace(each, either_day=False)
        parts.append(replace(both_days, limited_weekdays=frozenset()))
        parts += [
            replace(both_days, weekdays=frozenset(), limited_weekdays=frozenset([limited]))
            for limited in sorted(each.limited_weekdays)
        ]
    return [part for part in parts if part.can_fire()]


def _trigger(part: Cron) -> Any:
    """Return APScheduler's trigger.

    It is made from the fields, because APScheduler counts weekdays from Monday, and `from_crontab`
    does not convert them; and because it needs a matching day and a matching weekday where cron
    needs either. A weekday that is limited to one week takes the place of the days, which
    `_next_match` then compares.
    """
    if part.limited_weekdays:
        [(weekday, nth)] = part.limited_weekdays
        days, weekdays = [f"{_NTH[nth]} {_WEEKDAYS[weekday]}"], ["*"]
    else:
        days = _expression("day", part.days - {LAST}) + ["last"] * (LAST in part.days)
        weekdays = _expression("day_of_week", {(weekday - 1) % 7 for weekday in part.weekdays})
    return CronTrigger(
        month=",".join(_expression("month", part.months)),
        day=",".join(days),
        day_of_week=",".join(weekdays),
        hour=",".join(_expression("hour", part.hours)),
        minute=",".join(_expression("minute", part.minutes)),
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
