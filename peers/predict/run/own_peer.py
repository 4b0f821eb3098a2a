"""A peer of our own for the time of a run, for people who have none."""

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
from peers.predict.kinds import APP, NAMED_MODEL, QUEUE, TRIAL_SOCKET
from peers.predict.models.model_process_fork import invitation
from peers.predict.variables import BATCH_WAIT

_PATIENCE: Final = 30.0
_PR_SET_PDEATHSIG: Final = 1

_prctl: Any = ctypes.CDLL(None).prctl


@dataclass(frozen=True, slots=True)
class Fleet:
    """The peer that is wanted: so many workers, for this model.

    `worker_env`: environment variables of the workers, one line as in PEERS_WORKER_ENV.
    `batch_wait` in seconds wins over them; None leaves it to them.
    """

    workers: int
    model: str
    method: str | None = None
    batch_wait: float | None = None
    worker_env: str = ""


@dataclass(frozen=True, slots=True)
class OwnPeer:
    """One that was started. `trials`: where a process that loads the model calls, if it can."""

    process: subprocess.Popen[bytes]
    trials: socket.socket | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None


@contextmanager
def own_peer(url: str, wanted: Fleet) -> Iterator[OwnPeer]:
    """A peer of our own, drained at the end of the block.

    It trusts the model, since the user named it on the command line, and loads it while the command
    still looks through the input. The kernel stops it if we die.
    """
    environment = environment_of(url, wanted)
    with invitation() as found:
        if found is not None:
            environment[TRIAL_SOCKET] = found[1]
        with _running(wanted.workers, environment) as process:
            yield OwnPeer(process, None if found is None else found[0])


def environment_of(url: str, wanted: Fleet) -> dict[str, str]:
    """Return the environment of the peer: ours, and what the command was told."""
    environment = {**os.environ, NAMED_MODEL: json.dumps([wanted.model, wanted.method])}
    worker_env = [wanted.worker_env] if wanted.worker_env else []
    if wanted.batch_wait is not None:
        worker_env.append(f"{BATCH_WAIT}={wanted.batch_wait}s")  # the last assignment wins
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
        start_new_session=True,  # Ctrl-C is for us: we stop the peer then
        preexec_fn=_stop_with_starter,  # noqa: PLW1509  # we have no threads
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        _wait(process)  # Popen.wait would look now and then
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        pidfd = os.pidfd_open(process.pid)
        select.select([pidfd], [], [], _PATIENCE)
        os.close(pidfd)


def still_there(peer: OwnPeer) -> None:
    """Raises PredictError if our own peer has ended."""
    code = peer.process.poll()
    if code is not None:
        raise PredictError(
            f"the peer that --workers started ended with code {code}",
            "Its log is above; the same command goes on where it stopped.",
        )


def _stop_with_starter() -> None:
    """In the new process: be told to stop when we die, be it by SIGKILL."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
