"""A witness knows that a peer has ended, or says nothing: every doubt means waiting."""

from __future__ import annotations

import fcntl
import os
import selectors
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from peers.database.rows import Sibling, UnstartedTasks
from peers.peer.witness import Witness, identify
from peers.pool import liveness
from peers.pool.claim import TaskRun
from peers.pool.liveness import LivenessLock, is_released
from peers.protocol.started_marks import UNMARKED
from tests.support.claims import a_claim
from tests.unit.test_claim import a_queue

DEADLINE = 20.0
PID = 4711
STAT = "{pid} (py) thon) {state} 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0\n"


def until(holds: Callable[[], object], what: str) -> None:
    """Wait until it holds."""
    give_up = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < give_up, f"waited in vain for {what}"
        time.sleep(0.005)


class Host:
    """A host with a /proc of its own, and the locks of its peers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.locks = root / "locks"
        self.locks.mkdir()
        self.write("etc/machine-id", "machine\n")
        self.write("proc/sys/kernel/random/boot_id", "boot\n")
        self.process("self", pid=PID)
        self.write("proc/self/status", f"Name:\tpeer\nNSpid:\t{PID}\n")
        self.namespace("pid", 1)
        self.namespace("time", 2)
        self.selector = selectors.DefaultSelector()
        self.pidfds: dict[int, int | OSError] = {}
        self.witness = Witness(self.selector, root, self.locks, self._pidfd_open)

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def namespace(self, name: str, number: int) -> None:
        """Be in a namespace."""
        link = self.root / "proc/self/ns" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(f"{name}:[{number}]")

    def process(self, name: str, *, pid: int = 7, start: int = 100, state: str = "S") -> None:
        """Have a process."""
        self.write(f"proc/{name}/stat", STAT.format(pid=pid, start=start, state=state))

    def host_id(self) -> str:
        """The identity that a peer registers."""
        identity = identify("lock", PID, self.root)
        assert identity is not None
        return identity.host_id

    def dead_lock(self) -> str:
        """The lock of processes that have ended."""
        lock = LivenessLock(self.locks)
        lock.publish()
        os.close(lock.fd)
        return lock.name

    def sibling(self, lock: str, *, pid: int = 7, start: int = 100) -> Sibling:
        """A peer of this host."""
        return Sibling(uuid4(), pid, start, lock)

    def turn(self) -> None:
        """Handle what the selector reports."""
        for key, _ in self.selector.select(0):
            key.data()

    def ended(self, sibling: Sibling) -> bool:
        """Whether the witness knows that this peer has ended."""
        self.witness.watch([sibling])
        self.turn()
        return self.witness.gone() == [sibling.peer_id]

    def _pidfd_open(self, pid: int) -> int:
        found = self.pidfds.get(pid, ProcessLookupError())
        if isinstance(found, OSError):
            raise found
        return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host."""
    made = Host(tmp_path)
    yield made
    made.witness.close()
    made.selector.close()


def running() -> tuple[int, int]:
    """A descriptor that looks like the pidfd of a running process, and what ends it."""
    return os.pipe()


# ---------------------------------------------------------------------------------- who is who


def test_an_identity_has_everything(host: Host) -> None:
    """The boot, the machine, both namespaces, the start and the lock; of the process itself."""
    assert identify("lock", PID, host.root) == ("boot machine pid:[1] time:[2]", 100, "lock")
    own = identify("lock")
    assert own is not None
    assert own.start == int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


@pytest.mark.parametrize(
    ("path", "text"),
    [("proc/sys/kernel/random/boot_id", "another\n"), ("etc/machine-id", "another\n")],
)
def test_another_system_is_another_host(host: Host, path: str, text: str) -> None:
    """After a restart, and on another machine."""
    before = host.host_id()
    host.write(path, text)
    assert host.host_id() != before


@pytest.mark.parametrize("name", ["pid", "time"])
def test_another_namespace_is_another_host(host: Host, name: str) -> None:
    """Pids mean other processes there, and start times are shifted."""
    before = host.host_id()
    host.namespace(name, 9)
    assert host.host_id() != before


@pytest.mark.parametrize(
    "status", [f"NSpid:\t900\t{PID}\n", "NSpid:\t900\n", "Name:\tpeer\n"],
    ids=["an outer namespace", "another process", "not told"],
)  # fmt: skip
def test_the_proc_of_another_namespace_is_no_identity(host: Host, status: str) -> None:
    """A container may see the processes of its host, under pids that are not its own."""
    host.write("proc/self/status", status)
    assert identify("lock", PID, host.root) is None


@pytest.mark.parametrize("path", ["sys/kernel/random/boot_id", "self/stat", "self/ns/pid"])
def test_a_proc_that_shows_nothing_is_no_identity(host: Host, path: str) -> None:
    """Nobody can be a witness then."""
    (host.root / "proc" / path).unlink()
    assert identify("lock", PID, host.root) is None


# ------------------------------------------------------------------------------- who has ended


def test_a_process_that_does_not_exist_has_ended(host: Host) -> None:
    """And nobody holds its lock."""
    assert host.ended(host.sibling(host.dead_lock()))


def test_a_pid_that_was_used_again(host: Host) -> None:
    """The process with this pid started at another time."""
    host.pidfds[7], _ = running()
    host.process("7", start=101)
    assert host.ended(host.sibling(host.dead_lock()))


def test_a_process_that_lives(host: Host) -> None:
    """Even if nobody should hold its lock. Its end is noticed at once."""
    host.pidfds[7], end = running()
    host.process("7", start=100)
    sibling = host.sibling(host.dead_lock())
    assert not host.ended(sibling)
    assert host.witness.next_look() == float("inf")
    os.close(end)
    host.turn()
    assert host.witness.next_look() <= time.monotonic()
    assert host.witness.gone() == [sibling.peer_id]


def test_a_zombie_whose_threads_run(host: Host) -> None:
    """Its first thread has ended and waits to be reaped, but its pidfd says that others run."""
    host.pidfds[7], _ = running()
    host.process("7", state="Z")
    assert not host.ended(host.sibling(host.dead_lock()))


def test_a_zombie_without_threads(host: Host) -> None:
    """Its pidfd says that all of it has ended, although its parent has not reaped it."""
    host.pidfds[7], end = running()
    os.close(end)
    host.process("7", state="Z")
    assert host.ended(host.sibling(host.dead_lock()))


def test_a_process_that_proc_hides(host: Host) -> None:
    """It is watched, and not judged: with hidepid its files look as if it did not exist."""
    host.pidfds[7], end = running()
    sibling = host.sibling(host.dead_lock())
    assert not host.ended(sibling)
    os.close(end)
    assert host.ended(sibling)


@pytest.mark.parametrize("text", ["", "7 (python) S 1", "7 (python) S" + " x" * 30])
def test_a_stat_that_cannot_be_read(host: Host, text: str) -> None:
    """It proves nothing."""
    host.pidfds[7], _ = running()
    host.write("proc/7/stat", text)
    assert not host.ended(host.sibling(host.dead_lock()))


@pytest.mark.parametrize("error", [PermissionError(), OSError(24, "no descriptor is free")])
def test_a_system_that_refuses(host: Host, error: OSError) -> None:
    """It proves nothing; the next list of siblings looks again."""
    host.pidfds[7] = error
    sibling = host.sibling(host.dead_lock())
    assert not host.ended(sibling)
    del host.pidfds[7]
    assert host.ended(sibling)


def test_a_lock_that_is_held(host: Host) -> None:
    """The peer has ended, but a process of it has not: look again, less and less often."""
    lock = LivenessLock(host.locks)
    lock.publish()
    sibling = host.sibling(lock.name)
    assert not host.ended(sibling)
    looks = []
    for _ in range(12):
        looks.append(host.witness.next_look() - time.monotonic())
        until(lambda: time.monotonic() >= host.witness.next_look(), "the next look")
        if len(looks) < 8:
            assert host.witness.gone() == []
    assert looks[-1] <= 1.0
    os.close(lock.fd)
    assert host.witness.gone() == [sibling.peer_id]


def test_a_lock_of_another_system(host: Host) -> None:
    """A copy of a running machine has the same boot id and pids, but not the file."""
    assert not host.ended(host.sibling("0" * 32))


def test_a_lock_that_cannot_be_opened(host: Host) -> None:
    """It proves nothing."""
    (host.locks / f"peers-{'0' * 32}").symlink_to(host.root / "proc")
    assert not host.ended(host.sibling("0" * 32))


def test_a_name_from_the_database_stays_in_the_folder(host: Host) -> None:
    """Nobody can have other files removed."""
    precious = host.root / "precious"
    precious.touch()
    (host.locks / "peers-..").mkdir()
    assert not is_released("../../precious", host.locks)
    liveness.remove("../../precious", host.locks)
    assert precious.exists()


# ---------------------------------------------------------------------------------- what remains


def test_a_peer_is_told_until_it_is_lost(host: Host) -> None:
    """The database may have refused; then its file is removed and it is forgotten."""
    sibling = host.sibling(host.dead_lock())
    assert host.ended(sibling)
    until(lambda: time.monotonic() >= host.witness.next_look(), "the next look")
    assert host.witness.gone() == [sibling.peer_id]
    host.witness.forget([sibling.peer_id, uuid4()])
    assert host.witness.next_look() == float("inf")
    assert not is_released(sibling.liveness_lock, host.locks)


def test_what_a_peer_had_not_started(host: Host) -> None:
    """Its file says it, as long as it is there. A peer that nobody watches has no file."""
    lock = LivenessLock(host.locks)
    lock.publish()
    claim = a_claim(a_queue(), *"aaa")
    lock.log.queued(TaskRun(claim, 0, 3))
    lock.log.assigned(TaskRun(claim, 1, 1), UNMARKED, 1)
    os.close(lock.fd)
    sibling, other = host.sibling(lock.name), host.sibling("0" * 32)
    assert host.ended(sibling)
    host.witness.watch([sibling, other])
    expected = [UnstartedTasks(claim.token, 0, 1), UnstartedTasks(claim.token, 2, 1)]
    assert host.witness.unstarted([sibling.peer_id, other.peer_id, uuid4()]) == expected
    liveness.remove(lock.name, host.locks)
    assert host.witness.unstarted([sibling.peer_id]) == expected, "it was read before"


def test_a_process_that_has_joined_twice(host: Host) -> None:
    """The first row is lost before the second: the proof remains."""
    name = host.dead_lock()
    rows = [host.sibling(name), host.sibling(name)]
    host.witness.watch(rows)
    assert sorted(host.witness.gone()) == sorted(row.peer_id for row in rows)
    host.witness.forget([rows[0].peer_id])
    assert is_released(name, host.locks)
    host.witness.forget([rows[1].peer_id])
    assert not is_released(name, host.locks)


def test_peers_that_left_are_not_watched(host: Host) -> None:
    """Their descriptors are closed."""
    host.pidfds[7], _ = running()
    host.process("7")
    host.witness.watch([host.sibling(host.dead_lock())])
    assert len(host.selector.get_map()) == 1
    host.witness.watch([])
    assert len(host.selector.get_map()) == 0


# ------------------------------------------------------------------------------------ the lock


def test_a_lock_has_no_name_before_it_is_published(tmp_path: Path) -> None:
    """A process that never joins leaves nothing; one that leaves takes it along."""
    lock = LivenessLock(tmp_path)
    assert list(tmp_path.iterdir()) == []
    lock.publish()
    lock.publish()
    [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o444, "whatever the umask"
    assert not is_released(lock.name, tmp_path)
    lock.withdraw()
    assert list(tmp_path.iterdir()) == []
    os.close(lock.fd)


def test_two_may_look_at_the_same_time(tmp_path: Path) -> None:
    """A witness does not hide the truth from another one."""
    lock = LivenessLock(tmp_path)
    lock.publish()
    os.close(lock.fd)
    with (tmp_path / f"peers-{lock.name}").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert is_released(lock.name, tmp_path)


def test_old_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    """Those whose leases have ended long ago, if nobody holds them."""
    names = []
    for dead, old in ((True, True), (True, False), (False, True)):
        lock = LivenessLock(tmp_path)
        lock.publish()
        names.append(lock.name)
        if old:
            os.utime(lock.fd, (0, 0))
        if dead:
            os.close(lock.fd)
    LivenessLock(tmp_path).publish()
    left = {path.name.removeprefix("peers-") for path in tmp_path.iterdir()}
    assert names[0] not in left
    assert {names[1], names[2]} <= left


def test_a_folder_that_refuses(tmp_path: Path) -> None:
    """Then there is no lock."""
    with pytest.raises(OSError, match="No such file"):
        LivenessLock(tmp_path / "missing")
