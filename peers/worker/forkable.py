"""Decide whether this process can be forked after it has imported the app.

A fork has one thread, and shares what its origin has open: connections, the positions in files,
the event loop's list of what to wait for. So if an app does more than define things while it is
imported, each worker imports it itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import warnings
from pathlib import Path
from typing import Final

_STREAMS: Final = (0, 1, 2)
_WITHOUT_STATE: Final = frozenset({"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"})
_RESTARTED: Final = frozenset({"jemalloc_bg_thd"})
"""Threads that a fork starts again when it needs them: that of pyarrow's allocator."""
_MAIN_THREAD: Final = 1
_THREADS_END_WITHIN: Final = 0.2
"""Seconds in which the kernel ends a thread that Python has joined already."""
_LOOK_AGAIN: Final = 0.005


def open_files() -> dict[int, str]:
    """Return what each descriptor of this process is open on."""
    found = {}
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the descriptor that listed the folder
            found[int(entry.name)] = str(entry.readlink())
    return found


def reason_not_to_fork(before: dict[int, str]) -> str | None:
    """Return why this process should not be forked; None: it can be.

    `before`: what was open before the app was imported.
    """
    return _child_process() or _opened_file(before) or _thread()


def fork() -> int:
    """Fork without Python's warning about threads: `reason_not_to_fork` has looked for them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _child_process() -> str | None:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return "importing it started a process"


def _opened_file(before: dict[int, str]) -> str | None:
    shared = {before.get(stream) for stream in _STREAMS}
    for fd, what in open_files().items():
        if before.get(fd) == what or what in _WITHOUT_STATE or what in shared or _is_log(fd):
            continue
        return f"importing it opened {what}, whose state forks would share"
    return None


def _is_log(fd: int) -> bool:
    """Return whether all processes write at the end of this file."""
    with contextlib.suppress(OSError):
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        return bool(flags & os.O_APPEND) and flags & os.O_ACCMODE == os.O_WRONLY
    return False


def _thread() -> str | None:
    main = threading.main_thread()
    python = [thread.name for thread in threading.enumerate() if thread is not main]
    if python:
        return f"importing it started the thread {python[0]}"
    if len(_native_threads()) > _MAIN_THREAD:
        # a pool such as that of OpenBLAS ends its threads before a fork and starts new ones later
        child = fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    give_up = time.monotonic() + _THREADS_END_WITHIN
    while len(names := _native_threads()) > _MAIN_THREAD:
        if time.monotonic() > give_up:
            others = len(names) - _MAIN_THREAD
            return f"importing it started {others} threads of a library ({names[-1]})"
        time.sleep(_LOOK_AGAIN)
    return None


def _native_threads() -> list[str]:
    """Return the names of the threads that a fork would lose, after that of the main thread."""
    found = []
    for entry in sorted(Path("/proc/self/task").iterdir(), key=lambda entry: int(entry.name)):
        with contextlib.suppress(OSError):  # the thread has ended
            found.append((entry / "comm").read_text().rstrip("\n"))
    return [name for name in found if name not in _RESTARTED]
