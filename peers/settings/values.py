"""The forms in which settings are given, read and shown."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import timedelta
from typing import Final

from pydantic import AfterValidator, SecretStr, TypeAdapter, ValidationError

from peers.types import NAME_MAX_LENGTH

_SLOTS_MAX: Final = 10_000
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")
_DURATION: Final = re.compile(rf"(?:{_AMOUNT.pattern})+")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SIZE_UNITS: Final = ("", "K", "M", "G", "T")
_SIZE_MIN: Final = 16 << 20
_PASSWORD_IN_URL: Final = re.compile(r"(//[^:/@]*:).*@")  # to the last @, to be on the safe side
_PASSWORD_OPTION: Final = re.compile(r"((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)")


def redact(url: str) -> str:
    """The database URL without its passwords, fit to be shown."""
    return _PASSWORD_OPTION.sub(r"\1***", _PASSWORD_IN_URL.sub(r"\1***@", url))


def duration(value: object) -> timedelta:
    """Seconds, "500ms", "30s", "1h30m", or ISO 8601 ("PT30S")."""
    with suppress(TypeError, ValueError):
        value = float(value)  # type: ignore[arg-type]  # what is no number is tried as ISO 8601
    try:
        if isinstance(value, str) and _DURATION.fullmatch(value.strip()):
            amounts = _AMOUNT.findall(value)
            return timedelta(seconds=sum(float(amount) * _UNITS[unit] for amount, unit in amounts))
        return TypeAdapter(timedelta).validate_python(value)
    except (ValidationError, OverflowError):
        raise ValueError('must be a duration such as "500ms", "30s", "2m" or "1h30m"') from None


def size(value: object) -> object:
    """Bytes, "512M", "2G", "1.5GiB": units are powers of 1024. A number is taken as it is."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError('must be a size such as "512M" or "2G"')
    amount, unit = found.groups()
    return int(float(amount) * 1024 ** _SIZE_UNITS.index(unit.upper()))


def switch(value: object) -> object:
    """Reads "on", "off" and what else pydantic takes for one of them."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        raise ValueError('must be "on" or "off"') from None


def check_size(value: int) -> int:
    """Refuse what is less than a worker needs to start."""
    if value < _SIZE_MIN:
        raise ValueError("must be 16M or more")
    return value


def words(value: object) -> object:
    """Reads "0,1"; a list is taken as it is."""
    if not isinstance(value, str):
        return value
    return tuple(word for part in value.split(",") if (word := part.strip()))


def between(low: timedelta, high: timedelta) -> AfterValidator:
    """A check that a duration lies within these bounds, which its complaint names."""

    def check(value: timedelta) -> timedelta:
        if not low <= value <= high:
            raise ValueError(f"must be {show(low)} to {show(high)}")
        return value

    return AfterValidator(check)


def parse_queues(value: object) -> object:
    """Reads "default=8,media=2"; a table is taken as it is."""
    if not isinstance(value, str):
        return value
    queues: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, equals, slots = (piece.strip() for piece in part.partition("="))
        if not equals or not slots.isdecimal():
            raise ValueError(f'must look like "default=8,media=2"; "{part}" does not say its slots')
        if name in queues:
            raise ValueError(f'names the queue "{name}" twice')
        queues[name] = slots
    return queues


def check_queues(queues: dict[str, int]) -> dict[str, int]:
    """Refuses no queues at all, and names and numbers of slots that are out of bounds."""
    if not queues:
        raise ValueError('must name at least one queue, such as "default=8"')
    for name, slots in queues.items():
        if not 1 <= len(name) <= NAME_MAX_LENGTH:
            raise ValueError(f"has a queue name of {len(name)} characters; 1 to {NAME_MAX_LENGTH}")
        if not 1 <= slots <= _SLOTS_MAX:
            raise ValueError(f'gives queue "{name}" {slots} slots; 1 to {_SLOTS_MAX} are possible')
    return queues


def lower(value: object) -> object:
    """So that INFO means info."""
    return value.lower() if isinstance(value, str) else value


def show(value: object) -> str:
    """A setting's value, in the form in which it can be given."""
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
        unit = next((u for u in ("d", "h", "m") if seconds and seconds % _UNITS[u] == 0), "s")
        return f"{seconds / _UNITS[unit]:g}{unit}"
    if isinstance(value, dict):
        return ",".join(f"{name}={slots}" for name, slots in value.items())
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, SecretStr):
        return redact(value.get_secret_value())
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
