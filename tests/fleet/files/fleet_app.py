"""The handlers of the fleet test. Each notes what it does in a ledger outside of the database."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing.shared_memory
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from peers import current_task, task
from tests.e2e.ledger import recorded

_MEGABYTE = 1 << 20
_AT_ONCE = timedelta(0)


@task("step", backoff=_AT_ONCE)
def step(n: int, seconds: float) -> dict[str, object]:
    """Take a while, and return the number and where it ran."""
    with recorded():
        time.sleep(seconds)
        return {"token": current_task().token, "n": n, "host": os.uname().nodename}


@task("hog", max_attempts=1)
def hog() -> dict[str, object]:
    """Take memory until the kernel kills the worker."""
    taken = []
    with recorded():
        while True:
            taken.append(os.urandom(16 * _MEGABYTE))


@task("probe", max_attempts=1)
def probe() -> dict[str, object]:
    """Try what handlers need, and what they must not do."""
    with recorded():
        return {
            "token": current_task().token,
            "may": {what: _tried(attempt) for what, attempt in _MAY.items()},
            "must not": {what: _tried(attempt) for what, attempt in _MUST_NOT.items()},
        }


def _tried(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except Exception as error:  # noqa: BLE001  # the answer names it
        return repr(error)
    return "yes"


def _run_machine_code() -> None:
    """Write code into memory and call it, as a compiler at run time does: mov eax, 42; ret."""
    codes = {"x86_64": "b82a000000c3", "aarch64": "40058052c0035fd6"}
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(bytes.fromhex(codes[os.uname().machine]))
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CFUNCTYPE(ctypes.c_int)(address)() != 42:
        raise RuntimeError("the code was not run")


def _write_file(folder: str) -> None:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(b"a result")


def _share_memory() -> None:
    multiprocessing.Lock()  # a semaphore in /dev/shm
    multiprocessing.shared_memory.SharedMemory(create=True, size=4096).unlink()


def _mount() -> None:
    if ctypes.CDLL(None, use_errno=True).mount(b"none", b"/mnt", b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), "mount")


_MAY: dict[str, Callable[[], object]] = {
    "run code compiled at run time": _run_machine_code,
    "start programs": lambda: subprocess.run(["sh", "-c", "true"], check=True),
    "share memory": _share_memory,
    "write to /var/lib/peers": lambda: _write_file("/var/lib/peers"),
    "write to /srv": lambda: _write_file("/srv/peers"),
    "write to /tmp": lambda: _write_file("/tmp"),  # noqa: S108  # a private one
    "resolve names": lambda: socket.getaddrinfo("localhost", 80),
    "choose its cores": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
}
_MUST_NOT: dict[str, Callable[[], object]] = {
    "write to /usr": lambda: Path("/usr/local/x").write_text(""),
    "write to /etc": lambda: Path("/etc/peers/x").write_text(""),
    "read the owner's credential": lambda: Path("/etc/credstore/peers_migrate_url").read_text(),
    "mount": _mount,
    "make a namespace": lambda: subprocess.run(["unshare", "-U", "true"], check=True),
    "become root": lambda: os.setuid(0),
    "see processes of others": lambda: Path("/proc/1/status").read_text(),
}
