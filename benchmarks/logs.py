"""What it costs to print, to log, and to keep the logs of attempts.

    python -m benchmarks.logs [--tasks 20000] [--rounds 5]

One peer with one worker drains the tasks of one kind after the other, in rounds. The first kind
prints nothing and keeps nothing; the others are compared with it, round by round. The log of the
peer goes into a file.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.processes import Processes
from benchmarks.server import connect, running, tidy
from peers import task
from peers.database import schema
from peers.database.connection import connect as peers_connect

_PATIENCE: Final = 300.0
_LINE: Final = "a line of the usual length, as a handler prints it to say where it is"
_SUBMIT: Final = (
    "insert into peers.task (kind, max_attempts) select %s, 1 from generate_series(1, %s)"
)
_ENDED: Final = "select not exists (select from peers.task where state in ('ready', 'running'))"
_SECONDS: Final = (
    "select extract(epoch from max(finished_at) - min(started_at))::float8 from peers.task"
)


@task("silent")
def silent() -> None:
    """Print nothing, keep nothing."""


@task("silent, keeps", keep_log=True)
def silent_keeps() -> None:
    """Print nothing."""


@task("prints")
def prints() -> None:
    """Print a line."""
    print(_LINE)


@task("prints, keeps failed", keep_log=True)
def prints_keeps() -> None:
    """Print a line."""
    print(_LINE)


@task("prints, keeps always", keep_log="always")
def prints_keeps_always() -> None:
    """Print a line."""
    print(_LINE)


@task("fails", max_attempts=1)
def fails() -> None:
    """Raise."""
    raise ValueError("no")


@task("fails, keeps", max_attempts=1, keep_log=True)
def fails_keeps() -> None:
    """Print a line, and raise."""
    print(_LINE)
    raise ValueError("no")


@task("async")
async def asynchronous() -> None:
    """Print nothing, keep nothing."""
    await asyncio.sleep(0)


@task("async, prints, keeps", keep_log=True)
async def asynchronous_keeps() -> None:
    """Print a line."""
    await asyncio.sleep(0)
    print(_LINE)


KINDS: Final = {
    "silent": "silent", "silent, keeps": "silent", "prints": "silent",
    "prints, keeps failed": "silent", "prints, keeps always": "silent",
    "fails": "silent", "fails, keeps": "fails",
    "async": "async", "async, prints, keeps": "async",
}  # fmt: skip
"""Each kind, and the one that it is compared with."""
_TENTH: Final = ("fails", "fails, keeps", "async", "async, prints, keeps")
"""Kinds of which a tenth of the tasks is enough."""


def drain(url: str, kind: str, tasks: int, folder: Path) -> float:
    """Return how many tasks of a kind a peer ends in a second."""
    command = [sys.executable, "-m", "peers", "run", "--app", "benchmarks.logs",
               "--queues=default=1"]  # fmt: skip
    with connect(url) as connection:
        connection.execute(_SUBMIT, [kind, tasks])
        tidy(url)
        log = folder / "peer.log"
        with Processes(command, {"PEERS_DATABASE_URL": url}, 1, log) as peer:
            until = time.monotonic() + _PATIENCE
            while not connection.execute(_ENDED).fetchall()[0][0]:
                peer.check()
                if time.monotonic() > until:
                    raise RuntimeError(f"{kind}: not drained within {_PATIENCE:g} s")
                time.sleep(0.02)
        log.unlink()
        [[seconds]] = connection.execute(_SECONDS).fetchall()
    return tasks / float(seconds)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with running() as server, tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for kind in KINDS:
                tasks = options.tasks // 10 if kind in _TENTH else options.tasks
                with server.database("logs") as url:
                    with peers_connect(url, application_name="benchmark") as connection:
                        schema.migrate(connection)
                    rates[kind].append(drain(url, kind, tasks, Path(folder)))
    print("| kind | tasks/s | compared with | ratio |\n|---|---|---|---|")
    for kind, other in KINDS.items():
        pairs = zip(rates[kind], rates[other], strict=True)
        ratio = statistics.median(mine / theirs for mine, theirs in pairs)
        print(f"| {kind} | {statistics.median(rates[kind]):,.0f} | {other} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
