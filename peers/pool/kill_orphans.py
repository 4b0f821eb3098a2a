"""Kill what a peer's workers started once the peer is gone. The peer runs this file as a script.

When a peer is killed the kernel kills its workers, but not the processes that they have started.
Each worker leads a process group, and the processes that its handlers start are in it unless they
leave it on purpose. The arguments are the groups at the start. On standard input the peer sends the
changes: a line `+PID` when a worker starts, `-PID` when it and its group have ended. The kernel
closes that pipe when the peer dies, whatever the cause.

This file imports little of the standard library and nothing of Peers, so that it takes a few MB.
"""

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Read until the peer is gone, then kill the groups that are left."""
    # a signal to all processes of the peer must not end the one that cleans up after them
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    groups = {int(group) for group in sys.argv[1:]}
    rest = b""
    while data := os.read(0, 1 << 12):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            change = groups.add if line.startswith(b"+") else groups.discard
            change(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
