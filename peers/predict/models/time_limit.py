"""An end to calls of a model that take too long.

What computes and hangs listens to nothing mild: it may hold the GIL, block signals or use them for
itself. So the process that started this one kills it; here is only said when.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from peers import CurrentTask

TIMEOUT: Final = "timeout"
"""The type of the scheduler's error for what it killed."""
GRACE: Final = 0.2
"""Seconds until the end, in which a thread in C writes to stderr where the model hangs."""
_STDERR: Final = 2


@contextmanager
def limited(task: CurrentTask, seconds: float | None) -> Iterator[None]:
    """Have this worker killed when the block takes longer; None: it may take any time."""
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
    """Write to stderr where the block hangs when it takes longer; None: it may take any time."""
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
