"""What the log looks like, and where it goes.

On a terminal an event reads as a sentence with its other fields behind it, and so it does in the
journal, with the priority that journald expects. Elsewhere it is one JSON object a line: time,
level, logger, event ("log" for what is none of peers.events), message, and the fields. A field that
user code adds (`extra={…}`) under a name that is taken gets `extra_` before it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from peers import events
from peers.logs.log_queue import QueueHandler

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Form: TypeAlias = Literal["auto", "json", "text"]
Level: TypeAlias = Literal["debug", "info", "warning", "error"]

_STDERR: Final = 2
_ORDINARY: Final = frozenset(
    {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", *events.ATTRIBUTES}
)
_EXTRA: Final = "extra_"
# sd-daemon(3): the priorities of syslog
_PRIORITIES: Final = (
    (logging.CRITICAL, "<2>"), (logging.ERROR, "<3>"), (logging.WARNING, "<4>"),
    (logging.INFO, "<6>"), (logging.NOTSET, "<7>"),
)  # fmt: skip


def configure(form: Form = "auto", level: Level = "info", *, patience: float | None = None) -> None:
    """Send the log of this process to stderr; that of other libraries from warning on.

    "auto" is text on a terminal and in the journal, JSON lines elsewhere. With `patience` (see
    QueueHandler) the log never blocks, and what Python itself would write to stderr goes there too:
    warnings, exceptions that end threads or are ignored.
    """
    handler: logging.Handler
    if patience is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        handler = QueueHandler(_STDERR, events.dropped_record, patience)
        logging.captureWarnings(capture=True)
        threading.excepthook = _log_thread
        sys.unraisablehook = _log_unraisable
    journal = is_journal(_STDERR)
    readable = form == "text" or (form == "auto" and (journal or sys.stderr.isatty()))
    handler.setFormatter(Text(journal=journal) if readable else Json(journal=journal))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("peers").setLevel(level.upper())


def is_journal(descriptor: int) -> bool:
    """Whether this is the stream that systemd connected to its journal."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def last_words(message: str, hint: str | None) -> None:
    """Say why this process ends: an event in JSON, a plain sentence for people."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, QueueHandler) and isinstance(handler.formatter, Text):
            hints = [f"hint: {hint}"] if hint else []
            handler.put(handler.formatter.plain("\n".join([f"peers: {message}", *hints])))
            return
    events.peer_failed(error=message, hint=hint)


class _Form(logging.Formatter):
    """Never raises, whatever user code logs: its arguments may be of any kind."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        lines = self.write(record, _message(record), _traceback(record))
        return self.prioritised(record.levelno, lines)

    def write(self, record: logging.LogRecord, message: str, trace: str) -> str:
        raise NotImplementedError

    def prioritised(self, level: int, lines: str) -> str:
        """Each line is an entry of its own in the journal."""
        if not self._journal:
            return lines
        sign = next(sign for least, sign in _PRIORITIES if level >= least)
        return "\n".join(sign + line for line in lines.split("\n"))


class Text(_Form):
    """A sentence, and behind it the fields that it doesn't mention."""

    def write(self, record: logging.LogRecord, message: str, trace: str) -> str:
        """The sentence is one line; a traceback follows it."""
        said = _described(record.msg)
        rest = [
            f"{name}={_described(value)}"
            for name, value in _fields(record)
            if f"%({name})" not in said
        ]
        when = "" if self._journal else f"{self.formatTime(record)} "
        line = f"{when}{record.levelname:<7} {message}"
        if rest:
            line = f"{line}  [{' '.join(rest)}]"
        return "\n".join([_printable(line), *map(_printable, trace.splitlines())])

    def plain(self, words: str) -> str:
        """Words that are no record."""
        return self.prioritised(logging.ERROR, "\n".join(map(_printable, words.splitlines())))


class Json(_Form):
    """One JSON object."""

    def write(self, record: logging.LogRecord, message: str, trace: str) -> str:
        """The object's own names come first, and win."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record),
            "message": message,
        }
        taken = {*line, "traceback"}
        for name, value in _fields(record):
            if name != "event" or value != line["event"]:
                line[f"{_EXTRA}{name}" if name in taken else name] = value
        if trace:
            line["traceback"] = trace
        try:
            return _dumped(line)
        except (TypeError, ValueError, RecursionError):
            return _dumped({str(name): _plain(value) for name, value in line.items()})


def _event(record: logging.LogRecord) -> str:
    """Ours, or the one that user code names."""
    named = events.name_of(record) or getattr(record, "event", None)
    return named if isinstance(named, str) else "log"


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """The event's fields, or the task's; and what the caller added as `extra`."""
    ours: Mapping[str, object] = events.fields_of(record)
    yield from ours.items()
    for name, value in record.__dict__.items():
        if name not in _ORDINARY:
            yield f"{_EXTRA}{name}" if name in ours else name, value


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
        except Exception as error:  # noqa: BLE001  # so may an exception's
            parts.append(f"{record.exc_info[0].__name__} (not shown: {type(error).__name__})")
    if record.stack_info:
        parts.append(str(record.stack_info))
    return "\n".join(parts)


def _described(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001  # and so may a field's
        return f"({type(value).__name__} that cannot be written: {type(error).__name__})"


def _dumped(line: dict[str, Any]) -> str:
    return json.dumps(line, default=_described, ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    """The value if JSON has it, else its description."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        _dumped({"": value})
    except (TypeError, ValueError, RecursionError):
        return _described(value)
    return value


def _printable(line: str) -> str:
    """What user code says must not end the line, nor command the terminal."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _log_thread(args: threading.ExceptHookArgs) -> None:
    """A thread ended by an exception: Python would write it to stderr, and wait for that."""
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    name = "a thread" if args.thread is None else f"thread {args.thread.name}"
    exc_info = (args.exc_type, args.exc_value, args.exc_traceback)
    logging.getLogger("peers").error("%s ended by an exception", name, exc_info=exc_info)


def _log_unraisable(args: sys.UnraisableHookArgs) -> None:
    """An exception was ignored, such as one of a destructor."""
    exc_info = (args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)
    said = args.err_msg or "an exception was ignored"
    logging.getLogger("peers").error("%s", said, exc_info=exc_info)
