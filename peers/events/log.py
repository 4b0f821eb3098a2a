"""The event of the log itself."""

from __future__ import annotations

import logging
from typing import Final

from peers.events.record import event, record_of

_DROPPED: Final = (
    "dropped %(lines)d lines of this log, because its reader stopped reading or its disk was full"
)


@event(logging.WARNING, _DROPPED)
def log_dropped(*, lines: int) -> None:
    """Report lines that could not be written. Check what reads the log of this peer."""


def dropped_record(lines: int) -> logging.LogRecord:
    """Return the event `log_dropped` as a record, for the writer of the log itself."""
    return record_of(log_dropped.__name__, logging.WARNING, _DROPPED, {"lines": lines})
