"""Kill what a peer's workers started once the peer is gone. The peer runs this file as a script.

When a peer is killed the kernel kills its workers, but not the processes that they have started.
Each worker leads a process group, and the processes that its handlers start are in it unless they
leave it on purpose. The arguments are the groups at the start. On standard input the peer sends the
changes: a line `+PID` when a worker starts, `-PID` when it and its group have ended. The kernel
closes that pipe when the peer dies, whatever the cause.

A line `=TIME` says until when the peer's lease lasts, in nanoseconds of CLOCK_BOOTTIME; 0: it has
none. A peer kills its workers before that. If it cannot, because a signal has stopped it, this
process does: other peers will run the tasks.

It ends when no process of these groups is left. Until then it keeps the peer's liveness lock, so
that no other peer of the host runs the tasks beside them.

This file imports little of the standard library and nothing of Peers, so that it takes a few MB.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress

_WAIT_MAX = 10.0
_LOOK_AGAIN = 0.005


def main() -> None:
    """Read until the peer is gone, then kill the groups that are left."""
    # a signal to all processes of the peer must not end the one that cleans up after them
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_IGN)
    groups = {int(group) for group in sys.argv[1:]}
    rest = b""
    lease_end = 0
    while True:
        left = max(0, lease_end - _boottime()) / 1e9 if lease_end else None
        if not select.select([0], [], [], left)[0]:
            lease_end = 0
            _kill(groups)
            continue
        data = os.read(0, 1 << 12)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            number = int(line[1:])
            if line.startswith(b"="):
                lease_end = number
            elif line.startswith(b"+"):
                groups.add(number)
            else:
                groups.discard(number)
    _kill(groups)
    give_up = time.monotonic() + _WAIT_MAX
    while _lives(groups) and time.monotonic() < give_up:
        time.sleep(_LOOK_AGAIN)


def _boottime() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _kill(groups: set[int]) -> None:
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def _lives(groups: set[int]) -> bool:
    """Return whether a process of these groups is left. A zombie does nothing any more."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with suppress(OSError, ValueError):  # it has ended
            with open(f"/proc/{entry.name}/stat", "rb") as file:
                state, _, group = file.read().rpartition(b")")[2].split()[:3]
            if int(group) in groups and state not in (b"Z", b"X"):
                return True
    return False


if __name__ == "__main__":
    main()
