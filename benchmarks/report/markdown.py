"""Write tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

NOTHING: Final = "–"
_WHOLE: Final = 100


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. All columns but the first are aligned to the right."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in (header, ruler, *rows))


def _cell(text: str) -> str:
    """Keep an error message from ending the row."""
    return " ".join(text.replace("|", "/").split())


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with separators between thousands, or a dash."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def rate(value: float | None) -> str:
    """Return a rate with three significant digits."""
    if value is None:
        return NOTHING
    scale = 10 ** max(0, len(str(int(value))) - 3)
    return f"{round(value / scale) * scale:,.0f}"


def spread(values: Sequence[float]) -> str:
    """Return the least and the greatest rate."""
    return f"{rate(min(values))} – {rate(max(values))}" if values else NOTHING


def percent(value: float | None) -> str:
    """Return a share as a percentage."""
    return NOTHING if value is None else f"{value * _WHOLE:.1f} %"
