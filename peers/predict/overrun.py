"""An end to calls of a model that take too long."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SIGNAL: Final = signal.SIGALRM
_STDERR: Final = 2


@contextmanager
def ended_after(seconds: float | None) -> Iterator[None]:
    """SIGALRM ends this process when the block takes longer; None: it may take any time.

    What computes and hangs listens to nothing milder. Where it hung goes to stderr.
    """
    if seconds is None:
        yield
        return
    faulthandler.register(SIGNAL, _STDERR, all_threads=False, chain=True)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.unregister(SIGNAL)
