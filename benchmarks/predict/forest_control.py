"""The control arm: plain Python with the same batches, and nobody to pick up the pieces."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_state: dict[str, Any] = {}


def pool(forest: Path, rows: Path, output: Path, batch: int, workers: int) -> float:
    """Seconds to predict all rows in batches by a warm ProcessPoolExecutor, and to write them."""
    total = pq.read_metadata(rows).num_rows
    starts = range(0, total, batch)
    with ProcessPoolExecutor(workers, initializer=start, initargs=(forest, rows)) as executor:
        list(executor.map(predict, starts[: 4 * workers], [batch] * 4 * workers))
        began = time.monotonic()
        parts = list(executor.map(predict, starts, [batch] * len(starts)))
        table = pa.table({"row": np.arange(total), "prediction": np.concatenate(parts)})
        pq.write_table(table, output)
        return time.monotonic() - began


def start(forest: Path, rows: Path) -> None:
    """In each process: the model, and the whole input, once."""
    import joblib

    os.environ["OMP_NUM_THREADS"] = "1"
    _state["forest"] = joblib.load(forest)
    table = pq.read_table(rows)
    _state["matrix"] = np.column_stack(
        [column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)
         if name != "id"]
    )  # fmt: skip


def predict(first: int, rows: int) -> Any:
    """One batch."""
    return _state["forest"].predict(_state["matrix"][first : first + rows])


def one_by_one(forest: Path, rows: Path, sample: int) -> float:
    """Seconds for the first `sample` rows, each alone, one after the other."""
    start(forest, rows)
    began = time.monotonic()
    for row in range(sample):
        predict(row, 1)
    return time.monotonic() - began
