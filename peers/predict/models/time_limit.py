"""Limit the time of a call of the model.

A model that hangs may hold the GIL, block signals or use them itself, so only SIGKILL ends it for
sure. The parent process of the worker sends it; this module only sets the time.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from peers import CurrentTask

TIMEOUT: Final = "timeout"
"""The error type of an attempt that the scheduler killed."""
GRACE: Final = 0.2
"""Seconds between the trace on stderr, which shows where the model hangs, and the kill."""
_STDERR: Final = 2


@contextmanager
def limited(task: CurrentTask, seconds: float | None) -> Iterator[None]:
    """Have this worker killed if the block takes longer; None: without a limit."""
    if seconds is None:
        yield
        return
    task.kill_after(seconds + GRACE)
    try:
        yield
    finally:
        task.kill_after(None)


@contextmanager
def traced(seconds: float | None) -> Iterator[None]:
    """Write a traceback to stderr if the block takes longer; None: without a limit."""
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
