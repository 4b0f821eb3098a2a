"""Turn a function signature into a log event, and read events from log records."""

from __future__ import annotations

import functools
import inspect
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

_logger: Final = logging.getLogger("peers")
P = ParamSpec("P")

_NAME: Final = "_peers_event"
_FIELDS: Final = "_peers_fields"
ATTRIBUTES: Final = (_NAME, _FIELDS)
"""The attributes of a log record that belong to Peers. User code may add others."""

counts: Final[Counter[str]] = Counter()
"""How often each event has happened in this process, logged or not."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it is declared. Queries and alerts of users depend on its name and fields."""

    name: str
    level: int
    sentence: str
    fields: tuple[str, ...]
    meaning: str


all_events: Final[dict[str, Event]] = {}
"""Every event, by its name."""


class _Process:
    """What holds for all log lines of this process."""

    peer_id: UUID | None = None


def set_peer_id(peer_id: UUID) -> None:
    """Add this `peer_id` to every log line of this process: it is this peer from now on."""
    _Process.peer_id = peer_id


def common_fields() -> dict[str, Any]:
    """Return the fields that every log line of this process has: `peer_id`, once it has joined."""
    return {} if _Process.peer_id is None else {"peer_id": _Process.peer_id}


def event(level: int, sentence: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Make an event: the function's name is the event's name, its keywords are the fields.

    The docstring explains the event to operators. `exc_info` is not a field but an exception, whose
    traceback the log shows.
    """

    def decorate(signature: Callable[P, None]) -> Callable[P, None]:
        name = signature.__name__
        names = (each for each in inspect.signature(signature).parameters if each != "exc_info")
        all_events[name] = Event(
            name, level, sentence, tuple(names), inspect.getdoc(signature) or ""
        )

        @functools.wraps(signature)
        def emit(*_none: P.args, **fields: P.kwargs) -> None:
            counts[name] += 1
            if _logger.isEnabledFor(level):
                raised: Any = fields.pop("exc_info", None)
                extra = {_NAME: name, _FIELDS: fields}
                _logger.log(level, sentence, _in_words(fields), extra=extra, exc_info=raised)

        return emit

    return decorate


def are_logged(level: int) -> bool:
    """Return whether events of this level are logged."""
    return _logger.isEnabledFor(level)


def record_of(name: str, level: int, sentence: str, fields: dict[str, Any]) -> logging.LogRecord:
    """Return an event as a log record, without logging it."""
    extra = {_NAME: name, _FIELDS: fields}
    return _logger.makeRecord(
        _logger.name, level, "", 0, sentence, (_in_words(fields),), None, extra=extra
    )  # fmt: skip


def _in_words(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields for the sentence, with "unknown" instead of None."""
    return {name: "unknown" if value is None else value for name, value in fields.items()}


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
