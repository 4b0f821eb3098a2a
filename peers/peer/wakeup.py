"""Wake the main loop's selector from other threads and from signals."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Final

from peers import events

_READ_SIZE: Final = 4096


class Waker:
    """Ends the selector's wait from another thread, and calls `on_wake` in the main loop."""

    def __init__(
        self, selector: selectors.BaseSelector, on_wake: Callable[[], None] = lambda: None
    ) -> None:
        self._selector = selector
        self._on_wake = on_wake
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        selector.register(self._event, selectors.EVENT_READ, self._woken)

    def wake(self) -> None:
        """End the wait that is under way, or the next one. Any thread may call this."""
        os.eventfd_write(self._event, 1)

    def unregister(self) -> None:
        """Let the selector forget it. `wake` has no effect after this."""
        self._selector.unregister(self._event)

    def close(self) -> None:
        """Close it. No thread may call `wake` after this."""
        os.close(self._event)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        self._on_wake()


@contextlib.contextmanager
def stop_signals(
    selector: selectors.BaseSelector, at_once: Callable[[], None], on_stop: Callable[[], None]
) -> Iterator[None]:
    """Let SIGTERM and SIGINT wake the selector and call `on_stop` from the main loop.

    The signal handler itself first calls `at_once`, wherever the main thread is.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)

    def stop() -> None:
        with contextlib.suppress(BlockingIOError):
            for number in ours.recv(_READ_SIZE):
                on_stop()
                events.signal_received(signal=signal.Signals(number).name)

    before = {s: signal.signal(s, lambda *_: at_once()) for s in (signal.SIGTERM, signal.SIGINT)}
    wakeup = signal.set_wakeup_fd(theirs.fileno())
    selector.register(ours, selectors.EVENT_READ, stop)
    try:
        yield
    finally:
        selector.unregister(ours)
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        theirs.close()
