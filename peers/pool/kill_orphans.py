"""Kill what a peer's workers started once the peer is gone; run as a script, by the peer.

The kernel kills the workers of a peer that is killed, but not what they have started. Each worker
leads a process group of its own, and what its handlers start is in it unless it leaves on purpose.
The arguments are the groups that there are at the start; on standard input the peer names what
changes: a line `+PID` when a worker starts, `-PID` when it and its group have ended. The kernel
closes that pipe when the peer dies, whatever it dies of.

This file imports a little of the standard library and nothing of Peers, so that it takes a few MB.
"""

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Read until the peer is gone, then kill the groups that are left."""
    # a signal to everything of the peer's must not end the one that cleans up behind it
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
