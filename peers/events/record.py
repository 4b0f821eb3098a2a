"""Turn a function signature into a log event, and read events from log records."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_logger: Final = logging.getLogger("peers")
P = ParamSpec("P")

_NAME: Final = "_peers_event"
_FIELDS: Final = "_peers_fields"
ATTRIBUTES: Final = (_NAME, _FIELDS)
"""The attributes of a log record that belong to Peers. User code may add others."""

counts: Final[Counter[str]] = Counter()
"""How often each event has happened in this process, logged or not."""


def event(level: int, sentence: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Make an event: the function's name is the event's name, its keywords are the fields.

    The docstring explains the event to operators. `exc_info` is not a field but an exception, whose
    traceback the log shows.
    """

    def decorate(signature: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(signature)
        def emit(*_none: P.args, **fields: P.kwargs) -> None:
            counts[signature.__name__] += 1
            if _logger.isEnabledFor(level):
                raised: Any = fields.pop("exc_info", None)
                extra = {_NAME: signature.__name__, _FIELDS: fields}
                _logger.log(level, sentence, fields, extra=extra, exc_info=raised)

        return emit

    return decorate


def are_logged(level: int) -> bool:
    """Return whether events of this level are logged."""
    return _logger.isEnabledFor(level)


def record_of(name: str, level: int, sentence: str, fields: dict[str, Any]) -> logging.LogRecord:
    """Return an event as a log record, without logging it."""
    extra = {_NAME: name, _FIELDS: fields}
    return _logger.makeRecord(
        _logger.name, level, "", 0, sentence, (fields,), None, extra=extra
    )  # fmt: skip


def name_of(record: logging.LogRecord) -> str | None:
    """Return the name of an event, or None for another log record."""
    name: str | None = getattr(record, _NAME, None)
    return name


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of an event, or those that `add_fields` has added."""
    fields: dict[str, Any] = getattr(record, _FIELDS, {})
    return fields


def add_fields(record: logging.LogRecord, fields: Mapping[str, object]) -> None:
    """Add fields to a log record that is not an event."""
    record.__dict__.setdefault(_FIELDS, dict(fields))
