"""What is odd about the column `odd` of an input, as values and as people spell it in texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

ROWS: Final = 1200
SPELLINGS: Final = ("", "NA", "N/A", "NULL", "NaN", "nan", "None", "null", "#N/A", "n/a")


@dataclass(frozen=True)
class Oddity:
    """`value`: of a row. `spelled`: of a row, in a CSV, where it is not the value's own text.

    `texts`: the reader is told that these columns hold texts, as people do for codes.
    """

    name: str
    value: Callable[[int], Any]
    spelled: Callable[[int], str] | None = None
    texts: bool = False


def _gap(row: int) -> bool:
    return row % 5 == 3


def _gappy(value: Callable[[int], Any]) -> Callable[[int], Any]:
    return lambda row: None if _gap(row) else value(row)


def _spelled_gaps(value: Callable[[int], Any]) -> Callable[[int], str]:
    return lambda row: SPELLINGS[row // 5 % len(SPELLINGS)] if _gap(row) else str(value(row))


def _code(row: int) -> str:
    return ("01067", "10115", "00501", "80331")[row * 7 % 4]


def _truth(row: int) -> bool:
    return row * 7 % 3 == 0


def _word(row: int) -> str:
    return ("red", "green blue", "blue", "yes")[row * 5 % 4]


def _number(row: int) -> float:
    return row * 0.1


def _whole(row: int) -> int:
    return row * 7 % 11


def _big(row: int) -> int:
    return 9007199254740993 + row * 7 % 5


def _late(row: int) -> str:
    return "V0001" if row > 1000 and row % 9 == 0 else str(row % 4)


def _time(row: int) -> datetime:
    return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=row % 4)


def _money(row: int) -> Decimal:
    return Decimal(row * 7 % 13) / 4


ODDITIES: Final = (
    Oddity("plain numbers", _number),
    Oddity("booleans", _truth),
    Oddity("booleans of Excel", _truth, lambda row: str(_truth(row)).upper()),
    Oddity("codes", _code),
    Oddity("codes as texts", _code, texts=True),
    Oddity("big integers", _big),
    Oddity("big integers with gaps", _gappy(_big), _spelled_gaps(_big)),
    Oddity("texts", _word),
    Oddity("texts with gaps", _gappy(_word), _spelled_gaps(_word)),
    Oddity("integers with gaps", _gappy(_whole), _spelled_gaps(_whole)),
    Oddity("numbers with gaps", _gappy(_number), _spelled_gaps(_number)),
    Oddity("booleans with gaps", _gappy(_truth), _spelled_gaps(_truth)),
    Oddity("gaps first", lambda row: None if row < 1000 else _word(row),
           lambda row: "" if row < 1000 else _word(row)),
    Oddity("gaps only", lambda _: None, lambda _: ""),
    Oddity("late texts", _late),
    Oddity("decimals", _money),
    Oddity("times with zones", _time, lambda row: _time(row).isoformat()),
)  # fmt: skip
