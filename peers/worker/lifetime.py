"""End a process together with its peer, and set the command line that it shows."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_STREAMS: Final = (0, 1, 2)
_ARG_START: Final = 45
"""The field of /proc/self/stat, counted after the program's name. The next field is the end."""


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its peer dies, even while a handler holds the GIL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def keep_descriptors() -> None:
    """Let the programs that handlers start inherit none of this process's descriptors.

    One of them is the lock by which other peers know that this process lives.
    """
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) not in _STREAMS:
            with contextlib.suppress(OSError):  # the descriptor that listed them
                os.set_inheritable(int(entry.name), False)


def set_command_line(*arguments: str) -> None:
    """Show this process with these arguments, if they are not longer than the old ones.

    A fork has the command line of its origin. People and tests need to distinguish workers from
    fork servers.
    """
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_START + 1])
    line = b"".join(os.fsencode(word) + b"\0" for word in (sys.orig_argv[0], *arguments))
    if start and len(line) <= end - start:  # a sandbox shows 0
        ctypes.memmove(start, line.ljust(end - start, b"\0"), end - start)
