"""How commands print: results to stdout, everything else to stderr."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Final

from peers.cli.exact_json import written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from peers.errors import PeersError

WIDTH: Final = 80
"""The width of a terminal that does not tell its own."""
TIME: Final = "%Y-%m-%d %H:%M:%S"
_GAP: Final = "  "
_NARROWEST: Final = 6
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR


class Right(str):
    """A text that a table aligns to the right and never shortens, such as a rounded number."""

    __slots__ = ()


def say(sentence: str) -> None:
    """Print a sentence to stderr, without control characters of the names in it."""
    print(readable(sentence), file=sys.stderr)


def tell(sentence: str) -> None:
    """Print a sentence to stdout, without control characters of the names in it."""
    print(readable(sentence))


def say_more(total: int, shown: int) -> None:
    """Say on stderr how many rows are not shown, and how to see them."""
    if total > shown:
        say(f"… and {total - shown:,} more: --limit {total} shows all")


def complain(error: PeersError) -> None:
    """Print an error and its remedy to stderr."""
    say(f"peers: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")


def document(value: Mapping[str, object]) -> None:
    """Print one JSON document: times in ISO 8601 and UTC, durations in seconds."""
    print(written(value))


def terminal_width() -> int:
    """Return the width of the terminal in columns; the variable COLUMNS overrides it.

    In a pipe or a file, the width has no limit: a program that reads it needs whole values.
    """
    if not os.environ.get("COLUMNS") and not sys.stdout.isatty():
        return sys.maxsize
    return shutil.get_terminal_size((WIDTH, 0)).columns


def paragraph(line: str) -> None:
    """Print a line; on a terminal, wrap it between words."""
    if sys.stdout.isatty():
        line = textwrap.fill(
            line, max(_NARROWEST, terminal_width()), subsequent_indent="  ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    print(line)


def table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], width_max: int | None = None,
    *, whole: Sequence[str] = (), paths: Sequence[str] = (),
) -> None:  # fmt: skip
    """Print the lines of a table. `width_max` is the terminal's width by default."""
    width_max = width_max or terminal_width()
    for line in table_lines(headings, rows, width_max, whole=whole, paths=paths):
        print(line)


def table_lines(
    headings: Sequence[str], rows: Sequence[Sequence[object]], width_max: int,
    *, whole: Sequence[str] = (), paths: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """Return aligned columns, numbers to the right; shorten long texts to fit the width.

    Columns in `whole` are never shortened, because people copy from them. Columns in `paths` are
    shortened at their start: their ends differ.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    numbers = [all(isinstance(row[i], int | Right) for row in rows) for i in range(len(headings))]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    least = [
        max((len(row[i]) for row in cells), default=0)
        if number or headings[i] in whole
        else _NARROWEST  # a shortened number would be a wrong number
        for i, number in enumerate(numbers)
    ]
    _shrink(widths, least, width_max)
    ends = [i for i, heading in enumerate(headings) if heading in paths]
    for row in cells:
        for i in ends:
            row[i] = _end(row[i], widths[i])
    return [
        _GAP.join(
            cut(cell, width).rjust(width) if number else cut(cell, width).ljust(width)
            for cell, width, number in zip(line, widths, numbers, strict=True)
        ).rstrip()
        for line in [list(headings), *cells]
    ]


def _shrink(widths: list[int], least: Sequence[int], width_max: int) -> None:
    """Make the widest columns narrower until the line fits, or until each has its least width."""
    while sum(widths) + len(_GAP) * (len(widths) - 1) > width_max:
        spare = [i for i, width in enumerate(widths) if width > max(1, least[i])]
        if not spare:
            return
        widths[max(spare, key=widths.__getitem__)] -= 1


def _cell(value: object) -> str:
    return "" if value is None else one_line(str(value))


def cut(line: str, width: int) -> str:
    """Return the line, shortened to the width."""
    return line if len(line) <= width else line[: width - 1] + "…"


def _end(line: str, width: int) -> str:
    return line if len(line) <= width else "…" + line[len(line) - width + 1 :]


def one_line(written: str) -> str:
    """Return the text on one line, without control characters."""
    return " ".join(readable(written).split())


def readable(written: str) -> str:
    """Return the text with control characters escaped, except line breaks and tabs."""
    if written.isprintable():
        return written
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else ascii(sign)[1:-1] for sign in written
    )


def span(length: timedelta) -> str:
    """Return a duration in its two largest units: 850ms, 42s, 3m12s, 4h05m, 3d4h."""
    seconds = max(0.0, length.total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR}h"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: 1 task, 2 tasks, 12,000 tasks."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
