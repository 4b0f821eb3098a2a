"""The peers of the demo: real processes, started as `peers run` starts them everywhere."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from peers.demo.ledger import FILE_VARIABLE, PEER_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Much shorter than the default of 30 s, so that you do not wait for the reclaim.
LEASE_SECONDS: Final = 4
_EXIT_WITHIN: Final = 10
_PR_SET_PDEATHSIG: Final = 1


@dataclass
class PeerProcess:
    """One peer; `killed` says that the demo killed it."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path
    killed: bool = False

    @property
    def alive(self) -> bool:
        """Return whether the process runs."""
        return self.process.poll() is None

    def log_tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-2000:]


@contextmanager
def running_peers(count: int, url: str, queue: str, folder: Path) -> Iterator[list[PeerProcess]]:
    """Start the peers, and stop them at the end of the block. The ledger is `folder/ledger`."""
    (folder / "ledger").touch()
    # your own settings of Peers are not meant for this run
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PEERS_")} | {
        "PEERS_DATABASE_URL": url,
        "PEERS_QUEUES": f"{queue}=1",
        "PEERS_LEASE_TIMEOUT": f"{LEASE_SECONDS}s",
        "PEERS_HEARTBEAT_INTERVAL": "1s",
        "PEERS_DRAIN_TIMEOUT": "5s",
        FILE_VARIABLE: str(folder / "ledger"),
    }
    peers: list[PeerProcess] = []
    try:
        for number in range(1, count + 1):
            log = folder / f"peer-{number}.log"
            process = _start(log, {**environment, PEER_VARIABLE: str(number)})
            peers.append(PeerProcess(number, process, log))
        yield peers
    finally:
        _stop([peer.process for peer in peers])


def _start(log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "peers", "run", "--app", "peers.demo.handlers"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops the peers
            preexec_fn=_stop_with_parent,  # noqa: PLW1509 - the demo has no threads
        )


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_EXIT_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_prctl: Any = ctypes.CDLL(None).prctl


def _stop_with_parent() -> None:
    """Have the kernel stop this new process when the demo dies, even by SIGKILL."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
