"""Configure where the log of this process goes: to stderr, or to systemd's journal."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from peers import events
from peers.logs import journal
from peers.logs.log_format import Json, Text, entry, printed_record
from peers.logs.log_queue import QueueHandler, Target

if TYPE_CHECKING:
    from collections.abc import Mapping

Form: TypeAlias = Literal["auto", "json", "text", "journal"]
Level: TypeAlias = Literal["debug", "info", "warning", "error"]

_STDERR: Final = 2


def configure(
    form: Form = "auto", level: Level = "info", *, write_timeout: float | None = None
) -> None:
    """Send the log of this process to stderr, and that of other libraries from warning on.

    "auto" is text on a terminal, entries with fields in the journal, JSON lines elsewhere. With
    `write_timeout` (see QueueHandler) the log never blocks. It then also receives what Python
    itself would write to stderr: warnings, and exceptions that end threads or are ignored.
    """
    handler: logging.Handler
    target = _target(form)
    if write_timeout is None:
        handler = _JournalHandler(target) if target else logging.StreamHandler(sys.stderr)
    else:
        handler = QueueHandler(_STDERR, events.dropped_record, write_timeout, target)
        logging.captureWarnings(capture=True)
        threading.excepthook = _log_thread
        sys.unraisablehook = _log_unraisable
    to_journal = is_journal(_STDERR)
    readable = form in ("text", "journal")
    readable = readable or (form == "auto" and (to_journal or sys.stderr.isatty()))
    handler.setFormatter(Text(journal=to_journal) if readable else Json(journal=to_journal))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("peers").setLevel(level.upper())


def _target(form: Form) -> Target | None:
    """Return the journal, if this form goes there and there is one; None: stderr."""
    wanted = form == "journal" or (form == "auto" and is_journal(_STDERR))
    return Target(entry, journal.send) if wanted and journal.exists() else None


class _JournalHandler(logging.StreamHandler):  # type: ignore[type-arg]  # of any stream
    """Writes to the journal in the caller, and to stderr what the journal does not take."""

    def __init__(self, target: Target) -> None:
        super().__init__(sys.stderr)
        self._target = target

    def emit(self, record: logging.LogRecord) -> None:
        if not self._target.write(self._target.encode(record)):
            super().emit(record)


def is_journal(descriptor: int) -> bool:
    """Return whether this is the stream that systemd has connected to its journal."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def last_words(message: str, hint: str | None) -> None:
    """Log why this process ends: as an event in JSON, as a plain sentence for people."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, QueueHandler) and isinstance(handler.formatter, Text):
            hints = [f"hint: {hint}"] if hint else []
            handler.put(handler.formatter.plain("\n".join([f"peers: {message}", *hints])))
            return
    events.peer_failed(error=message, hint=hint)


def log_printed(stream: str, line: bytes, fields: Mapping[str, object]) -> None:
    """Log a line that was printed, whatever the level of the log is."""
    record = printed_record(stream, line, fields)
    for handler in logging.getLogger().handlers:
        handler.handle(record)


def _log_thread(args: threading.ExceptHookArgs) -> None:
    """Log an exception that ended a thread. Python would block while it writes that to stderr."""
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    name = "a thread" if args.thread is None else f"thread {args.thread.name}"
    exc_info = (args.exc_type, args.exc_value, args.exc_traceback)
    logging.getLogger("peers").error("%s ended by an exception", name, exc_info=exc_info)


def _log_unraisable(args: sys.UnraisableHookArgs) -> None:
    """Log an exception that Python ignores, such as one of a destructor."""
    exc_info = (args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)
    message = args.err_msg or "an exception was ignored"
    logging.getLogger("peers").error("%s", message, exc_info=exc_info)
