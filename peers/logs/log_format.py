"""Format records of the log: as text, as JSON, and as entries of systemd's journal.

On a terminal and in the journal, an event is a sentence, followed by its other fields. In the
journal, each of them is also a field of the entry (`peers.logs.journal`). Elsewhere an event is one
JSON object a line: time, level, logger, event ("log" if it is none of peers.events), message, and
the fields. A field of user code (`extra={…}`) whose name is taken gets `extra_` before it.
"""

from __future__ import annotations

import json
import logging
import math
import re
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from peers import events
from peers.logs import journal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ORDINARY: Final = frozenset(
    {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", *events.ATTRIBUTES}
)
"""The attributes of every record. All others are fields that the caller has added."""
_EXTRA: Final = "extra_"
_AMBIGUOUS: Final = re.compile(r"""[\s=\[\]"]""")


class _Formatter(logging.Formatter):
    """A formatter that never raises: user code may log arguments of any kind."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        lines = self.write(record, _message(record), _traceback(record))
        return self.add_priority(record.levelno, lines)

    def write(self, record: logging.LogRecord, message: str, trace: str) -> str:
        raise NotImplementedError

    def add_priority(self, level: int, lines: str) -> str:
        """Mark each line with its priority: the journal makes an entry of each."""
        if not self._journal:
            return lines
        priority = f"<{journal.priority(level)}>"  # sd-daemon(3)
        return "\n".join(priority + line for line in lines.split("\n"))


class Text(_Formatter):
    """Formats a record as a sentence, followed by the fields that it does not mention.

    A field without a value is left out.
    """

    def write(self, record: logging.LogRecord, message: str, trace: str) -> str:
        """Return the sentence as one line, followed by a traceback."""
        when = "" if self._journal else f"{self.formatTime(record)} "
        return when + self.without_time(record, message, trace)

    def without_time(self, record: logging.LogRecord, message: str, trace: str) -> str:
        """Return the same for a log that has times of its own."""
        sentence = _described(record.msg)
        rest = [
            f"{name}={_quoted(value)}"
            for name, value in _fields(record)
            if value is not None and f"%({name})" not in sentence
        ]
        line = f"{record.levelname:<7} {message}"
        if rest:
            line = f"{line}  [{' '.join(rest)}]"
        return "\n".join([_printable(line), *map(_printable, trace.splitlines())])

    def plain(self, text: str) -> str:
        """Format text that is no record."""
        return self.add_priority(logging.ERROR, "\n".join(map(_printable, text.splitlines())))


class Json(_Formatter):
    """Formats a record as one JSON object."""

    def write(self, record: logging.LogRecord, message: str, trace: str) -> str:
        """Return the object. Its own names come first, and win over those of fields."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record),
            "message": message,
        }
        taken = {*line, "traceback"}
        for name, value in _all_fields(record):
            if name != "event" or value != line["event"]:
                line[f"{_EXTRA}{name}" if name in taken else name] = value
        if trace:
            line["traceback"] = trace
        try:
            return _dumped(line)
        except (TypeError, ValueError, RecursionError):
            return _dumped({str(name): _plain(value) for name, value in line.items()})


_text: Final = Text(journal=True)


def printed_record(stream: str, line: bytes, fields: Mapping[str, object]) -> logging.LogRecord:
    """Return a line that was printed as a record, with its fields. `stream`: stdout or stderr."""
    shown = line.rstrip(b"\r").rpartition(b"\r")[2]  # as a terminal shows a progress bar
    text = shown.decode(errors="backslashreplace")
    record = logging.LogRecord(stream, logging.INFO, "", 0, "%s", (text,), None)
    events.add_fields(record, fields)
    return record


def plain(record: logging.LogRecord) -> str:
    """Return a record as lines without its fields, for the log of one task."""
    trace = _traceback(record)
    line = f"{_text.formatTime(record)} {record.levelname:<7} {_message(record)}\n"
    return f"{line}{trace}\n" if trace else line


def _event(record: logging.LogRecord) -> str:
    """Return the name of our event, or one that user code gives."""
    named = events.name_of(record) or getattr(record, "event", None)
    return named if isinstance(named, str) else "log"


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """Yield the fields of the event or task, and those that the caller added as `extra`."""
    ours: Mapping[str, object] = events.fields_of(record)
    yield from ours.items()
    for name, value in _extras(record):
        yield f"{_EXTRA}{name}" if name in ours else name, value


def _extras(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """Yield the fields that the caller added as `extra`."""
    return ((name, value) for name, value in record.__dict__.items() if name not in _ORDINARY)


def _all_fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """Yield the fields, and those that all lines of this process have."""
    found = dict(_fields(record))
    yield from found.items()
    for name, value in events.common_fields().items():
        if name not in found:
            yield name, value


def entry(record: logging.LogRecord) -> bytes:
    """Return a record as an entry of the journal."""
    message = _text.without_time(record, _message(record), _traceback(record))
    event = _event(record)
    ours = {"event": event, "logger": record.name, **events.common_fields()}
    ours |= events.fields_of(record)
    others = [(name, value) for name, value in _extras(record) if (name, value) != ("event", event)]
    return journal.entry(record, message, ours.items(), others)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001  # an argument's __str__ may raise anything
        return f"{_described(record.msg)} (its arguments cannot be written: {type(error).__name__})"


def _traceback(record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        try:
            parts.append("".join(traceback.format_exception(*record.exc_info)).rstrip())
        except Exception as error:  # noqa: BLE001  # an exception's __str__ may raise as well
            parts.append(f"{record.exc_info[0].__name__} (not shown: {type(error).__name__})")
    if record.stack_info:
        parts.append(str(record.stack_info))
    return "\n".join(parts)


def _quoted(value: object) -> str:
    """Return the value, in quotes if it could be taken for other fields, as a kind may be."""
    if isinstance(value, str) and (not value or _AMBIGUOUS.search(value)):
        return json.dumps(value, ensure_ascii=False)
    return _described(value)


def _described(value: object) -> str:
    try:
        if isinstance(value, list) and value and isinstance(value[0], UUID):
            return f"[{', '.join(map(str, value))}]"
        return str(value)
    except Exception as error:  # noqa: BLE001  # a field's __str__ may raise as well
        return f"({type(value).__name__} that cannot be written: {type(error).__name__})"


def _dumped(line: dict[str, Any]) -> str:
    return json.dumps(line, default=_described, ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    """Return the value if JSON can hold it, or its description."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        _dumped({"": value})
    except (TypeError, ValueError, RecursionError):
        return _described(value)
    return value


def _printable(line: str) -> str:
    """Escape characters that would end the line or control the terminal."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
