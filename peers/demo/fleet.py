"""The peers of the demo: real processes, as `peers run` starts them anywhere else."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from peers.demo.ledger import FILE_VARIABLE, PEER_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

# Far shorter than the default of 30 s, so that nobody has to wait for the reclaim.
LEASE_SECONDS = 4
HEARTBEAT_SECONDS = 1
# One worker each: three of them keep the usual two to four cores busy, and the work lasts long
# enough on many cores to see it being lost and reclaimed.
SLOTS = 1
DRAIN_SECONDS = 5
_PATIENCE_SECONDS = 10
_LOG_TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1


@dataclass
class Member:
    """One peer process. `killed`: by us."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path
    killed: bool = False

    @property
    def pid(self) -> int:
        """Its process id, the one in peers.peer."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self.process.poll() is None

    def pause(self) -> None:
        """Stop its clock for a moment."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a chance to say goodbye; the kernel kills its workers with it."""
        self.process.kill()
        self.process.wait()
        self.killed = True

    def log_tail(self) -> str:
        """The last lines of what it said."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])


class Fleet:
    """The peers, from the start of the block to its end."""

    def __init__(self, size: int, url: str, queue: str, folder: Path) -> None:
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self.members: list[Member] = []
        self._size = size
        self._folder = folder
        self._settings = {
            "PEERS_DATABASE_URL": url,
            "PEERS_QUEUES": f"{queue}={SLOTS}",
            "PEERS_LEASE_TIMEOUT": f"{LEASE_SECONDS}s",
            "PEERS_HEARTBEAT_INTERVAL": f"{HEARTBEAT_SECONDS}s",
            "PEERS_DRAIN_TIMEOUT": f"{DRAIN_SECONDS}s",
            FILE_VARIABLE: str(self.ledger),
        }

    def __enter__(self) -> Self:
        for number in range(1, self._size + 1):
            self.members.append(self._start(number))
        return self

    def __exit__(self, *_error: object) -> None:
        for member in self.members:
            if member.alive:
                member.process.terminate()
        for member in self.members:
            try:
                member.process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()

    def by_pid(self, pid: int) -> Member | None:
        """The living member with this process id."""
        return next((m for m in self.members if m.pid == pid and m.alive), None)

    def fallen(self) -> Member | None:
        """A member that ended although nobody told it to."""
        return next((m for m in self.members if not m.alive and not m.killed), None)

    def _start(self, number: int) -> Member:
        log = self._folder / f"peer-{number}.log"
        # The user's own settings for Peers are not meant for this run.
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("PEERS_")
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "peers", "run", "--app", "peers.demo.handlers"],
                env={**inherited, **self._settings, PEER_VARIABLE: str(number)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for us: we stop the peers then
                preexec_fn=_stop_with_starter,  # noqa: PLW1509  # we have no threads
            )
        return Member(number, process, log)


_prctl: Any = ctypes.CDLL(None).prctl


def _stop_with_starter() -> None:
    """In the new process: be told to stop when the demo dies, be it by SIGKILL."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
