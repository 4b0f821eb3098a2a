"""A cheap model and a dear one: what the runner costs beside pandas, a process pool and Ray Data.

    pip install 'ray[data]' pandas
    python -m benchmarks.predict.cheap_model [--rows 2000000] [--rounds 3]
                                     [--cases few,cheap,forest] [--arms pandas,pool,peers,ray]

Cases: ten rows and many with a logistic regression of 8 features; a tenth of the rows with a forest
of 200 trees. Arms, in alternation, each a process tree of its own that starts cold:

    pandas   one process: pandas.read_parquet, predict, to_parquet
    pool     ProcessPoolExecutor with two processes: read a row group, predict, write a part; then
             join the parts in their order into one file, as peers does
    peers    peers predict --workers 2
    ray      Ray Data with two actors; the time to start Ray is not counted

"cold": seconds from the start of the command to its end. "run": the work alone. Of peers it is what
the database says, from the first start of a task to the output; of the others from when the models
are loaded. "parts": of the pool, the same without joining its parts. "cpu": user and system
time of all processes of the tree (not of Postgres' or Ray's servers). "peak": memory of all
processes that began since, servers included. All predictions of every round are compared with the
model's own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.predict.database import server
from benchmarks.predict.footprint import Footprint, running
from peers.database import schema
from peers.database.connection import connect

WORKERS: Final = 2
_FEATURES: Final = 8
_GROUPS: Final = 16
"""Row groups of the input: enough for an even end of the pool."""
_LARGEST_GROUP: Final = 125_000
_TREES: Final = 200
_SEED: Final = 8
_ARMS: Final = ("pandas", "pool", "peers", "ray")


@dataclass(frozen=True, slots=True)
class Case:
    """What is to be predicted."""

    name: str
    model: str
    rows: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of an arm: seconds, and MiB."""

    cold: float
    run: float
    cpu: float
    peak: int
    parts: float


def main() -> None:
    """Measure round by round, then print the table and the figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="few,cheap,forest")
    parser.add_argument("--arms", default=",".join(_ARMS))
    options = parser.parse_args()
    every = {
        "few": Case("few", "regression.joblib", 10),
        "cheap": Case("cheap", "regression.joblib", options.rows),
        "forest": Case("forest", "forest.joblib", options.rows // 10),
    }
    arms = options.arms.split(",")
    with tempfile.TemporaryDirectory(prefix="peers-cheap-") as place:
        folder = Path(place)
        make_models(folder)
        figures = {
            name: measure(folder, every[name], arms, options.rounds)
            for name in options.cases.split(",")
        }
    report(figures)


def make_models(folder: Path) -> None:
    """Train both models on the same rows."""
    import joblib
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(_SEED)
    features = random.normal(size=(5000, _FEATURES))
    noise = random.normal(0.0, 0.5, len(features))
    labels = (features[:, 0] + features[:, 1] * features[:, 2] + noise > 0).astype(int)
    forest = RandomForestClassifier(_TREES, random_state=_SEED)
    for name, model in (("regression", LogisticRegression()), ("forest", forest)):
        joblib.dump(model.fit(features, labels), folder / f"{name}.joblib")


def make_input(path: Path, rows: int) -> None:
    """Write rows of normally distributed doubles, a row group at a time."""
    random = np.random.default_rng(rows)
    schema_ = pa.schema([(f"f{number}", pa.float64()) for number in range(_FEATURES)])
    with pq.ParquetWriter(path, schema_) as writer:
        size = min(-(-rows // _GROUPS), _LARGEST_GROUP)
        for first in range(0, rows, size):
            values = random.normal(size=(min(size, rows - first), _FEATURES))
            writer.write_table(pa.table(list(values.T), schema=schema_))


def truth(model: Path, source: Path) -> Iterator[np.ndarray[Any, Any]]:
    """Yield what the model itself predicts, one row group at a time."""
    import joblib

    loaded = joblib.load(model)
    with pq.ParquetFile(source) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            yield loaded.predict(np.column_stack([column.to_numpy() for column in table.columns]))


def measure(
    folder: Path, case: Case, arms: list[str], rounds: int
) -> dict[str, list[Measured]]:  # fmt: skip
    """All rounds of all arms; every prediction is compared."""
    source = folder / f"{case.name}.parquet"
    make_input(source, case.rows)
    expected = folder / f"{case.name}.npy"
    np.save(expected, np.concatenate(list(truth(folder / case.model, source))))
    found: dict[str, list[Measured]] = {arm: [] for arm in arms}
    for number in range(1, rounds + 1):
        for arm in arms:
            output = folder / f"{case.name}-{arm}-{number}"
            measured = run(arm, folder / case.model, source, output)
            found[arm].append(measured)
            compare(np.load(expected, mmap_mode="r"), output, in_order=arm != "ray")
            print(f"{case.name} {case.rows:,} rows, round {number}, {arm}: {measured}", flush=True)
    return found


def run(arm: str, model: Path, source: Path, output: Path) -> Measured:
    """One round."""
    output.mkdir()
    if arm != "peers":
        words: list[object] = [
            sys.executable,
            "-m",
            "benchmarks.predict.cheap_model_arms",
            arm,
            model,
            source,
            output,
        ]
        return _timed(words, os.environ.copy())
    with server(None) as url:
        with connect(url, application_name="bench") as connection:
            schema.migrate(connection)
        words = [sys.executable, "-m", "peers", "predict", "--model", model, "--input", source]
        words += ["--output", output / "out.parquet", "--workers", str(WORKERS), "--json"]
        return _timed(words, {**os.environ, "PEERS_DATABASE_URL": url})


def _timed(words: Sequence[object], environment: dict[str, str]) -> Measured:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Footprint(running()) as footprint:
        began = time.monotonic()
        answer = subprocess.run(
            list(map(str, words)), env=environment, stdout=subprocess.PIPE, check=True
        )
        cold = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    said = json.loads(answer.stdout)
    return Measured(
        round(cold - said.get("not_counted", 0.0), 2), round(said["seconds"], 2), round(cpu, 2),
        footprint.mib, round(said.get("parts", said["seconds"]), 2),
    )  # fmt: skip


def compare(expected: np.ndarray[Any, Any], output: Path, *, in_order: bool) -> None:
    """Raise AssertionError unless each row has the model's own prediction.

    `in_order`: False for parts whose names do not tell which rows are theirs.
    """
    parts = sorted(output.glob("*.parquet"))
    found = pa.concat_tables([pq.read_table(part, partitioning=None) for part in parts])
    predictions = found.column("prediction").to_numpy()
    if "row" in found.column_names:
        predictions = predictions[np.argsort(found.column("row").to_numpy(), kind="stable")]
    assert len(predictions) == len(expected), f"{len(predictions)} rows in {output}"
    if not in_order:
        predictions, expected = np.sort(predictions), np.sort(expected)
    wrong = int((predictions != expected).sum())
    assert not wrong, f"{wrong} predictions in {output} are not the model's own"


def report(figures: dict[str, dict[str, list[Measured]]]) -> None:
    """Medians, ratios to the pool of the same round, and the JSON."""
    print(
        "case    arm     cold s   run s   cpu s  peak MiB  parts s  cold/pool  run/pool  cpu/pool"
    )
    for case, arms in figures.items():
        for arm, rounds in arms.items():
            middle = [_median([getattr(one, name) for one in rounds]) for name in _COLUMNS]
            ratios = ""
            if "pool" in arms:
                ratios = "  ".join(
                    f"{_median(_ratios(rounds, arms['pool'], name)):9.2f}" for name in _COLUMNS[:3]
                )
            cold, run_, cpu, peak, parts = middle
            figures_ = f"{cold:6.2f}  {run_:6.2f}  {cpu:6.2f}  {peak:8,.0f}  {parts:7.2f}"
            print(f"{case:7} {arm:7} {figures_}  {ratios}")
    plain = {
        case: {arm: [[getattr(one, name) for name in _COLUMNS] for one in rounds]
               for arm, rounds in arms.items()}
        for case, arms in figures.items()
    }  # fmt: skip
    print(json.dumps(plain))


_COLUMNS: Final = ("cold", "run", "cpu", "peak", "parts")


def _ratios(rounds: list[Measured], others: list[Measured], name: str) -> list[float]:
    return [
        getattr(one, name) / max(getattr(other, name), 0.01)
        for one, other in zip(rounds, others, strict=True)
    ]


def _median(values: list[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    main()
