"""How long a task waits after `kill -9` of the peer that runs it until it runs again.

    python -m benchmarks.takeover [--rounds 10] [--lease 5] [--database-url URL]

Three cases: another peer runs on the same host; the only peer of the host is started again 2 s
later, as systemd does (measured from that start); and two peers in process namespaces of their own,
which cannot see each other's processes, so that the lease decides (this case needs `unshare`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, LiteralString

from peers import current_task, embedded, task
from peers.database import schema
from peers.database.connection import Connection, connect

_RESTART_AFTER: Final = 2.0
_PATIENCE: Final = 60.0
_LOOK_EVERY: Final = 0.002
_SETTLE: Final = 1.0
_NAMESPACE: Final = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")
_FOREVER: Final = 1000.0
_ALL_COMPLETED: Final = "select bool_and(state = 'completed') from peers.task"


@task("bench.takeover", backoff=0)
def started(folder: str) -> None:
    """Note when it starts (CLOCK_MONOTONIC); the first attempt goes on until it is killed."""
    attempt = current_task().attempt
    note = Path(folder, f"{attempt}.tmp")
    note.write_text(str(time.monotonic()))
    note.rename(note.with_suffix(""))
    if attempt == 1:
        time.sleep(_FOREVER)


class Bench:
    """A database, and what was measured."""

    def __init__(self, url: str, connection: Connection, lease: float) -> None:
        self._url = url
        self._connection = connection
        self._lease = lease

    def beside_another(self, prefix: Sequence[str] = ()) -> float:
        """Return the seconds from the kill to the second start; another peer runs already."""
        with self._submitted() as folder, self._peer(prefix) as first:
            _until_started(folder, 1)
            with self._peer(prefix):
                self._until("select count(*) = 2 from peers.peer_status where alive")
                time.sleep(_SETTLE)
                killed = time.monotonic()
                first.kill()
                waited = _until_started(folder, 2) - killed
                self._until(_ALL_COMPLETED)
        return waited

    def started_again(self) -> float:
        """Return the seconds from the start of the next peer to the second start of the task."""
        with self._submitted() as folder:
            with self._peer() as first:
                _until_started(folder, 1)
                first.kill()
            time.sleep(_RESTART_AFTER)
            began = time.monotonic()
            with self._peer():
                waited = _until_started(folder, 2) - began
                self._until(_ALL_COMPLETED)
        return waited

    @contextlib.contextmanager
    def _submitted(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            self._connection.execute(
                "select peers.submit('bench.takeover', %s::jsonb)", [json.dumps({"folder": folder})]
            )
            yield Path(folder)

    @contextlib.contextmanager
    def _peer(self, prefix: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
        command = [*prefix, sys.executable, "-m", "peers", "run", "--app", "benchmarks.takeover",
                   "--queues", "default=1", "--lease-timeout", f"{self._lease:g}s",
                   "--log-level", "error", "--database-url", self._url]  # fmt: skip
        peer = subprocess.Popen(command)
        try:
            yield peer
        finally:
            if peer.poll() is None:
                peer.send_signal(signal.SIGKILL if prefix else signal.SIGTERM)
            peer.wait(_PATIENCE)

    def _until(self, query: LiteralString) -> None:
        give_up = time.monotonic() + _PATIENCE
        while self._connection.execute(query).fetchall() != [(True,)]:
            if time.monotonic() > give_up:
                raise TimeoutError(f"it is not true: {query}")
            time.sleep(_LOOK_EVERY)


def _until_started(folder: Path, attempt: int) -> float:
    """Return when this attempt has started."""
    note, give_up = folder / str(attempt), time.monotonic() + _PATIENCE
    while not note.exists():
        if time.monotonic() > give_up:
            raise TimeoutError(f"attempt {attempt} has not started")
        time.sleep(_LOOK_EVERY)
    return float(note.read_text())


def main() -> None:
    """Measure, and print each round and the worst of each case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--lease", type=float, default=5.0, help="seconds")
    parser.add_argument("--database-url", help="a database to use; else a private one")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = options.database_url
        if url is None:
            url = stack.enter_context(embedded.throwaway()).url("postgres")
        connection = stack.enter_context(connect(url, application_name="bench"))
        schema.migrate(connection)
        bench = Bench(url, connection, options.lease)
        cases = {
            "another peer on the host": (bench.beside_another, 2.0),
            "started again after 2 s": (bench.started_again, 2.0),
            "no witness": (lambda: bench.beside_another(_NAMESPACE), options.lease + 2.0),
        }
        version = connection.info.server_version // 10_000
        print(f"Postgres {version}, Linux {platform.release()}, {os.cpu_count()} cores,"
              f" lease {options.lease:g} s, {options.rounds} rounds each, seconds")  # fmt: skip
        for name, (measure, limit) in cases.items():
            seconds = [measure() for _ in range(options.rounds)]
            print(f"{name:26} {' '.join(f'{each:.2f}' for each in seconds)}   median"
                  f" {statistics.median(seconds):.2f}, worst {max(seconds):.2f}, goal < {limit:g}:"
                  f" {sum(each < limit for each in seconds)} of {len(seconds)}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
