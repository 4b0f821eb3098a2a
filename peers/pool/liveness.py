"""Show the other processes of this host whether the peer or one of its processes lives.

The peer holds a lock on a file. The processes that it starts inherit the lock. The kernel releases
it when the last of them has exited, however it ended. So whoever can lock the file knows that
none of them runs any more. The file is in memory that belongs to one running system, so that a
copy of this system, or another host, cannot find it. It also holds the peer's assignment log.

This module imports nothing that takes long to import.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from peers.pool import assignment_log
from peers.pool.assignment_log import AssignmentLog

FOLDER: Final = Path("/dev/shm")  # noqa: S108
_PREFIX: Final = "peers-"
_OLD: Final = 2 * 86_400.0
"""Seconds after which nobody needs the file of a dead peer: every lease has ended."""


class LivenessLock:
    """A lock on a new file, which has no name until `publish`. Raises `OSError`.

    `fd` holds the lock, and cannot be written: a handler that uses a wrong descriptor does no harm.
    `log_fd` is for workers, which close it when they have mapped their marks; -1: there is no log.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.name = secrets.token_hex(16)
        self._path = _path(folder, self.name)
        self.log_fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o444)
        try:
            os.fchmod(self.log_fd, 0o444)  # whatever the umask: peers may run as different users
            self.fd = os.open(f"/proc/self/fd/{self.log_fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self.log_fd)
            raise
        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.log = self._make_log()

    def _make_log(self) -> AssignmentLog:
        """Return a log in the file; if there is no room for it, one that nobody reads."""
        try:
            # without memory behind it, the first write would kill the process
            os.posix_fallocate(self.log_fd, 0, assignment_log.SIZE)
            return AssignmentLog(mmap.mmap(self.log_fd, assignment_log.SIZE))
        except (OSError, ValueError):
            os.close(self.log_fd)
            self.log_fd = -1
            return AssignmentLog(bytearray(assignment_log.SIZE))

    def publish(self) -> None:
        """Let other processes find the file. Raises `OSError`."""
        _remove_old_files(self._path.parent, os.fstat(self.fd).st_mtime - _OLD)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Python follows the symbolic link only if a folder is given.
            os.link(f"/proc/self/fd/{self.fd}", self._path, src_dir_fd=folder, follow_symlinks=True)
        except FileExistsError:  # published before
            pass
        finally:
            os.close(folder)

    def withdraw(self) -> None:
        """Remove the name: nobody needs to know how this process ends."""
        with contextlib.suppress(OSError):
            self._path.unlink()


_own: dict[int, LivenessLock | None] = {}
"""By the process: a fork of a peer is not the peer."""
_own_log: dict[int, AssignmentLog] = {}


def own_lock() -> LivenessLock | None:
    """Return the lock of this process; None if the system refuses one."""
    pid = os.getpid()
    if pid not in _own:
        try:
            _own[pid] = LivenessLock()
        except OSError:
            _own[pid] = None
    return _own[pid]


def own_log() -> AssignmentLog:
    """Return the assignment log of this process; without a lock, one that nobody reads."""
    pid = os.getpid()
    log = _own_log.get(pid)
    if log is None:
        lock = own_lock()
        log = AssignmentLog(bytearray(assignment_log.SIZE)) if lock is None else lock.log
        _own_log[pid] = log
    return log


def inherited() -> tuple[int, ...]:
    """Return the descriptors that a child process has to inherit to hold the lock as well."""
    lock = own_lock()
    return () if lock is None else (lock.fd,)


def inherited_by_workers() -> tuple[int, ...]:
    """Return the same for a worker or a fork server, which also maps the log."""
    return inherited() if log_fd() < 0 else (*inherited(), log_fd())


def log_fd() -> int:
    """Return the descriptor of the log, for a worker or a fork server; -1: there is none."""
    lock = own_lock()
    return -1 if lock is None else lock.log_fd


def is_released(name: str, folder: Path = FOLDER) -> bool:
    """Return whether every process that held this lock has ended. False: or it is not known."""
    try:
        fd = _open(name, folder)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: several processes may ask at once
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def read(name: str, folder: Path = FOLDER) -> bytes:
    """Return the content of a file; empty if it cannot be read, or has not the size of a log."""
    try:
        fd = _open(name, folder)
    except OSError:
        return b""
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_size == assignment_log.SIZE:
            # not by mmap: a process is killed that reads memory after the file was shortened
            return os.read(fd, assignment_log.SIZE)
    except OSError:
        pass
    finally:
        os.close(fd)
    return b""


def _open(name: str, folder: Path) -> int:
    # O_NONBLOCK: a pipe may have been put in the place of the file
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    return os.open(_path(folder, name), flags)


def remove(name: str, folder: Path = FOLDER) -> None:
    """Remove the file of processes that have ended, if we may."""
    with contextlib.suppress(OSError):
        _path(folder, name).unlink()


def _path(folder: Path, name: str) -> Path:
    return folder / (_PREFIX + Path(name).name)  # the name comes from the database


def _remove_old_files(folder: Path, before: float) -> None:
    """Remove what killed peers left behind when no other peer of the host saw their end."""
    for path in folder.glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            name = path.name.removeprefix(_PREFIX)
            if path.stat().st_mtime < before and is_released(name, folder):
                path.unlink()
