"""Run the tasks of a worker, once the app is imported."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from peers.protocol.messages import Begin, Hello
from peers.protocol.running_marker import RunningMarker
from peers.protocol.started_marks import StartedMarks
from peers.worker import output
from peers.worker.app import declarations, declared_kinds
from peers.worker.channel import Channel
from peers.worker.loop_async import AsyncLoop
from peers.worker.loop_sync import SyncLoop
from peers.worker.stacks import register_stack_dump


def work(channel: Channel, marker_fd: int, output_fd: int, marks: StartedMarks) -> None:
    """Send Hello, and run the tasks that the peer sends until it sends Stop."""
    marker = RunningMarker(marker_fd, writable=True)
    output.use_pipe(output_fd)
    channel.send(Hello(declared_kinds(), declarations(), register_stack_dump()))
    # The peer never interrupts a worker. A handler that does (`_thread.interrupt_main`) could
    # interrupt any handler that runs at that moment.
    signal.signal(signal.SIGINT, lambda *_: None)
    begin = channel.receive()
    if isinstance(begin, Begin):
        (AsyncLoop if begin.asynchronous else SyncLoop)(channel, marker, marks).run()


def exit_now() -> NoReturn:
    """Exit without waiting for threads and exit handlers of user code."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
