"""Start a peer for the time of a run (--workers), for users who run none."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from peers.predict.errors import PredictError
from peers.predict.kinds import APP, MODEL_PROCESS_SOCKET, NAMED_MODEL, QUEUE
from peers.predict.run.model_process_fork import listening_socket
from peers.predict.variables import BATCH_WAIT

_STOP_TIMEOUT: Final = 30.0
_PR_SET_PDEATHSIG: Final = 1

_prctl: Any = ctypes.CDLL(None).prctl


@dataclass(frozen=True, slots=True)
class OwnPeerOptions:
    """How many workers the peer has, and which model they load.

    `worker_env`: environment variables of the workers, one line as in PEERS_WORKER_ENV.
    `batch_wait`: seconds, which win over them; None leaves it to them.
    """

    workers: int
    model: str
    method: str | None = None
    batch_wait: float | None = None
    worker_env: str = ""


@dataclass(frozen=True, slots=True)
class OwnPeer:
    """A peer that we started. `socket`: where the process that loads the model connects."""

    process: subprocess.Popen[bytes]
    socket: socket.socket | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the peer has ended."""
        return self.process.poll() is not None

    def require_alive(self) -> None:
        """Raise PredictError if the peer has ended."""
        code = self.process.poll()
        if code is not None:
            raise PredictError(
                f"the peer that --workers started ended with exit code {code}",
                "Its log is above. Run the same command again to continue.",
            )


@contextmanager
def own_peer(url: str, options: OwnPeerOptions) -> Iterator[OwnPeer]:
    """Start a peer, and drain it at the end of the block.

    The peer trusts the model, since the user named it on the command line. It loads the model while
    the command still reads the input. The kernel stops the peer if this process dies.
    """
    environment = environment_of(url, options)
    with listening_socket() as found:
        if found is not None:
            environment[MODEL_PROCESS_SOCKET] = found[1]
        with _running(options.workers, environment) as process:
            yield OwnPeer(process, None if found is None else found[0])


def environment_of(url: str, options: OwnPeerOptions) -> dict[str, str]:
    """Return the environment of the peer: that of this process, and the options of the command."""
    environment = {**os.environ, NAMED_MODEL: json.dumps([options.model, options.method])}
    worker_env = [options.worker_env] if options.worker_env else []
    if options.batch_wait is not None:
        worker_env.append(f"{BATCH_WAIT}={options.batch_wait}s")  # the last assignment wins
    environment["PEERS_WORKER_ENV"] = " ".join(worker_env)
    if url:
        environment["PEERS_DATABASE_URL"] = url
    environment.pop("PEERS_EMBEDDED", None)
    return environment


@contextmanager
def _running(workers: int, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "peers", "run", "--app", APP,
         "--queues", f"{QUEUE}={workers}", "--log-level", "error"],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C goes to this process, which then stops the peer
        preexec_fn=_stop_with_starter,  # noqa: PLW1509  # this process has no threads
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        _wait(process)  # Popen.wait would poll
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        pidfd = os.pidfd_open(process.pid)
        select.select([pidfd], [], [], _STOP_TIMEOUT)
        os.close(pidfd)


def _stop_with_starter() -> None:
    """Ask the kernel to stop the new process when its starter dies, even by SIGKILL."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
