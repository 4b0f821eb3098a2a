"""Durations as people write them, such as "500ms" or "1h30m"."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final, TypeAlias

Span: TypeAlias = timedelta | float
"""A duration: a timedelta, or seconds."""

UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")
_SPAN: Final = re.compile(rf"(?:{_AMOUNT.pattern})+")


def timedelta_of(span: Span) -> timedelta:
    """Return a duration as a timedelta. Raises `ValueError` or `OverflowError`: there is none."""
    return span if isinstance(span, timedelta) else timedelta(seconds=span)


def seconds_of(span: Span) -> float:
    """Return a duration in seconds."""
    return span.total_seconds() if isinstance(span, timedelta) else span


def sql_interval(span: Span | None) -> str | None:
    """Return a duration as SQL reads it; None for None."""
    return None if span is None else f"{seconds_of(span):.6f} seconds"


def parse_span(text: str) -> timedelta | None:
    """Return the duration of a text such as "500ms", "30s" or "1h30m"; None if it is another text.

    Raises `OverflowError` if it is too long for a timedelta.
    """
    if not _SPAN.fullmatch(text.strip()):
        return None
    return timedelta(
        seconds=sum(float(amount) * UNITS[unit] for amount, unit in _AMOUNT.findall(text))
    )
