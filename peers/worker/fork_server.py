"""Start of a fork server: `python -m peers.worker.fork_server CONTROL PARENT APP FORM LEVEL`.

It imports the app once, and then forks a worker for each request of the peer: a byte on CONTROL (an
inherited socket) with the worker's own socket and page. A worker is forked twice, so that its
parent is the peer, who is to learn how it ends: the process between the two ends at once, and the
kernel hands its child to the peer, which is a subreaper at that moment. PARENT is the peer's pid.

Where a fork would not work, this process itself becomes the one worker that it is asked for.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Final, NamedTuple

from peers.protocol.messages import Forked, FromForkServer, NotForked, Preloaded, Unforkable, encode
from peers.worker import logs
from peers.worker.app import import_app
from peers.worker.channel import Channel
from peers.worker.forkable import fork, open_files, why_not
from peers.worker.lifetime import die_with, rename
from peers.worker.work import end, work

_LONGEST_PID: Final = 20
_LOOK_AGAIN: Final = 0.0005
# Generators that all forks would share; Python itself sees to `random`, and ssl to its own.
_GENERATORS: Final = ("numpy.random", "torch")


class _Request(NamedTuple):
    """The descriptors of a worker that is asked for."""

    socket: int
    page: int


def main(control_fd: int, parent: int, app: str) -> None:
    """Import the app and fork workers until the peer is gone; each of them comes back from here."""
    die_with(parent)
    control = socket.socket(fileno=control_fd)
    before = open_files()
    broken = import_app(app)
    if broken is not None:
        _say(control, broken)
        return
    logs.pause()
    reason = why_not(before)
    if reason is None:
        _say(control, Preloaded())
        request = _fork_workers(control)
        if request is not None:
            die_with(parent)
            _reseed()
    else:
        _say(control, Unforkable(reason))
        request = _receive(control)
        control.close()
    if request is not None:
        rename("-m", "peers.worker", app)
        logs.resume()
        work(Channel(socket.socket(fileno=request.socket)), request.page)


def _fork_workers(control: socket.socket) -> _Request | None:
    """Fork a worker for each request; return twice and more: in each of them, with its request.

    None: in the fork server itself, when the peer is gone.
    """
    while (request := _receive(control)) is not None:
        sys.stdout.flush()  # what the app has printed is printed once
        sys.stderr.flush()
        answer = _fork(control)
        if answer is None:
            return request
        for fd in request:
            os.close(fd)
        _say(control, answer)
    return None


def _receive(control: socket.socket) -> _Request | None:
    """Wait for a request; None: the peer is gone, or wants no more."""
    data, fds, _, _ = socket.recv_fds(control, 1, 2)
    return _Request(*fds) if data else None


def _fork(control: socket.socket) -> Forked | NotForked | None:
    """Fork a worker, and return its pid; None: this is the worker."""
    try:
        read, write = os.pipe()
    except OSError as error:
        return NotForked(str(error))
    try:
        between = fork()
    except OSError as error:
        os.close(read)
        os.close(write)
        return NotForked(str(error))
    if not between:
        _leave_child(write)
        os.close(read)
        control.close()
        return None
    os.close(write)
    pid = os.read(read, _LONGEST_PID)
    os.close(read)
    _, status = os.waitpid(between, 0)
    if not pid:
        return NotForked(os.strerror(os.waitstatus_to_exitcode(status)))
    return Forked(int(pid))


def _leave_child(write: int) -> None:
    """Fork once more; only the child comes back, as the leader of a session, and the peer's own."""
    between = os.getpid()
    try:
        child = fork()
    except OSError as error:
        os._exit(error.errno or 1)
    if child:
        os._exit(0)
    # From now on the peer may kill the worker by its group, so it must lead one before it is told.
    os.setsid()
    os.write(write, b"%d" % os.getpid())
    os.close(write)
    # The kernel would take the death of the process between for that of the peer.
    while os.getppid() == between:
        time.sleep(_LOOK_AGAIN)


def _reseed() -> None:
    """Give this worker random numbers of its own."""
    for name in _GENERATORS:
        if name in sys.modules:
            sys.modules[name].seed()


def _say(control: socket.socket, message: FromForkServer) -> None:
    control.sendall(encode(message))


if __name__ == "__main__":
    logs.configure(*sys.argv[4:])  # type: ignore[arg-type]  # the parent has checked them
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    end()
