"""Durations: one reader for those in code, in settings and on the command line; one writer."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final, SupportsFloat, SupportsIndex, TypeAlias

Span: TypeAlias = timedelta | float | str
"""A duration: a timedelta, seconds, or a text such as "90s", "1h30m" or "1 hour"."""

FORMS: Final = 'a duration such as "500ms", "90s", "1h30m" or "1 hour", or a number of seconds'
"""What every error about a duration says."""

UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NAMES: Final = {
    "ms": "ms|milliseconds?", "s": "s|secs?|seconds?", "m": "m|mins?|minutes?",
    "h": "h|hours?", "d": "d|days?", "w": "w|weeks?",
}  # fmt: skip
_MICROSECONDS: Final = 1_000_000
_SHORTEST: Final = 1e-6
_LONGEST: Final = 1e14
"""In seconds; a timedelta holds less."""
_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
_SECONDS: Final = re.compile(rf"-?{_NUMBER}")
_PARTS: Final = {
    unit: re.compile(rf"({_NUMBER})\s*(?:{names})(?![a-z])") for unit, names in _NAMES.items()
}
_TEXT: Final = re.compile(rf"(?:{_NUMBER}\s*(?:{'|'.join(_NAMES.values())})(?![a-z])\s*)+")
_ISO: Final = re.compile(
    rf"P(?=.*[0-9])(?:({_NUMBER})W)?(?:({_NUMBER})D)?"
    rf"(?:T(?=[0-9])(?:({_NUMBER})H)?(?:({_NUMBER})M)?(?:({_NUMBER})S)?)?"
)


def seconds_of(span: object) -> float:
    """Return a duration in seconds; it may be negative, NaN or infinite, like the number given.

    Raises `ValueError` with the message "must be a duration …": callers put a name before it.
    """
    if isinstance(span, timedelta):
        return span.total_seconds()
    if isinstance(span, str):
        seconds = _read(span.strip())
        if seconds is not None:
            return seconds
    elif isinstance(span, SupportsFloat | SupportsIndex) and not isinstance(span, bool):
        try:
            return float(span)
        except OverflowError:
            return float("inf")
    raise ValueError(f"must be {FORMS}")


def timedelta_of(span: object) -> timedelta:
    """Return a duration as a timedelta. Raises `ValueError` as `seconds_of` does."""
    if isinstance(span, timedelta):
        return span
    try:
        return timedelta(seconds=seconds_of(span))
    except (ValueError, OverflowError):  # also NaN, and more than a timedelta can hold
        raise ValueError(f"must be {FORMS}") from None


def age_of(span: object) -> timedelta:
    """Return how long ago something was, as a timedelta. Raises `ValueError` as `timedelta_of`.

    A number needs a unit, except 0. Commands delete or change what is older, and "30" would mean
    30 seconds, where people mean days.
    """
    found = timedelta_of(span)
    is_number = _SECONDS.fullmatch(span.strip()) if isinstance(span, str) else span is not found
    if found and is_number:
        raise ValueError('must have a unit, such as "30d" or "12h"')
    return found


def sql_interval(span: Span | None) -> str | None:
    """Return a duration as SQL reads it; None for None."""
    return None if span is None else f"{seconds_of(span):.6f} seconds"


def format_span(span: object) -> str:
    """Return a duration as users write it, such as "1h30m". Errors print every duration with this.

    A text stays as the user wrote it, in quotes; so does what is not a duration.
    """
    if isinstance(span, str):
        return repr(span)
    try:
        seconds = seconds_of(span)
    except ValueError:
        return repr(span)
    size = abs(seconds)
    if not (size == 0 or _SHORTEST <= size < _LONGEST):  # also NaN and infinity
        return f"{seconds:g}s" if math.isfinite(seconds) else f"{seconds:g}"
    rest = float(round(size * _MICROSECONDS))
    parts = []
    for unit in ("d", "h", "m"):
        amount, rest = divmod(rest, UNITS[unit] * _MICROSECONDS)
        if amount:
            parts.append(f"{amount:.0f}{unit}")
    if rest and rest < _MICROSECONDS:
        parts.append(f"{rest / 1000:.10g}ms")
    elif rest or not parts:
        parts.append(f"{rest / _MICROSECONDS:.10g}s")
    return ("-" if seconds < 0 else "") + "".join(parts)


def _read(text: str) -> float | None:
    """Return the seconds of a text, or None if it is no duration."""
    if _SECONDS.fullmatch(text):
        return float(text)
    if _TEXT.fullmatch(text):
        return sum(
            float(amount) * UNITS[unit]
            for unit, part in _PARTS.items()
            for amount in part.findall(text)
        )
    iso = _ISO.fullmatch(text)
    if iso is None:
        return None
    return sum(
        float(amount or 0) * UNITS[unit] for unit, amount in zip("wdhms", iso.groups(), strict=True)
    )
