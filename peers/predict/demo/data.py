"""Make the demo's forest, its input with three poisoned rows, and the expected predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.demo.model import KILLS, RAISES

_SEED: Final = 20_261_124
_NOISE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Material:
    """The files, and the expected prediction of each row by its id."""

    forest: Path
    rows: Path
    truth: dict[str, int]
    poisoned: dict[int, str]


def prepare(folder: Path, rows: int, trees: int) -> Material:
    """Train on scikit-learn's digits, and write resampled rows with noise to Parquet."""
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    pixels, digits = load_digits(return_X_y=True)
    forest = RandomForestClassifier(trees, random_state=_SEED).fit(pixels, digits)
    random = np.random.default_rng(_SEED)
    sample = pixels[random.integers(0, len(pixels), rows)]
    sample = sample + random.normal(0.0, _NOISE, sample.shape)
    truth = dict(zip(map(_id, range(rows)), forest.predict(sample).tolist(), strict=True))
    poisoned = {rows // 7: "NaN", rows // 3: "raises", rows // 2: "kills its worker"}
    for (row, _), value in zip(poisoned.items(), (np.nan, RAISES, KILLS), strict=True):
        sample[row, 0] = value
        del truth[_id(row)]
    joblib.dump(forest, folder / "forest.joblib")
    _write(folder / "rows.parquet", sample)
    return Material(folder / "forest.joblib", folder / "rows.parquet", truth, poisoned)


def _write(path: Path, sample: np.ndarray[Any, Any]) -> None:
    columns: dict[str, Any] = {"id": [_id(row) for row in range(len(sample))]}
    columns |= {f"pixel_{number}": sample[:, number] for number in range(sample.shape[1])}
    pq.write_table(pa.table(columns), path)


def _id(row: int) -> str:
    return f"scan-{row:06d}"
