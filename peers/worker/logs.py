"""What handlers log: in the peer's own form, each line with the task that it comes from."""

from __future__ import annotations

import logging
from typing import Final

from peers import events
from peers.context import batch_size, current
from peers.logs import log_output
from peers.logs.log_queue import QueueHandler

# What a handler logs just before it crashes shall be found. When stderr stands still, this is how
# long the first line waits; the following ones do not.
_PATIENCE: Final = 0.25

_writers: Final[list[QueueHandler]] = []
"""Also when the app has put something else in their place."""


def configure(form: log_output.Form, level: log_output.Level) -> None:
    """Send the log of this process to stderr, from `level` on; an app may then have its own way.

    A reader of stderr that stands still does not keep handlers from going on.
    """
    log_output.configure(form, level, patience=_PATIENCE)
    root = logging.getLogger()
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    for handler in root.handlers:
        handler.addFilter(_name_the_task)
        if isinstance(handler, QueueHandler):
            _writers.append(handler)


def pause() -> None:
    """End the thread that writes the log, so that this process can be forked."""
    for writer in _writers:
        writer.pause()


def resume() -> None:
    """Write the log in a thread again."""
    for writer in _writers:
        writer.resume()


def _name_the_task(record: logging.LogRecord) -> bool:
    task = current()
    if task is not None:
        tasks = batch_size()
        events.add_fields(
            record,
            {"kind": task.kind, "first_task_id": task.id, "batch": tasks}
            if tasks
            else {"task_id": task.id, "kind": task.kind, "attempt": task.attempt},
        )
    return True
