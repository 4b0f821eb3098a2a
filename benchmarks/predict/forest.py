"""A real model: a forest of 640 trees over 100,000 rows, and how much of the gain is batching.

    python -m benchmarks.predict.forest [--rows 100000] [--rounds 3] [--arms abcde]

scikit-learn's bundled digits, a random forest with a fixed seed, resampled rows with seeded noise,
in Parquet. Arms, in alternation, medians of the rounds:

    a  one row at a time, sequential, plain Python   (a sample, extrapolated)
    b  two workers, batches of one row               (a sample, extrapolated)
    c  one worker, batches of 256 rows
    d  two workers, batches of 256 rows
    e  control: ProcessPoolExecutor with two processes and the same batches

b, c and d are `peers predict` with durable outcomes; the clock runs from the first start to the
last end of the run's tasks, the assembled output included. Workers are warm, as those of peers
are: they have run the sample before. So are the processes of e, which have loaded the model and,
unlike the workers of d, the whole input; its clock includes its output. Every prediction of every
round of d is compared with the forest's own.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.predict import forest_control
from benchmarks.predict.database import PATIENCE, server
from peers.database import schema
from peers.database.connection import connect

TREES: Final = 640
BATCH: Final = 256
WORKERS: Final = 2
SAMPLE: Final = 1000
_SEED: Final = 640
_NOISE: Final = 0.5
_WORDS: Final = {
    "a": "one row at a time, sequential, plain Python",
    "b": "two workers, no batching",
    "c": "batching, one worker",
    "d": "batching and two workers",
    "e": "control: ProcessPoolExecutor, same batches",
}


def main() -> None:
    """Measure, compare the predictions, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", default="abcde")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {arm: [] for arm in options.arms}
    with tempfile.TemporaryDirectory(prefix="peers-forest-") as place:
        folder = Path(place)
        truth = make(folder, options.rows)
        with server(None) as url, connect(url, application_name="bench") as connection:
            schema.migrate(connection)
            for number in range(1, options.rounds + 1):
                for arm in options.arms:
                    seconds[arm].append(run(arm, folder, url, options.rows, number))
                    print(f"round {number}, {arm}: {seconds[arm][-1]:.1f} s", flush=True)
        mismatched = None
        if "d" in options.arms:
            mismatched = sum(compare(folder, truth, n) for n in range(1, options.rounds + 1))
    report(options.rows, seconds, mismatched)
    if mismatched:
        raise SystemExit(f"{mismatched} predictions are not the forest's own")


def make(folder: Path, rows: int) -> np.ndarray[Any, Any]:
    """Model and input; what the forest says itself."""
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    pixels, digits = load_digits(return_X_y=True)
    forest = RandomForestClassifier(TREES, random_state=_SEED).fit(pixels, digits)
    random = np.random.default_rng(_SEED)
    sample = pixels[random.integers(0, len(pixels), rows)]
    sample = sample + random.normal(0.0, _NOISE, sample.shape)
    columns: dict[str, Any] = {"id": np.arange(rows)}
    columns |= {f"pixel_{number}": sample[:, number] for number in range(sample.shape[1])}
    joblib.dump(forest, folder / "forest.joblib")
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    pq.write_table(pa.table(columns).slice(0, SAMPLE), folder / "sample.parquet")
    truth: np.ndarray[Any, Any] = forest.predict(sample)
    return truth


def run(arm: str, folder: Path, url: str, rows: int, number: int) -> float:
    """Seconds for all rows."""
    forest, whole, sample = (
        folder / n for n in ("forest.joblib", "rows.parquet", "sample.parquet")
    )
    if arm == "a":
        return forest_control.one_by_one(forest, whole, SAMPLE) / SAMPLE * rows
    if arm == "e":
        return forest_control.pool(forest, whole, folder / "control.parquet", BATCH, WORKERS)
    workers, batch = (1, BATCH) if arm == "c" else (WORKERS, BATCH if arm == "d" else 1)
    source = sample if arm == "b" else whole
    seconds = predict(folder, url, source, f"{arm}{number}", workers, batch)
    return seconds / SAMPLE * rows if arm == "b" else seconds


def predict(folder: Path, url: str, source: Path, name: str, workers: int, batch: int) -> float:
    """Run `peers predict` and return its seconds by the database's clock."""
    environment = {**os.environ, "PEERS_DATABASE_URL": url, "PEERS_PREDICT_TRUST": str(folder)}
    with peer(environment, workers):
        model = folder / "forest.joblib"
        command(environment, model, folder / "sample.parquet", f"warm-{name}", 32)
        summary = command(environment, model, source, name, batch)
    assert summary["predicted"] == summary["rows"] > 0
    assert summary["missing"] == summary["dead"] == 0
    return float(summary["seconds"])


def command(
    environment: dict[str, str], model: Path, source: Path, name: str, batch: int
) -> dict[str, Any]:
    """One `peers predict`, its output beside its model; its summary."""
    answer = subprocess.run(
        [sys.executable, "-m", "peers", "predict", "--model", str(model),
         "--input", str(source), "--output", str(model.with_name(f"{name}.parquet")),
         "--id-column", "id", "--batch-size", str(batch), "--run", name, "--json",
         "--max-dead", "1"],  # of the job that poisons a row
        env=environment, capture_output=True, check=True,
    )  # fmt: skip
    summary: dict[str, Any] = json.loads(answer.stdout)
    return summary


@contextmanager
def peer(environment: dict[str, str], workers: int) -> Iterator[None]:
    """Start a peer for one run."""
    process = subprocess.Popen(
        [sys.executable, "-m", "peers", "run", "--app", "peers.predict.app",
         f"--queues=predict={workers}", "--log-level=error"],
        env=environment,
    )  # fmt: skip
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def compare(folder: Path, truth: np.ndarray[Any, Any], number: int) -> int:
    """How many predictions of d in this round differ from the forest's own."""
    found = pq.read_table(folder / f"d{number}.parquet")
    assert found.column("row").to_pylist() == list(range(len(truth)))
    return int((found.column("prediction").to_numpy() != truth).sum())


def report(rows: int, seconds: dict[str, list[float]], mismatched: int | None) -> None:
    """Print the table, the gain of batching, and the JSON."""
    medians = {arm: statistics.median(values) for arm, values in seconds.items()}
    print(f"{rows:,} rows, a forest of {TREES} trees, batches of {BATCH}, medians")
    for arm, median in medians.items():
        note = f" (extrapolated from {SAMPLE:,} rows)" if arm in "ab" else ""
        print(f"  {arm}  {median:9.1f} s  {rows / median:9,.0f} rows/s  {_WORDS[arm]}{note}")
    ratios = {
        name: round(medians[one] / medians[other], 3)
        for name, one, other in (
            ("gain", "a", "d"), ("of_batching", "a", "c"),
            ("of_workers", "c", "d"), ("d_by_e", "d", "e"),
        )
        if one in medians and other in medians
    }  # fmt: skip
    if "gain" in ratios:
        print(
            f"d is {ratios['gain']:.0f} times as fast as a: batching alone gives a factor of "
            f"{ratios['of_batching']:.0f}, the second worker {ratios['of_workers']:.2f}"
        )
    print(json.dumps({
        "rows": rows, "trees": TREES, "mismatched": mismatched, **ratios,
        "seconds": {arm: round(median, 2) for arm, median in medians.items()},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
