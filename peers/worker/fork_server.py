"""Start a fork server: `python -m peers.worker.fork_server CONTROL MARKS PARENT APP FORM LEVEL`.

It imports the app once. Then it forks a worker for each request of the peer: a byte on CONTROL (an
inherited socket) with the worker's own socket, running marker and output pipe. MARKS is an
inherited descriptor (-1: there is none); all workers share the memory behind it. PARENT is the
peer's pid.

A worker is forked twice, so that the peer becomes its parent and learns how it ends. The process
between the two forks exits at once, and the kernel gives its child to the peer, which is a
subreaper at that moment.

Where a fork would not work, this process itself becomes the first worker that is requested.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Final, NamedTuple

from peers.protocol.messages import Forked, FromForkServer, NotForked, Preloaded, Unforkable, encode
from peers.protocol.started_marks import StartedMarks
from peers.worker import logs
from peers.worker.app import import_app
from peers.worker.channel import Channel
from peers.worker.forkable import fork, open_files, reason_not_to_fork
from peers.worker.lifetime import die_with_parent, keep_descriptors, set_command_line
from peers.worker.work import exit_now, work

_LONGEST_PID: Final = 20
_POLL_SECONDS: Final = 0.0005
# Generators that all forks would share. Python reseeds `random`, and ssl its own generator.
_GENERATORS: Final = ("numpy.random", "torch")


class _Request(NamedTuple):
    """The descriptors of a requested worker."""

    socket: int
    marker: int
    output: int


def main(control_fd: int, marks_fd: int, parent: int, app: str) -> None:
    """Import the app and fork workers until the peer is gone; each worker returns from here."""
    die_with_parent(parent)
    keep_descriptors()
    marks = StartedMarks(marks_fd)
    control = socket.socket(fileno=control_fd)
    before = open_files()
    failure = import_app(app)
    if failure is not None:
        _send(control, failure)
        return
    logs.pause()
    reason = reason_not_to_fork(before)
    if reason is None:
        _send(control, Preloaded())
        request = _fork_workers(control)
        if request is not None:
            die_with_parent(parent)
            _reseed()
    else:
        _send(control, Unforkable(reason))
        request = _receive(control)
        control.close()
    if request is not None:
        set_command_line("-m", "peers.worker", app)
        logs.resume()
        channel = Channel(socket.socket(fileno=request.socket))
        work(channel, request.marker, request.output, marks)


def _fork_workers(control: socket.socket) -> _Request | None:
    """Fork a worker for each request.

    Returns several times: in each worker, with its request; in the fork server, with None when the
    peer is gone.
    """
    while (request := _receive(control)) is not None:
        sys.stdout.flush()  # or each fork would print again what the app has printed
        sys.stderr.flush()
        reply = _fork(control)
        if reply is None:
            return request
        for fd in request:
            os.close(fd)
        _send(control, reply)
    return None


def _receive(control: socket.socket) -> _Request | None:
    """Wait for a request; return None when the peer is gone, or needs no more workers."""
    data, fds, _, _ = socket.recv_fds(control, 1, len(_Request._fields))
    return _Request(*fds) if data else None


def _fork(control: socket.socket) -> Forked | NotForked | None:
    """Fork a worker and return its pid; return None in the worker."""
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
        _fork_again(write)
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


def _fork_again(write: int) -> None:
    """Fork once more; return only in the worker, which leads a session and belongs to the peer."""
    between = os.getpid()
    try:
        child = fork()
    except OSError as error:
        os._exit(error.errno or 1)
    if child:
        os._exit(0)
    # The peer may kill the worker by its process group as soon as it knows the pid, so the worker
    # must lead a group before.
    os.setsid()
    os.write(write, b"%d" % os.getpid())
    os.close(write)
    # The kernel would take the exit of the process between for the death of the peer.
    while os.getppid() == between:
        time.sleep(_POLL_SECONDS)


def _reseed() -> None:
    """Give this worker random numbers of its own."""
    for name in _GENERATORS:
        if name in sys.modules:
            sys.modules[name].seed()


def _send(control: socket.socket, message: FromForkServer) -> None:
    control.sendall(encode(message))


if __name__ == "__main__":
    logs.configure(*sys.argv[5:])  # type: ignore[arg-type]  # the peer has checked them
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    exit_now()
