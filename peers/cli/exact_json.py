"""JSON whose numbers keep every digit: they are never converted to Python numbers.

jsonb knows numbers that a float rounds, and that Python refuses (1e10000 has too many digits for an
int), and documents that are nested deeper than Python's parser goes.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn
from uuid import UUID

_INDENT: Final = "  "


class Json(str):
    """The text of a JSON value."""

    __slots__ = ()

    def parsed(self) -> Any:
        """Return the value as Python types; for documents that Peers itself made."""
        return json.loads(self)


class TooDeepError(Exception):
    """JSON that is nested too deeply for Python."""


def exact(text: str) -> Any:
    """Parse JSON; each number stays text.

    Raises TooDeepError, and ValueError for what is not JSON, such as NaN and Infinity.
    """
    try:
        found = json.loads(text, parse_float=Json, parse_int=Json, parse_constant=_refuse)
        written(found)
    except RecursionError:
        raise TooDeepError("it is nested too deeply") from None
    return found


def written(value: object, indent: str = "") -> str:
    """Return the value as JSON: times in ISO 8601 and UTC, durations in seconds."""
    if isinstance(value, Json):
        return str(value)
    if isinstance(value, dict):
        items = [
            f"{_plain(name)}: {written(item, indent + _INDENT)}" for name, item in value.items()
        ]
        return _enclosed("{", items, "}", indent)
    if isinstance(value, list | tuple):
        return _enclosed("[", [written(item, indent + _INDENT) for item in value], "]", indent)
    return _plain(value)


def _enclosed(opening: str, items: list[str], closing: str, indent: str) -> str:
    if not items:
        return opening + closing
    inner = f",\n{indent}{_INDENT}".join(items)
    return f"{opening}\n{indent}{_INDENT}{inner}\n{indent}{closing}"


def _plain(value: object) -> str:
    return json.dumps(value, default=_converted, ensure_ascii=False)


def _converted(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")  # although Python accepts it
