"""Format the log lines of handlers like the peer's own, each with the task that it comes from."""

from __future__ import annotations

import logging
from typing import Final

from peers import events
from peers.logs import log_format, log_output
from peers.logs.log_queue import QueueHandler
from peers.worker import output
from peers.worker.attribution import call_here, follow_threads

# A line that a handler logs just before it crashes should reach the log. When the reader of stderr
# has stopped, the first line waits this long; the following lines do not.
_WRITE_TIMEOUT: Final = 0.25

_writers: Final[list[QueueHandler]] = []
"""Kept here, because the app may replace the handlers of the root logger."""


def configure(form: log_output.Form, level: log_output.Level) -> None:
    """Send the log of this process to stderr, from `level` on; the app may change that.

    What handlers print becomes part of it. A reader of stderr that has stopped does not stop the
    handlers.
    """
    log_output.configure(form, level, write_timeout=_WRITE_TIMEOUT)
    root = logging.getLogger()
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    for handler in root.handlers:
        handler.addFilter(_name_the_task)
        if isinstance(handler, QueueHandler):
            _writers.append(handler)
    output.install(_write, _move)
    follow_threads()


def pause() -> None:
    """Stop the thread that writes the log, so that this process can be forked."""
    for writer in _writers:
        writer.pause()


def resume() -> None:
    """Start a thread that writes the log again."""
    for writer in _writers:
        writer.resume()


def _name_the_task(record: logging.LogRecord) -> bool:
    if events.fields_of(record):
        return True  # a printed line
    call = call_here()
    if call is not None:
        events.add_fields(record, call.fields())
        if output.keeps(call.task.kind):
            output.send(call, log_format.plain(record).encode(errors="backslashreplace"))
    return True


def _move(descriptor: int) -> None:
    for writer in _writers:
        writer.write_to(descriptor)


def _write(record: logging.LogRecord) -> None:
    # It does not wait, because handlers print many lines. What a crash may lose, keep_log keeps.
    for writer in _writers:
        writer.emit_soon(record)
