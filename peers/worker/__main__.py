"""Start of a worker: `python -m peers.worker SOCKET PAGE PARENT APP FORM LEVEL`.

SOCKET and PAGE are inherited file descriptors, PARENT is the pid of the parent, APP the modules to
import, separated by commas; FORM and LEVEL are those of the log.
"""

from __future__ import annotations

import socket
import sys

from peers.worker import logs
from peers.worker.app import import_app
from peers.worker.channel import Channel
from peers.worker.lifetime import die_with
from peers.worker.work import end, work


def main(socket_fd: int, page_fd: int, parent: int, app: str) -> None:
    """Import the app and work for the parent until it says stop."""
    die_with(parent)
    channel = Channel(socket.socket(fileno=socket_fd))
    broken = import_app(app)
    if broken is None:
        work(channel, page_fd)
    else:
        channel.send(broken)


if __name__ == "__main__":
    logs.configure(*sys.argv[5:])  # type: ignore[arg-type]  # the parent has checked them
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    end()
