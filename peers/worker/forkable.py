"""Tell whether a copy of this process would work: whether it can be forked after the import.

A fork has one thread, and shares what its origin has open: connections, the positions in files,
the event loop's list of what to wait for. So an app that does more than define things while it is
imported is imported by each worker for itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import warnings
from pathlib import Path
from typing import Final

_STREAMS: Final = (0, 1, 2)
_WITHOUT_STATE: Final = frozenset({"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"})
_START_AGAIN: Final = frozenset({"jemalloc_bg_thd"})
"""Threads that a fork starts again where it needs them: that of pyarrow's allocator."""
_OURS: Final = 1


def open_files() -> dict[int, str]:
    """Return what each descriptor of this process is open on."""
    found = {}
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the one that was used to look
            found[int(entry.name)] = str(entry.readlink())
    return found


def why_not(before: dict[int, str]) -> str | None:
    """Return why this process should not be forked; None: it may be.

    `before`: what was open before the app was imported.
    """
    return _a_child() or _a_file(before) or _a_thread()


def fork() -> int:
    """Fork, without Python's warning of threads: what there may be has been looked at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _a_child() -> str | None:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return "importing it started a process"


def _a_file(before: dict[int, str]) -> str | None:
    shared = {before.get(stream) for stream in _STREAMS}
    for fd, what in open_files().items():
        if before.get(fd) == what or what in _WITHOUT_STATE or what in shared or _is_log(fd):
            continue
        return f"importing it opened {what}, whose state forks would share"
    return None


def _is_log(fd: int) -> bool:
    """Return whether this is a file to which all write at its end."""
    with contextlib.suppress(OSError):
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        return bool(flags & os.O_APPEND) and flags & os.O_ACCMODE == os.O_WRONLY
    return False


def _a_thread() -> str | None:
    named = [thread.name for thread in threading.enumerate() if thread is not _main()]
    if named:
        return f"importing it started the thread {named[0]}"
    if len(_native()) > _OURS:
        # a pool such as that of OpenBLAS ends its threads before a fork and makes new ones later
        child = fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    names = _native()
    if len(names) > _OURS:
        return f"importing it started {len(names) - _OURS} threads of a library ({names[-1]})"
    return None


def _main() -> threading.Thread:
    return threading.main_thread()


def _native() -> list[str]:
    """Return the names of the threads that a fork would lose; the main thread's is the first."""
    found = []
    for entry in sorted(Path("/proc/self/task").iterdir(), key=lambda entry: int(entry.name)):
        with contextlib.suppress(OSError):  # it has ended
            found.append((entry / "comm").read_text().rstrip("\n"))
    return [name for name in found if name not in _START_AGAIN]
