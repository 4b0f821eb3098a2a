"""Witnesses of real processes: running, stopped, killed, with and without a child."""

from __future__ import annotations

import contextlib
import os
import platform
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from peers.database.rows import Sibling
from peers.peer.witness import Witness
from peers.pool.liveness import LivenessLock

DEADLINE = 20.0
EXIT_THREAD = {"x86_64": 60, "aarch64": 93}
"""The number of the system call that ends one thread."""


def until(holds: Callable[[], object], what: str) -> None:
    """Wait until it holds."""
    give_up = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < give_up, f"waited in vain for {what}"


def start(code: str, *descriptors: int) -> subprocess.Popen[bytes]:
    """A process that runs this code, and says when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, pass_fds=descriptors
    )
    assert process.stdout is not None
    with process.stdout as ready:
        ready.readline()
    return process


def real_start(pid: int) -> int:
    """When a real process started."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@contextlib.contextmanager
def a_real_witness(locks: Path) -> Iterator[tuple[Witness, selectors.BaseSelector]]:
    """A witness of this very host."""
    with selectors.DefaultSelector() as selector:
        witness = Witness(selector, locks=locks)
        yield witness, selector
        witness.close()


SLEEP = "print(flush=True); import time; time.sleep(1000)"
ZOMBIE = (  # its first thread ends, another one goes on
    "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(1000,)).start();"
    f" print(flush=True); ctypes.CDLL(None).syscall({EXIT_THREAD.get(platform.machine(), 60)}, 0)"
)


@pytest.mark.parametrize("code", [SLEEP, ZOMBIE], ids=["running", "without its first thread"])
def test_a_real_process_and_its_child(tmp_path: Path, code: str) -> None:
    """It has ended only when both have: killed, and not even reaped."""
    lock = LivenessLock(tmp_path)
    lock.publish()
    peer, worker = start(code, lock.fd), start(SLEEP, lock.fd)
    os.close(lock.fd)
    sibling = Sibling(uuid4(), peer.pid, real_start(peer.pid), lock.name)

    def gone(seconds: float) -> list[UUID]:
        for key, _ in selector.select(seconds):
            key.data()
        return witness.gone()

    try:
        with a_real_witness(tmp_path) as (witness, selector):
            witness.watch([sibling])
            peer.send_signal(signal.SIGSTOP)
            assert gone(0.1) == [], "a stopped process lives"
            peer.kill()
            assert gone(DEADLINE) == [], "its child lives"
            worker.kill()
            until(lambda: gone(0.01) == [sibling.peer_id], "the end of both")
        with a_real_witness(tmp_path) as (witness, selector):
            witness.watch([sibling])
            assert gone(0) == [sibling.peer_id], "who comes later knows it, too"
            peer.wait()
    finally:
        for process in (peer, worker):
            process.kill()
            process.wait()
