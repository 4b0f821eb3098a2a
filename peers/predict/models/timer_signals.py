"""The signals of timers, lent to a model while it is called.

A worker is warm for many runs. A timer that a model leaves behind would end the next one, and so
would a handler that raises.
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
    """The handlers that a model has set: it finds them again when it is called the next time."""

    def __init__(self) -> None:
        self._handlers: dict[signal.Signals, Any] = {}

    @contextmanager
    def lent(self) -> Iterator[None]:
        """While the model has them; then no timer runs, and the handlers are those of before.

        Does nothing in a thread, where Python lets nobody set a handler.
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
            # None: a handler in C, which Python can neither keep nor set again
            if now is not None and now is not before[number]:
                self._handlers[number] = now
                signal.signal(number, signal.SIG_DFL if before[number] is None else before[number])
