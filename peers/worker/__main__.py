"""Start a worker: `python -m peers.worker SOCKET MARKER PARENT APP FORM LEVEL`.

SOCKET and MARKER are inherited file descriptors, PARENT is the parent's pid, APP the modules to
import, separated by commas. FORM and LEVEL are those of the log.
"""

from __future__ import annotations

import socket
import sys

from peers.worker import logs
from peers.worker.app import import_app
from peers.worker.channel import Channel
from peers.worker.lifetime import die_with_parent, keep_descriptors
from peers.worker.work import exit_now, work


def main(socket_fd: int, marker_fd: int, parent: int, app: str) -> None:
    """Import the app and work for the peer until it says stop."""
    die_with_parent(parent)
    keep_descriptors()
    channel = Channel(socket.socket(fileno=socket_fd))
    failure = import_app(app)
    if failure is None:
        work(channel, marker_fd)
    else:
        channel.send(failure)


if __name__ == "__main__":
    logs.configure(*sys.argv[5:])  # type: ignore[arg-type]  # the peer has checked them
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    exit_now()
