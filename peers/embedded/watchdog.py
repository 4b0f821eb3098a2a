"""Stop the embedded server when its last user is gone; run as a script, in its own session.

The protocol uses three locks. They are flock(2) locks, so the kernel releases them when their
holder ends for whatever reason:

- `users`: every user holds it shared, and the watchdog waits for it exclusively. Once the watchdog
  has it, there are no users, and no new one can come until the watchdog releases it.
- `watchdog`: the one active watchdog holds it.
- `server`: every process of the server (and initdb) inherits it. So it is free exactly when all of
  them have ended, including children of a killed postmaster.

This file imports little of the standard library and nothing of Peers, so that the watchdog needs
only a few MB and does not load the application.
"""

import fcntl
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

POLL_SECONDS = 0.02
SIGNAL_AGAIN_SECONDS = 1.0
# The signals that stop a server, each with its seconds (a fast shutdown writes a checkpoint). All
# are safe for the data: after the last two, the next start recovers from the write-ahead log.
ESCALATION = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 20.0), (signal.SIGKILL, 20.0))


class Guarded(NamedTuple):
    """The files and names that identify one embedded server."""

    users: str
    """path of the lock that users share"""
    watchdog: str
    """path of the lock of the active watchdog"""
    server: str
    """path of the lock that the server's processes inherit"""
    data: str
    """the data directory as the postmaster's command line gives it"""
    title: str
    """the cluster_name, which Postgres puts into the title of each of its child processes"""


def open_lock(path: str, operation: int, missing: int = os.O_CREAT) -> int:
    """Open the file and lock it, until the descriptor (close-on-exec) is closed.

    Make a missing file, or raise FileNotFoundError with `missing=0`. Raises BlockingIOError if the
    operation has LOCK_NB and another process holds the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | missing, 0o600)
    try:
        fcntl.flock(descriptor, operation)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_locked(path: str) -> bool:
    """Return whether a process holds the lock exclusively. A missing file is a free lock."""
    try:
        os.close(open_lock(path, fcntl.LOCK_SH | fcntl.LOCK_NB, missing=0))
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


class Process(NamedTuple):
    """One process of a server."""

    parent: int
    """its parent's pid"""
    titled: bool
    """a child of the postmaster, by its title; the postmaster and its launcher carry none"""


def server_processes(server: Guarded) -> dict[int, Process]:
    """Return the server's processes by pid.

    It reads command lines, which is possible in every container. /proc/PID/cwd would need
    CAP_SYS_PTRACE.
    """
    title = b"postgres: " + os.fsencode(server.title) + b": "
    launch = b"/postgres\0-D\0" + os.fsencode(server.data) + b"\0"
    found: dict[int, Process] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # raised if it ends while we look
                command = (folder / "cmdline").read_bytes()
                titled = command.startswith(title)
                if titled or launch in command:
                    found[int(folder.name)] = Process(_parent(folder), titled)
    return found


def _parent(folder: Path) -> int:
    # the command's name is in parentheses, and may hold spaces and parentheses itself
    return int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])


def postmaster(server: Guarded) -> int | None:
    """Return the pid of the postmaster, or None if there is none."""
    found = server_processes(server)
    roots = (pid for pid, process in found.items() if process.parent not in found)
    return next((pid for pid in roots if not found[pid].titled), None)


def is_orphaned(server: Guarded) -> bool:
    """Return whether only children of a killed postmaster are left."""
    found = server_processes(server)
    return bool(found) and all(process.titled for process in found.values())


def is_running(server: Guarded) -> bool:
    """Return whether any process of the server lives, also one that is starting or stopping."""
    return is_locked(server.server) or bool(server_processes(server))


def stop_server(server: Guarded, first: signal.Signals = signal.SIGINT) -> bool:
    """Stop the server, starting with this signal. Return False if even SIGKILL did not end it."""
    steps = [number for number, _ in ESCALATION]
    return any(
        _signal_until_gone(server, number, seconds)
        for number, seconds in ESCALATION[steps.index(first) :]
    )


def _signal_until_gone(server: Guarded, number: signal.Signals, seconds: float) -> bool:
    now = time.monotonic()
    deadline, next_signal = now + seconds, now
    while is_running(server):
        now = time.monotonic()
        if now >= deadline:
            return False
        if now >= next_signal:  # again: a server that is just starting may miss a signal
            next_signal = now + SIGNAL_AGAIN_SECONDS
            _signal_roots(server, number)
        time.sleep(POLL_SECONDS)
    return True


def _signal_roots(server: Guarded, number: signal.Signals) -> None:
    found = server_processes(server)
    for pid, process in found.items():
        if process.parent in found:
            continue  # the postmaster stops its children
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def main(arguments: list[str]) -> int:
    """Become the watchdog: go to the background, wait for the last user's end, stop the server.

    The process in the foreground exits with 0 as soon as this or another watchdog is active.
    """
    server = Guarded(*arguments)
    try:
        active = open_lock(server.watchdog, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    users = open_lock(server.users, fcntl.LOCK_SH, missing=0)
    if os.fork():
        os._exit(0)  # the background process shares both locks
    fcntl.flock(users, fcntl.LOCK_EX)
    stopped = stop_server(server)
    # Release `watchdog` first: a user who gets `users` must not mistake us for an active watchdog.
    os.close(active)
    os.close(users)
    return 0 if stopped else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
