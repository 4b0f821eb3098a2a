"""What a service manager and a terminal want of a process: readiness, watchdog, signals."""

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


class Notifier:
    """Speaks sd_notify(3) to systemd; says nothing where there is none."""

    def __init__(self, address: str | None = None) -> None:
        address = os.environ.get("NOTIFY_SOCKET") if address is None else address
        # "@" stands for the NUL byte of an abstract socket
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

    def ready(self, status: str) -> None:
        """The peer has joined."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """The watchdog may rest for another period."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The peer drains."""
        self._send("STOPPING=1\nSTATUS=draining")

    def _send(self, message: str) -> None:
        if self._address:
            with (
                contextlib.suppress(OSError),
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
            ):
                sock.sendto(message.encode(), self._address)


@contextlib.contextmanager
def stop_signals(selector: selectors.BaseSelector, on_stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT wake the selector and call `on_stop` from the main loop."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)

    def stop() -> None:
        with contextlib.suppress(BlockingIOError):
            for number in ours.recv(_READ_SIZE):
                events.signal_received(signal=signal.Signals(number).name)
                on_stop()

    before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGTERM, signal.SIGINT)}
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
