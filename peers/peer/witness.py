"""See that other peers of this host have ended, before their leases do.

A peer is gone only if two things prove it: the process with its pid has exited, or is another one,
and nobody holds its liveness lock any more. The second means that none of its workers runs either.
Whatever cannot be seen (another process namespace, a hidden /proc, a file that is not there) is no
proof, and then the peer's lease decides.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from peers.database.rows import Sibling, UnstartedTasks
from peers.pool import liveness
from peers.pool.unstarted import find_unstarted

_START: Final = 19
"""The field of /proc/PID/stat, counted after the program's name."""
_LOOK_AGAIN_MIN: Final = 0.01
_LOOK_AGAIN_MAX: Final = 1.0


class ProcessIdentity(NamedTuple):
    """What other peers on the host need to recognize a process."""

    host_id: str
    """The running system, and the namespaces in which its pid and start time are valid."""
    start: int
    """When it started, in clock ticks since the system started."""
    lock: str
    """The name of its liveness lock."""


def identify(lock: str, pid: int | None = None, root: Path = Path("/")) -> ProcessIdentity | None:
    """Return the identity of this process; None if /proc does not show it as it is."""
    pid = os.getpid() if pid is None else pid
    proc = root / "proc"
    try:
        if _pids(proc / "self" / "status") != [pid]:
            return None  # it shows the processes of another namespace
        boot = (proc / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
        pids = (proc / "self" / "ns" / "pid").readlink()
        start = _start(proc / "self" / "stat")
    except (OSError, ValueError):
        return None
    machine, times = "", Path()
    with contextlib.suppress(OSError):
        machine = (root / "etc" / "machine-id").read_text().strip()
    with contextlib.suppress(OSError):  # before Linux 5.6 start times are the same for everyone
        times = (proc / "self" / "ns" / "time").readlink()
    return ProcessIdentity(f"{boot} {machine} {pids} {times}", start, lock)


def register_process() -> dict[str, str | int] | None:
    """Let other peers of this host see whether this process lives; return its identity.

    None: the system does not allow it, and other peers have to wait until the lease ends.
    """
    lock = liveness.own_lock()
    identity = None if lock is None else identify(lock.name)
    if lock is None or identity is None:
        return None
    try:
        lock.publish()
    except OSError:
        return None
    return identity._asdict()


def unregister_process() -> None:
    """Leave nothing behind: the peer has left, and nobody needs to know how its process ends."""
    lock = liveness.own_lock()
    if lock is not None:
        lock.withdraw()


@dataclass(slots=True, eq=False)
class _Watched:
    """A peer of this host. `pidfd`: -1 if its process has exited."""

    sibling: Sibling
    pidfd: int
    look_at: float = 0.0
    wait: float = _LOOK_AGAIN_MIN
    unstarted: list[UnstartedTasks] | None = None
    """None: its file was not read yet."""


class Witness:
    """Watches the processes of the other peers of this host."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        root: Path = Path("/"),
        locks: Path = liveness.FOLDER,
        pidfd_open: Callable[[int], int] = os.pidfd_open,
    ) -> None:
        self._selector = selector
        self._proc = root / "proc"
        self._locks = locks
        self._pidfd_open = pidfd_open
        self._watched: dict[UUID, _Watched] = {}

    def watch(self, siblings: Iterable[Sibling]) -> None:
        """Watch these peers, and no others."""
        listed = {sibling.peer_id: sibling for sibling in siblings}
        for peer_id in self._watched.keys() - listed.keys():
            self._drop(peer_id)
        for peer_id in listed.keys() - self._watched.keys():
            self._add(listed[peer_id])

    def gone(self) -> list[UUID]:
        """Return the peers of which no process is left, until `forget`; those that are due."""
        now, found = time.monotonic(), []
        for peer_id, watched in self._watched.items():
            if watched.pidfd >= 0 or now < watched.look_at:
                continue
            watched.look_at = now + watched.wait
            watched.wait = min(2 * watched.wait, _LOOK_AGAIN_MAX)
            if liveness.is_released(watched.sibling.liveness_lock, self._locks):
                found.append(peer_id)
        return found

    def unstarted(self, peer_ids: Iterable[UUID]) -> list[UnstartedTasks]:
        """Return the tasks that these peers, which are `gone`, had not started."""
        found: list[UnstartedTasks] = []
        for peer_id in peer_ids:
            watched = self._watched.get(peer_id)
            if watched is None:
                continue
            if watched.unstarted is None:  # nobody writes into the file any more
                file = liveness.read(watched.sibling.liveness_lock, self._locks)
                watched.unstarted = find_unstarted(file)
            found += watched.unstarted
        return found

    def next_look(self) -> float:
        """Return when (monotonic) `gone` may return something new."""
        looks = [each.look_at for each in self._watched.values() if each.pidfd < 0]
        return min(looks, default=float("inf"))

    def forget(self, peer_ids: Iterable[UUID]) -> None:
        """Forget peers that have been declared lost."""
        for peer_id in peer_ids:
            if peer_id not in self._watched:
                continue
            lock = self._watched[peer_id].sibling.liveness_lock
            self._drop(peer_id)
            # a process that has joined twice may have a second row
            if all(other.sibling.liveness_lock != lock for other in self._watched.values()):
                liveness.remove(lock, self._locks)

    def close(self) -> None:
        """Watch nobody any more."""
        self.watch([])

    def _add(self, sibling: Sibling) -> None:
        try:
            pidfd = self._open(sibling)
        except OSError:  # no descriptor is free, or the system refuses this: look again later
            return
        watched = _Watched(sibling, pidfd)
        if pidfd >= 0:
            try:
                self._selector.register(
                    pidfd, selectors.EVENT_READ, lambda: self._note_exit(watched)
                )
            except OSError:
                os.close(pidfd)
                return
        self._watched[sibling.peer_id] = watched

    def _open(self, sibling: Sibling) -> int:
        """Return a descriptor of the running process, or -1 if it has exited.

        Raises `OSError` if neither can be known.
        """
        try:
            pidfd = self._pidfd_open(sibling.pid)
        except ProcessLookupError:
            return -1
        # A process whose first thread has ended is a zombie, although other threads may run. A
        # pidfd is readable only when all have ended. Whichever process that is, it is not the peer
        # or no longer.
        if _is_readable(pidfd):
            os.close(pidfd)
            return -1
        # After pidfd_open: if this is the peer now, it was the peer then.
        try:
            start = _start(self._proc / str(sibling.pid) / "stat")
        except (OSError, ValueError):  # hidden; but its exit can be seen
            return pidfd
        if start != sibling.process_start:
            os.close(pidfd)
            return -1
        return pidfd

    def _note_exit(self, watched: _Watched) -> None:
        self._close(watched)
        watched.look_at = time.monotonic()

    def _drop(self, peer_id: UUID) -> None:
        self._close(self._watched.pop(peer_id))

    def _close(self, watched: _Watched) -> None:
        if watched.pidfd >= 0:
            self._selector.unregister(watched.pidfd)
            os.close(watched.pidfd)
            watched.pidfd = -1


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _start(stat: Path) -> int:
    """Return the start time from a /proc/PID/stat. Raises `OSError` or `ValueError`."""
    fields = stat.read_bytes().rpartition(b")")[2].split()
    if len(fields) <= _START:
        raise ValueError(f"{stat} is incomplete")
    return int(fields[_START])


def _pids(status: Path) -> list[int]:
    """Return the pid in each namespace, from that of /proc to its own, from a /proc/PID/status."""
    for line in status.read_text().splitlines():
        if line.startswith("NSpid:"):
            return [int(pid) for pid in line.split()[1:]]
    raise ValueError(f"{status} does not name the namespaces")
