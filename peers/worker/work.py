"""What a worker does once the app is imported."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from peers.protocol.messages import Begin, Hello
from peers.protocol.running_marker import Page
from peers.worker.app import declared
from peers.worker.channel import Channel
from peers.worker.loop_async import AsyncLoop
from peers.worker.loop_sync import SyncLoop


def work(channel: Channel, page_fd: int) -> None:
    """Say hello, and run what the parent sends until it says stop."""
    page = Page(page_fd, writable=True)
    channel.send(Hello(declared()))
    # nobody interrupts a worker from outside; a handler that does (`_thread.interrupt_main`) would
    # hit whoever runs at that moment
    signal.signal(signal.SIGINT, lambda *_: None)
    begin = channel.receive()
    if isinstance(begin, Begin):
        (AsyncLoop if begin.asynchronous else SyncLoop)(channel, page).run()


def end() -> NoReturn:
    """End the process: threads and exit handlers of user code must not keep it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
