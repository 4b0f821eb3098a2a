"""Takeover: kill a peer with SIGKILL, and wait until another one runs its task again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Final

from benchmarks.bench import Bench
from benchmarks.server import Connection, connect
from benchmarks.starts import Starts
from benchmarks.workloads.draining import wait_for

LEASE_SECONDS: Final = 5.0
_NAMESPACE: Final = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")
"""In a namespace of its own, a peer cannot see whether another peer's process lives."""
_TASK_SECONDS: Final = 600.0
_SETTLE: Final = 1.0
_MILLISECOND: Final = 1e6
_ALIVE: Final = "select count(*) from peers.peer_status where alive"


def measure(bench: Bench) -> None:
    """Measure the delay, first for peers that see each other's process, then for others."""
    for number in range(1, bench.sizes.takeovers + 1):
        for sees in (True, False):
            if sees or _has_namespaces():
                with bench.failures_of("takeover", bench.peers):
                    milliseconds = _run(bench, () if sees else _NAMESPACE)
                    bench.add(
                        "takeover", bench.peers, round=number, sees_process=sees,
                        lease_seconds=LEASE_SECONDS, seconds=round(milliseconds / 1000, 3),
                    )  # fmt: skip


def _run(bench: Bench, prefix: Sequence[str]) -> float:
    """Return the milliseconds from the kill to the second start."""
    peers, starts = bench.peers, bench.starts()
    options = [f"--lease-timeout={LEASE_SECONDS:g}s"]
    with bench.database(peers) as url, connect(url) as connection:
        _submit(connection)
        with peers.workers(url, 1, starts.folder, *options, prefix=prefix) as first:
            wait_for(lambda: starts.count() > 0, first)
            with peers.workers(url, 1, starts.folder, *options, prefix=prefix) as second:
                wait_for(lambda: connection.execute(_ALIVE).fetchall() == [(2,)], second)
                time.sleep(_SETTLE)
                killed_at = time.monotonic_ns()
                os.kill(first.pids[0], signal.SIGKILL)
                wait_for(lambda: starts.count() > 1, second)
                second.kill()
    return _delay(starts, killed_at)


def _submit(connection: Connection) -> None:
    connection.execute(
        "insert into peers.task (kind, args) values ('bench.sleep', %s)",
        [json.dumps({"number": 0, "seconds": _TASK_SECONDS})],
    )


def _delay(starts: Starts, killed_at: int) -> float:
    started_at = starts.second_time()
    if started_at is None:
        raise RuntimeError("the task did not start again")
    return (started_at - killed_at) / _MILLISECOND


def _has_namespaces() -> bool:
    """Return whether this user may start a process in a namespace of its own."""
    if shutil.which(_NAMESPACE[0]) is None:
        return False
    done = subprocess.run([*_NAMESPACE, "true"], check=False, capture_output=True)
    return done.returncode == 0
