"""Takeover: a peer is killed with SIGKILL, and another one runs its task again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from typing import Final

from benchmarks import takeover
from benchmarks.bench import Bench
from peers.database.connection import connect

LEASE_SECONDS: Final = 5.0
SAME_HOST: Final = "another peer of the host"
RESTARTED: Final = "a peer that starts 2 s later"
ELSEWHERE: Final = "a peer that cannot see the process"
_NAMESPACE: Final = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")
"""In a namespace of its own, a peer cannot see whether another peer's process lives."""
_CASES: Final[dict[str, Callable[[takeover.Bench], float]]] = {
    SAME_HOST: takeover.Bench.beside_another,
    RESTARTED: takeover.Bench.started_again,
    ELSEWHERE: lambda bench: bench.beside_another(_NAMESPACE),
}


def measure(bench: Bench) -> None:
    """Measure the delay, by who takes the task over."""
    peers = bench.peers
    for number in range(1, bench.sizes.takeovers + 1):
        for case, run in _CASES.items():
            if case == ELSEWHERE and not _has_namespaces():
                continue
            with bench.failures_of("takeover", peers), bench.database(peers) as url:
                with connect(url, application_name="benchmark") as connection:
                    seconds = run(takeover.Bench(url, connection, LEASE_SECONDS))
                bench.add(
                    "takeover", peers, round=number, case=case, lease_seconds=LEASE_SECONDS,
                    seconds=round(seconds, 3),
                )  # fmt: skip


def _has_namespaces() -> bool:
    """Return whether this user may start a process in a namespace of its own."""
    if shutil.which(_NAMESPACE[0]) is None:
        return False
    done = subprocess.run([*_NAMESPACE, "true"], check=False, capture_output=True)
    return done.returncode == 0
