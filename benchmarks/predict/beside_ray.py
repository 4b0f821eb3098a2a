"""Beside Peers: Ray Data with the same forest, the same rows, batches and two workers.

    pip install 'ray[data]' pandas
    python -m benchmarks.predict.beside_ray [--rows 100000] [--only peers]

Four cases: all is well; one row makes the model raise; one row kills its worker; one worker is
killed from outside, halfway by the clock. Ray has one more, as it can be told to go on without the
blocks in which something raised. For each: seconds from a cold start (the server of either runs
already; its workers have not loaded the model), rows in the output, peak memory of all processes
together, Postgres and Ray's own included, this one not.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from benchmarks.predict import forest
from benchmarks.predict.database import server
from benchmarks.predict.footprint import Footprint, running
from benchmarks.predict.poison import KILLS, RAISES, PoisonedForest, poisoned
from peers.database import schema
from peers.database.connection import connect

_PATIENCE: Final = 120
_MODEL: Final = "poisoned.joblib"
_BLOCK_ROWS: Final = 8 * forest.BATCH
"""Of Ray: as many as a chunk of Peers has here. By itself it makes one block of this input, which
keeps one actor busy, and is lost as a whole.
"""


@dataclass(frozen=True, slots=True)
class Job:
    """What to run; `source`: the input, `kill`: seconds until a worker is killed."""

    name: str
    source: Path
    kill: float | None = None
    lose_blocks: bool = False
    """Of Ray: go on without the blocks in which something raised."""


@dataclass(frozen=True, slots=True)
class Became:
    """What became of a job. `rows`: in its output; `dead`: told of one by one as not predicted."""

    side: str
    job: str
    seconds: float
    rows: int
    dead: int
    peak_mib: int
    error: str | None = None


def main() -> None:
    """Both sides, case by case; then the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--only", choices=["peers", "ray"])
    options = parser.parse_args()
    found: list[Became] = []
    others = running()
    with tempfile.TemporaryDirectory(prefix="beside-ray-") as place:
        folder = Path(place)
        make(folder, options.rows)
        for side, cases in (("peers", on_peers), ("ray", on_ray)):
            if options.only in {None, side}:
                for became in cases(folder, others):
                    found.append(became)
                    print(json.dumps(asdict(became)), flush=True)
    print(f"{options.rows:,} rows, a forest of {forest.TREES} trees, batches of {forest.BATCH}")
    print("side   job                       seconds   rows/s  rows written  dead  peak MiB")
    for one in found:
        print(
            f"{one.side:6} {one.job:24} {one.seconds:8.1f} {one.rows / one.seconds:8,.0f} "
            f"{one.rows:13,} {one.dead:5} {one.peak_mib:9,}  {one.error or ''}"
        )


def make(folder: Path, rows: int) -> None:
    """Input and model, which minds poisoned rows."""
    import joblib

    forest.make(folder, rows)
    model = joblib.load(folder / "forest.joblib")
    joblib.dump(PoisonedForest(model), folder / _MODEL)


def jobs(folder: Path, well: Callable[[Job], Became]) -> Iterator[tuple[Job, Became | None]]:
    """Yield the four cases. The first is run before: the last needs to know how long it takes."""
    rows = folder / "rows.parquet"
    first = Job("all is well", rows)
    became = well(first)
    yield first, became
    yield Job("a row raises", poisoned(rows, RAISES)), None
    yield Job("a row kills its worker", poisoned(rows, KILLS)), None
    yield Job("a worker is killed", rows, kill=became.seconds / 2), None


# ------------------------------------------------------------------------------------------- peers


def on_peers(folder: Path, others: frozenset[int]) -> Iterator[Became]:
    """Each job with a peer of its own: its workers start cold."""
    with server(None) as url, connect(url, application_name="bench") as connection:
        schema.migrate(connection)
        for job, became in jobs(folder, lambda job: by_peers(folder, url, others, job)):
            yield became or by_peers(folder, url, others, job)


def by_peers(folder: Path, url: str, others: frozenset[int], job: Job) -> Became:
    """One `peers predict`."""
    environment = {**os.environ, "PEERS_DATABASE_URL": url, "PEERS_PREDICT_TRUST": str(folder)}
    name = job.name.replace(" ", "-")
    with (
        Footprint(others) as footprint,
        forest.peer(environment, forest.WORKERS),
        killing(b"peers.worker", job.kill, others),
    ):
        began = time.monotonic()
        summary = forest.command(environment, folder / _MODEL, job.source, name, forest.BATCH)
        seconds = time.monotonic() - began
    written = pq.read_metadata(folder / f"{name}.parquet").num_rows
    return Became("Peers", job.name, seconds, written, summary["dead"], footprint.mib)


# --------------------------------------------------------------------------------------------- ray


class Forest:
    """The model, loaded once in an actor."""

    def __init__(self, path: str) -> None:
        import joblib

        self.model = joblib.load(path)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Predictions of a batch."""
        table = np.column_stack([values for name, values in batch.items() if name != "id"])
        return {"id": batch["id"], "prediction": self.model.predict(table)}


def on_ray(folder: Path, others: frozenset[int]) -> Iterator[Became]:
    """Each job with actors of its own."""
    import ray

    # one more than its actors take: else its readers would wait for them for ever
    ray.init(num_cpus=forest.WORKERS + 1, include_dashboard=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    for job, became in jobs(folder, lambda job: by_ray(ray, folder, others, job)):
        yield became or by_ray(ray, folder, others, job)
    lossy = Job("a row raises, lose blocks", poisoned(folder / "rows.parquet", RAISES),
                lose_blocks=True)  # fmt: skip
    yield by_ray(ray, folder, others, lossy)
    ray.shutdown()


def by_ray(ray: Any, folder: Path, others: frozenset[int], job: Job) -> Became:
    """One job of Ray Data."""
    output = folder / f"ray-{job.name.replace(' ', '-')}"
    ray.data.DataContext.get_current().max_errored_blocks = -1 if job.lose_blocks else 0
    error = None
    with Footprint(others) as footprint, killing(b"MapBatches(", job.kill, others):
        signal.signal(signal.SIGALRM, _give_up)
        signal.alarm(_PATIENCE)
        began = time.monotonic()
        try:
            blocks = -(-pq.read_metadata(job.source).num_rows // _BLOCK_ROWS)
            ray.data.read_parquet(str(job.source), override_num_blocks=blocks).map_batches(
                Forest, fn_constructor_args=[str(folder / _MODEL)], batch_size=forest.BATCH,
                compute=ray.data.ActorPoolStrategy(size=forest.WORKERS),
            ).write_parquet(str(output))  # fmt: skip
        except BaseException as failure:  # noqa: BLE001  # the point is what it says
            error = f"{type(failure).__name__}: {str(failure).strip().splitlines()[-1][:100]}"
        signal.alarm(0)
        seconds = time.monotonic() - began
    written = sum(pq.read_metadata(part).num_rows for part in output.glob("*.parquet"))
    return Became("Ray", job.name, seconds, written, 0, footprint.mib, error)


def _give_up(*_: object) -> None:
    raise TimeoutError(f"not over after {_PATIENCE} s")


# ----------------------------------------------------------------------------------------- killing


@contextmanager
def killing(marker: bytes, after: float | None, others: frozenset[int]) -> Iterator[None]:
    """Kill the busiest process with this in its command line; it must be there by then.

    `others`: processes of somebody else.
    """
    if after is None:
        yield
        return
    killed: list[int] = []

    def kill() -> None:
        pid = max(set(_processes(marker)) - others, key=_cpu)
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    timer = threading.Timer(after, kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    assert killed, "the job was over before a worker could be killed"


def _processes(marker: bytes) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _cpu(pid: int) -> int:
    """Clock ticks."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(words[11]) + int(words[12])


if __name__ == "__main__":
    main()
