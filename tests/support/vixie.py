"""When Vixie's cron would run a schedule: minute by minute, as its daemon does.

It shares nothing with `peers.schedules` but the language: cronsim reads the expression.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim

if TYPE_CHECKING:
    from collections.abc import Iterator

MINUTE = timedelta(minutes=1)
NICKNAMES = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip


class _Expression:
    """Whether a minute of a wall clock matches."""

    def __init__(self, text: str) -> None:
        self._fields = CronSim(text, datetime(2000, 1, 1))  # noqa: DTZ001  # a wall clock
        minute, hour, *_ = text.split()
        self.fixed = not minute.startswith("*") and not hour.startswith("*")
        self._matches_date = lru_cache(maxsize=None)(self._find_date)

    def matches(self, reading: datetime) -> bool:
        """Return whether the minute is one of the schedule's."""
        return (
            reading.minute in self._fields.minutes
            and reading.hour in self._fields.hours
            and self._matches_date(reading.date())
        )

    def _find_date(self, date: datetime) -> bool:
        return date.month in self._fields.months and bool(self._fields.match_day(date))


def runs(expression: str, zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[datetime]:
    """Yield the runs after `start` and up to `end`, both whole minutes in UTC.

    A daemon wakes every minute. Jobs with a star in minute or hour run at what the clock shows.
    Other jobs run at each minute that the clock has not shown before, and once for all the minutes
    that it has skipped.
    """
    cron = _Expression(expression)
    instant = start
    shown = _reading(instant, zone)
    while instant < end:
        instant += MINUTE
        reading = _reading(instant, zone)
        if not cron.fixed:
            due = cron.matches(reading)
        else:
            due = False
            while shown < reading:
                shown += MINUTE
                due = cron.matches(shown) or due
        if due:
            yield instant


def _reading(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None)


def cronsim_runs(
    expression: str, zone: ZoneInfo, start: datetime, end: datetime
) -> Iterator[datetime]:
    """Yield the runs after `start` and up to `end` by cronsim."""
    for local in CronSim(NICKNAMES.get(expression, expression), start.astimezone(zone)):
        due = local.astimezone(UTC)
        if due > end:
            return
        yield due
