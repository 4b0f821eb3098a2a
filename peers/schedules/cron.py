"""Read a cron expression: five fields, or a name such as `@daily`.

`peers._cron_problem` in SQL refuses the same expressions with the same sentences.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from peers.errors import BadSchedule
from peers.schedules.fields import HOUR, LAST, MINUTE, MONTH, read_days, read_weekdays

LENGTH_MAX: Final = 200

_NICKNAMES: Final = {
    "@YEARLY": "0 0 1 1 *", "@ANNUALLY": "0 0 1 1 *", "@MONTHLY": "0 0 1 * *",
    "@WEEKLY": "0 0 * * 0", "@DAILY": "0 0 * * *", "@MIDNIGHT": "0 0 * * *",
    "@HOURLY": "0 * * * *",
}  # fmt: skip
_FIELDS: Final = 5
_WEEK: Final = 7
_MONTH_LENGTHS: Final = {2: (28, 29), 4: (30,), 6: (30,), 9: (30,), 11: (30,)}
_LONG_MONTH: Final = (31,)


@dataclass(frozen=True, slots=True)
class Cron:
    """The values of a cron expression."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    """1 to 31, and LAST."""
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 to 6; 0 is Sunday."""
    limited_weekdays: frozenset[tuple[int, int]]
    """A weekday, and which one of the month it is: 1 to 5, or LAST."""
    either_day: bool
    """Whether a date needs a matching day or a matching weekday; otherwise it needs both."""
    fixed: bool
    """Whether minute and hour are fixed, so that a change of the clocks must not skip a run."""

    def has_day(self, day: int, length: int) -> bool:
        """Return whether the field "day of month" has this day of a month of `length` days."""
        return day in self.days or (day == length and LAST in self.days)

    def can_fire(self) -> bool:
        """Return whether any date matches. In 400 years each date falls on each weekday."""
        return self.either_day or any(
            self.has_day(day, length) and self._can_be_weekday(day, length)
            for month in self.months
            for length in _MONTH_LENGTHS.get(month, _LONG_MONTH)
            for day in range(1, length + 1)
        )

    def _can_be_weekday(self, day: int, length: int) -> bool:
        if self.weekdays:
            return True
        week = (day - 1) // _WEEK + 1
        is_last = day + _WEEK > length
        return any(nth == week or (nth == LAST and is_last) for _, nth in self.limited_weekdays)


def parse_cron(text: str) -> Cron:
    """Return the values of a cron expression. Raises `BadSchedule`, which names the wrong field."""
    minute, hour, day, month, weekday = _split(text)
    cron = Cron(
        MINUTE.read(minute),
        HOUR.read(hour),
        read_days(day),
        MONTH.read(month),
        *read_weekdays(weekday),
        # As in Vixie's cron, the star decides, whatever the values are.
        either_day=not day.startswith("*") and not weekday.startswith("*"),
        fixed=not minute.startswith("*") and not hour.startswith("*"),
    )
    if not cron.can_fire():
        raise BadSchedule(
            f'no date has day of month "{day}", month "{month}" and weekday "{weekday}";'
            " example: 0 2 L 2 * for the last day of February"
        )
    return cron


def _split(text: str) -> list[str]:
    if not re.fullmatch(r"[\t -~]*", text):
        raise BadSchedule("cron must have printable ASCII characters only; example: 0 2 * * *")
    if len(text) > LENGTH_MAX:
        raise BadSchedule(
            f"cron must have at most {LENGTH_MAX} characters, not {len(text)}; example: 0 2 * * *"
        )
    upper = text.upper().strip("\t ")
    if upper.startswith("@") and upper not in _NICKNAMES:
        raise BadSchedule(
            f'cron must not be "{upper}"; use @hourly, @daily, @weekly, @monthly or @yearly,'
            " or five fields; example: 0 2 * * *"
        )
    fields = re.findall(r"[^\t ]+", _NICKNAMES.get(upper, upper))
    if len(fields) != _FIELDS:
        raise BadSchedule(
            "cron must have five fields (minute, hour, day of month, month, weekday), not"
            f" {len(fields)}; example: 0 2 * * MON-FRI; there is no field for seconds or years:"
            " for a period below one minute use every"
        )
    return fields
