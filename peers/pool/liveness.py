"""Show the other processes of this host whether the peer or one of its processes lives.

The peer holds a lock on a file. The processes that it starts inherit the lock. The kernel releases
it when the last of them has exited, however it ended. So whoever can lock the file knows that
none of them runs any more. The file is in memory that belongs to one running system, so that a
copy of this system, or another host, cannot find it.

This module imports nothing that takes long to import.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

FOLDER: Final = Path("/dev/shm")  # noqa: S108
_PREFIX: Final = "peers-"
_OLD: Final = 2 * 86_400.0
"""Seconds after which nobody needs the file of a dead peer: every lease has ended."""


class LivenessLock:
    """A lock on a new file, which has no name until `publish`. Raises `OSError`."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.name = secrets.token_hex(16)
        self._path = _path(folder, self.name)
        self.fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o444)
        os.fchmod(self.fd, 0o444)  # whatever the umask: peers may run as different users
        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

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


_own: list[LivenessLock | None] = []


def own_lock() -> LivenessLock | None:
    """Return the lock of this process; None if the system refuses one."""
    if not _own:
        try:
            _own.append(LivenessLock())
        except OSError:
            _own.append(None)
    return _own[0]


def inherited() -> tuple[int, ...]:
    """Return the descriptors that a child process has to inherit to hold the lock as well."""
    lock = own_lock()
    return () if lock is None else (lock.fd,)


def is_released(name: str, folder: Path = FOLDER) -> bool:
    """Return whether every process that held this lock has ended. False: or it is not known."""
    try:
        fd = os.open(_path(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: several processes may ask at once
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


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
