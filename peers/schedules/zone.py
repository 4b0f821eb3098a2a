"""Where the clocks of a time zone change."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from peers.errors import BadSchedule

# Since 1970 two changes of one zone were at least 6.9 days apart (Brazil, 2000).
_SAMPLE: Final = timedelta(days=3)
_SECOND: Final = timedelta(seconds=1)
_TICK: Final = timedelta(microseconds=1)
# In POSIX notation UTC+3 is three hours behind UTC, so names with digits are refused, except those
# of the area Etc.
_NAME: Final = re.compile(
    r"[A-Z][A-Za-z]*([/_-][A-Za-z]+)*|Etc/GMT([+]([0-9]|1[0-2])|-([0-9]|1[0-4]))", re.ASCII
)
_NAME_LENGTH_MAX: Final = 100


class Zone:
    """A time zone. Instants and readings of its clocks are both `datetime` in UTC."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.info = _zone_info(name)

    def offset(self, instant: datetime) -> timedelta:
        """Return what its clocks add to UTC."""
        return _offset(self.info, instant)

    def reading(self, instant: datetime) -> datetime:
        """Return what its clocks show."""
        return instant + self.offset(instant)

    def highest_reading(self, instant: datetime) -> datetime:
        """Return the latest reading that its clocks have shown up to this instant.

        It differs from the reading at this instant while the clocks show an hour again.
        """
        if not instant.astimezone(self.info).fold:
            return self.reading(instant)
        change = self._last_change(instant)
        return change + self.offset(change - _SECOND) - _TICK

    def first_instant(self, reading: datetime) -> datetime:
        """Return when its clocks first show a reading, or the end of the gap that skips it."""
        local = reading.replace(tzinfo=self.info)
        instant = local.astimezone(UTC)
        if self.reading(instant) == reading:
            return instant
        return self._last_change(instant)

    def next_change(self, after: datetime, until: datetime) -> datetime | None:
        """Return the first instant with another offset, after the first and up to the second."""
        for year in range(after.year, until.year + 1):
            for change in _changes(self.name, year):
                if change > after:
                    return change if change <= until else None
        return None

    def _last_change(self, instant: datetime) -> datetime:
        changes = _changes(self.name, instant.year - 1) + _changes(self.name, instant.year)
        return max(change for change in changes if change <= instant)


def _zone_info(name: str) -> ZoneInfo:
    if len(name) <= _NAME_LENGTH_MAX and _NAME.fullmatch(name) and name != "Factory":
        with contextlib.suppress(KeyError, OSError, ValueError):
            return ZoneInfo(name)
    raise BadSchedule(
        "timezone must be a name of the IANA time zone database, such as Europe/Berlin or UTC, not"
        f' "{name[:_NAME_LENGTH_MAX]}"; a fixed offset is Etc/GMT-3 for three hours ahead of UTC'
    )


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta(0)


@lru_cache(maxsize=4_000)
def _changes(name: str, year: int) -> tuple[datetime, ...]:
    """Return the instants of a year at which the offset changes. `zoneinfo` does not show them."""
    zone = ZoneInfo(name)
    start, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    found = []
    before, offset = start, _offset(zone, start)
    while before < end:
        after = min(before + _SAMPLE, end)
        if _offset(zone, after) != offset:
            found.append(_bisect(zone, before, after))
            offset = _offset(zone, after)
        before = after
    return tuple(found)


def _bisect(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    offset = _offset(zone, before)
    while after - before > _SECOND:
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if _offset(zone, middle) == offset:
            before = middle
        else:
            after = middle
    return after
