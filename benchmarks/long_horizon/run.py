"""Run one cell: a fresh Postgres, the harness with the adapter, and a count of every job."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks.long_horizon import meters, server
from benchmarks.long_horizon.adapter import MANIFEST
from benchmarks.long_horizon.cells import Cell
from benchmarks.long_horizon.harness import Harness
from benchmarks.long_horizon.verdict import Audit, Result, judge
from peers.embedded import EmbeddedPostgres

_REPOSITORY: Final = Path(__file__).parents[2]
_DATABASE: Final = json.loads(MANIFEST.read_text())["db_name"]
_SAMPLE_SECONDS: Final = {False: 2, True: 5}
"""The harness's five seconds would leave four samples in a short phase."""
_LIMIT: Final = 900.0
"""Seconds: the published sweep ends a cell then, with exit code 137."""
_KILLED: Final = 137
_DRAIN_LIMIT: Final = 180.0
_LOOK_AGAIN: Final = 0.2
_UNFINISHED: Final = (
    "select exists (select from peers.queue_status where ready + running + scheduled + blocked > 0)"
)
_COUNTS: Final = (
    "select count(*), count(*) filter (where state = 'completed'),"
    " (select count(*) from peers.check()) from peers.task"
)


def run_cell(cell: Cell, harness: Harness, logs: Path, *, full: bool) -> Result:
    """Run a cell, audit its database, and return its result. The logs stay in `logs`."""
    with _folder() as folder:
        (folder / "postgres.conf").write_text(harness.postgres_conf)
        with _postgres(folder, harness) as postgres, (logs / f"{cell.name}.log").open("wb") as log:
            began = time.monotonic()
            exit_code = _drive(cell, harness, folder, postgres, log, full=full)
            seconds = time.monotonic() - began
            audit = _audit(postgres.url(_DATABASE), folder, log)
        summaries = sorted(folder.glob("results/*/summary.json"))
        summary: dict[str, Any] | None = None
        for path in summaries:
            summary = json.loads(path.read_text())
            shutil.copytree(path.parent, logs / cell.name, dirs_exist_ok=True)
        return judge(cell, summary, exit_code, seconds, audit)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="long-horizon-"))
    folder.chmod(0o755)  # root's Postgres runs as another user
    (folder / "meters").mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _postgres(folder: Path, harness: Harness) -> Iterator[EmbeddedPostgres]:
    postgres = server.postgres(folder, server.settings(harness.postgres_conf))
    postgres.start()
    try:
        yield postgres
    finally:
        postgres.stop()
        postgres.close()
        shutil.rmtree(postgres.sockets, ignore_errors=True)


def _drive(
    cell: Cell, harness: Harness, folder: Path, postgres: EmbeddedPostgres, log: Any, *, full: bool
) -> int:
    """Run the harness and return its exit code."""
    control = [sys.executable, "-m", "benchmarks.long_horizon.server"]
    order = {
        "urls": {name: postgres.url(name) for name in ("postgres", _DATABASE)},
        "results": str(folder / "results"),
        "stop_postgres": [*control, "stop", str(folder)],
        "start_postgres": [*control, "start", str(folder)],
        "adapter": [sys.executable, "-m", "benchmarks.long_horizon.adapter"],
        "bench_dir": str(MANIFEST.parent),
    }
    phases = cell.full if full else cell.phases
    process = subprocess.Popen(
        [str(harness.python), str(Path(__file__).with_name("local_harness.py")), json.dumps(order),
         f"--sample-every={_SAMPLE_SECONDS[full]}", *cell.arguments,
         *(f"--phase={phase}" for phase in phases)],
        env={**_clean_environment(folder), "PYTHONPATH": str(harness.source), **cell.environment},
        cwd=_REPOSITORY, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(_LIMIT)
    except subprocess.TimeoutExpired:
        return _KILLED
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _clean_environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PEERS_")}
    return {**kept, meters.VARIABLE: str(folder / "meters")}


def _audit(url: str, folder: Path, log: Any) -> Audit:
    """Let one more peer finish what is left, then count."""
    peer = subprocess.Popen(
        [sys.executable, "-m", "peers", "run", "--app", "benchmarks.long_horizon.handlers",
         "--queues=default=8", "--log-level=warning", "--database-url", url],
        env=_clean_environment(folder), cwd=_REPOSITORY, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            give_up = time.monotonic() + _DRAIN_LIMIT
            while connection.execute(_UNFINISHED).fetchone() == (True,):
                if time.monotonic() > give_up:
                    break  # what is left counts as lost
                time.sleep(_LOOK_AGAIN)
            [(jobs, completed, problems)] = connection.execute(_COUNTS).fetchall()
    finally:
        peer.terminate()
        peer.wait()
    counted = meters.counts(folder / "meters")
    return Audit(counted.enqueued, jobs, completed, counted.completed, problems)
