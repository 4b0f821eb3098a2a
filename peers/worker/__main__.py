"""Start a worker: `python -m peers.worker SOCKET MARKER OUTPUT MARKS PARENT APP FORM LEVEL`.

SOCKET, MARKER, OUTPUT and MARKS are inherited file descriptors (MARKS is -1 if there is none).
PARENT is the parent's pid, APP the modules to import, separated by commas. FORM and LEVEL are those
of the log.
"""

from __future__ import annotations

import socket
import sys

from peers.protocol.started_marks import StartedMarks
from peers.worker import logs
from peers.worker.app import import_app
from peers.worker.channel import Channel
from peers.worker.lifetime import die_with_parent, keep_descriptors
from peers.worker.work import exit_now, work


def main(
    app: str, socket_fd: int, marker_fd: int, output_fd: int, marks_fd: int, parent: int
) -> None:
    """Import the app and work for the peer until it says stop."""
    die_with_parent(parent)
    keep_descriptors()
    marks = StartedMarks(marks_fd)
    channel = Channel(socket.socket(fileno=socket_fd))
    failure = import_app(app)
    if failure is None:
        work(channel, marker_fd, output_fd, marks)
    else:
        channel.send(failure)


if __name__ == "__main__":
    logs.configure(*sys.argv[7:])  # type: ignore[arg-type]  # the peer has checked them
    *numbers, own_app = sys.argv[1:7]
    main(own_app, *map(int, numbers))
    exit_now()
