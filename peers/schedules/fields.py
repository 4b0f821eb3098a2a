"""The five fields of a cron expression: their bounds, and how the items of a list are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from peers.errors import BadSchedule

LAST: Final = -1
"""As a day of the month: the month's last day. As a week: the weekday's last one in a month."""

_NUMBER: Final = re.compile("[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Field:
    """One field: the values that it takes, and how people write them."""

    name: str
    first: int
    last: int
    cycle: int
    """How many different values there are: a range that wraps around continues after these."""
    bound: str
    examples: str
    names: tuple[str, ...] = ()
    """The names of the values, from the first one on."""

    def read(self, text: str) -> frozenset[int]:
        """Return the values of a list. Raises `BadSchedule`, which names the wrong item."""
        return frozenset(value for item in text.split(",") for value in self._read_item(item))

    def number(self, text: str) -> int | None:
        """Return the value that a number or a name stands for, or None."""
        if text in self.names:
            return self.names.index(text) + self.first
        if _NUMBER.fullmatch(text) and self.first <= int(text) <= self.last:
            return int(text)
        return None

    def refusal(self, item: str) -> BadSchedule:
        """Return the error for an item that has a wrong value or shape."""
        return BadSchedule(
            f'{self.name} must be {self.bound}, not "{item}"; examples: {self.examples}'
        )

    def _read_item(self, item: str) -> list[int]:
        base, slash, step_text = item.partition("/")
        start_text, dash, end_text = base.partition("-")
        start = self.first if base == "*" else self.number(start_text)
        end = self.number(end_text) if dash else self.last if slash or base == "*" else start
        if start is None or end is None:
            raise self.refusal(item)
        if end < start:
            end += self.cycle
        values = range(start, end + 1, self._read_step(item, step_text) if slash else 1)
        return [(value - self.first) % self.cycle + self.first for value in values]

    def _read_step(self, item: str, text: str) -> int:
        if _NUMBER.fullmatch(text) and 1 <= int(text) <= self.last:
            return int(text)
        raise BadSchedule(
            f'the step of {self.name} must be 1 to {self.last}, not "{item}"; examples:'
            f" {self.examples}; steps start again at {self.first}: for other periods use every"
        )


MINUTE: Final = Field("minute", 0, 59, 60, "0 to 59", "0 or 5,35 or 10-20 or */15")
HOUR: Final = Field("hour", 0, 23, 24, "0 to 23", "2 or 9-17 or 22-4 or */6")
DAY: Final = Field("day of month", 1, 31, 31, "1 to 31 or L", "1 or 1,15 or L or */2")
MONTH: Final = Field(
    "month", 1, 12, 12, "1 to 12 or JAN to DEC", "1 or JAN,JUL or NOV-FEB or */3",
    ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
)  # fmt: skip
WEEKDAY: Final = Field(
    "weekday", 0, 7, 7, "0 to 7 or SUN to SAT (0 and 7 are Sunday)",
    "MON-FRI or 0 or MON#1 or 5L", ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"),
)  # fmt: skip


def read_days(text: str) -> frozenset[int]:
    """Return the days of the month, with LAST for `L`."""
    items = text.split(",")
    plain = [item for item in items if item != "L"]
    days = DAY.read(",".join(plain)) if plain else frozenset()
    return days | {LAST} if len(plain) < len(items) else days


def read_weekdays(text: str) -> tuple[frozenset[int], frozenset[tuple[int, int]]]:
    """Return the weekdays (0 is Sunday), and those that are limited to one week of the month.

    `MON#2` is the month's second Monday, `5L` its last Friday.
    """
    plain, limited = set[int](), set[tuple[int, int]]()
    for item in text.split(","):
        match = re.fullmatch("([0-9A-Z]+)(?:L|#([1-5]))", item)
        if match is None:
            plain |= WEEKDAY.read(item)
            continue
        weekday = WEEKDAY.number(match[1])
        if weekday is None:
            raise WEEKDAY.refusal(item)
        limited.add((weekday % WEEKDAY.cycle, int(match[2] or LAST)))
    return frozenset(plain), frozenset(limited)
