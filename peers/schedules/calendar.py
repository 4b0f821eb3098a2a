"""The due times of one schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from peers.errors import BadSchedule
from peers.schedules.wall_clock import WallClock, wall_clock
from peers.schedules.zone import Zone
from peers.spans import format_span

EVERY_MIN: Final = timedelta(seconds=1)
EVERY_MAX: Final = timedelta(days=365)

_TICK: Final = timedelta(microseconds=1)
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_END: Final = datetime(9000, 1, 1, tzinfo=UTC)


class Calendar:
    """The due times of a schedule that has a cron expression or a period.

    A cron expression follows the clocks of `timezone`. A fixed time that the clocks skip is due
    right after the gap, and a time that comes twice is due the first time. If minute or hour starts
    with a star, the schedule is due at whatever the clocks show, as in Vixie's cron.

    `every` counts elapsed time from `anchor`, which is the first due time. Times are in UTC.
    Raises `BadSchedule` if a value is wrong.
    """

    def __init__(
        self,
        cron: str | None = None,
        every: timedelta | None = None,
        timezone: str = "UTC",
        anchor: datetime = _FIRST,
    ) -> None:
        if (cron is None) == (every is None):
            raise BadSchedule(
                'set either cron, such as "0 2 * * *" (each night at 2), or every, such as 15'
                " minutes, and not both"
            )
        self._zone = Zone(timezone)
        self._anchor = anchor.astimezone(UTC)
        self._every = None if every is None else _checked(every)
        self._clock = None if cron is None else wall_clock(cron)

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first due time after a moment, or None if there is none before 9000."""
        moment = max(moment.astimezone(UTC), _FIRST - _TICK)
        due = self._next_due(moment) if moment < _END else None
        return due if due is not None and due < _END else None

    def between(self, after: datetime, until: datetime, most: int) -> list[datetime]:
        """Return the due times after the first moment and up to the second, oldest first.

        It stops after `most` of them.
        """
        found: list[datetime] = []
        while len(found) < most:
            due = self.next_after(found[-1] if found else after)
            if due is None or due > until:
                break
            found.append(due)
        return found

    def next_times(self, after: datetime, count: int) -> list[datetime]:
        """Return the next `count` due times after a moment."""
        return self.between(after, _END, count)

    def _next_due(self, moment: datetime) -> datetime | None:
        if self._every is not None:
            return self._next_period(moment, self._every)
        if self._clock is None:
            return None
        if self._clock.fixed:
            return self._next_fixed(moment, self._clock)
        return self._next_shown(moment, self._clock)

    def _next_period(self, moment: datetime, every: timedelta) -> datetime:
        # APScheduler's interval trigger counts in floating point, and so skips some due times.
        if moment < self._anchor:
            return self._anchor
        return self._anchor + ((moment - self._anchor) // every + 1) * every

    def _next_fixed(self, moment: datetime, clock: WallClock) -> datetime | None:
        reading = clock.next_after(self._zone.highest_reading(moment))
        return None if reading is None else self._zone.first_instant(reading)

    def _next_shown(self, moment: datetime, clock: WallClock) -> datetime | None:
        searched_from = self._zone.reading(moment)
        match = clock.next_after(searched_from)
        while match is not None:
            due = match - self._zone.offset(moment)
            change = self._zone.next_change(moment, due)
            if change is None:
                return due
            moment = change
            reading = self._zone.reading(change) - _TICK
            if not searched_from <= reading < match:  # no match lies between these two
                searched_from, match = reading, clock.next_after(reading)
        return None


def _checked(every: timedelta) -> timedelta:
    if EVERY_MIN <= every <= EVERY_MAX:
        return every
    raise BadSchedule(
        f"every must be 1 second to 365 days, such as 15 minutes, not {format_span(every)}"
    )
