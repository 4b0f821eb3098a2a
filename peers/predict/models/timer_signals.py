"""Isolate a model's timer signals: its handlers and timers are set only while it is called.

A worker serves many runs. A timer that a model leaves behind could end the next run's process, and
a handler that raises could fail it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

_TIMERS: Final = {
    signal.SIGALRM: signal.ITIMER_REAL,
    signal.SIGVTALRM: signal.ITIMER_VIRTUAL,
    signal.SIGPROF: signal.ITIMER_PROF,
}


class TimerSignals:
    """The handlers that a model has set. They are restored for its next call."""

    def __init__(self) -> None:
        self._handlers: dict[signal.Signals, Any] = {}

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore the model's handlers for the block; afterwards stop its timers and undo that.

        It does nothing in a thread, where Python cannot set handlers.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _TIMERS}
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        try:
            yield
        finally:
            self._take_back(before)

    def _take_back(self, before: dict[signal.Signals, Any]) -> None:
        for number, timer in _TIMERS.items():
            signal.setitimer(timer, 0)
            now = signal.getsignal(number)
            # None: a handler in C, which Python cannot restore
            if now is not None and now is not before[number]:
                self._handlers[number] = now
                signal.signal(number, signal.SIG_DFL if before[number] is None else before[number])
