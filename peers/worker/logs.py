"""What handlers log: in the peer's own form, each line with the task that it comes from."""

from __future__ import annotations

import logging

from peers import events
from peers.context import batch_size, current


def configure(form: events.Form, level: events.Level) -> None:
    """Send the log of this process to stderr, from `level` on; an app may then have its own way."""
    events.configure(form, level)
    root = logging.getLogger()
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    for handler in root.handlers:
        handler.addFilter(_name_the_task)


def _name_the_task(record: logging.LogRecord) -> bool:
    task = current()
    if task is not None and not hasattr(record, "fields"):
        tasks = batch_size()
        record.fields = (
            {"kind": task.kind, "first_task_id": task.id, "batch": tasks}
            if tasks
            else {"task_id": task.id, "kind": task.kind, "attempt": task.attempt}
        )
    return True
