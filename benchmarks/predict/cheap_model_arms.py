"""What `peers predict` is compared with: one process, a process pool and Ray Data.

python -m benchmarks.predict.cheap_model_arms pandas|pool|ray MODEL INPUT OUTPUT-FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

os.environ["OMP_NUM_THREADS"] = "1"  # as the workers of a peer have it: two processes, two cores

WORKERS: Final = 2
_state: dict[str, Any] = {}


def by_pandas(model: Path, source: Path, output: Path) -> dict[str, float]:
    """One process."""
    import joblib
    import pandas as pd

    loaded = joblib.load(model)
    began = time.monotonic()
    predictions = loaded.predict(pd.read_parquet(source).to_numpy())
    pd.DataFrame({"prediction": predictions}).to_parquet(output / "out.parquet")
    return {"seconds": time.monotonic() - began}


def by_pool(model: Path, source: Path, output: Path) -> dict[str, float]:
    """Row group by row group, in two processes that have loaded the model; then one file.

    "parts": seconds until all parts are written, which is where a pool without an order stops.
    """
    import pyarrow.parquet as pq

    folder = output / "parts"
    folder.mkdir()
    groups = pq.read_metadata(source).num_row_groups
    with ProcessPoolExecutor(WORKERS, initializer=_load, initargs=(model,)) as executor:
        list(executor.map(_wait, [0.05] * WORKERS))
        began = time.monotonic()
        parts = [folder / f"part-{group:06d}.parquet" for group in range(groups)]
        list(executor.map(_predict_group, [(source, part, n) for n, part in enumerate(parts)]))
        written = time.monotonic()
        _join(parts, output / "out.parquet")
        return {"seconds": time.monotonic() - began, "parts": written - began}


def _join(parts: list[Path], output: Path) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(output, pq.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(pq.ParquetFile(part).read())


def _load(model: Path) -> None:
    import joblib

    _state["model"] = joblib.load(model)


def _wait(seconds: float) -> None:
    time.sleep(seconds)


def _predict_group(job: tuple[Path, Path, int]) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    source, part, group = job
    table = pq.ParquetFile(source).read_row_group(group)
    features = np.column_stack([column.to_numpy() for column in table.columns])
    pq.write_table(pa.table({"prediction": _state["model"].predict(features)}), part)


class Actor:
    """The model, loaded once in an actor."""

    def __init__(self, model: str) -> None:
        import joblib

        self._model = joblib.load(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Predictions of a batch."""
        import numpy as np

        return {"prediction": self._model.predict(np.column_stack(list(batch.values())))}


def by_ray(model: Path, source: Path, output: Path) -> dict[str, float]:
    """Ray Data with its default blocks and batches; the order of the rows is preserved."""
    import logging

    began = time.monotonic()
    import ray

    # one more than its actors take: else its readers would wait for them for ever
    ray.init(num_cpus=WORKERS + 1, include_dashboard=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    started = time.monotonic()
    ray.data.read_parquet(str(source)).map_batches(
        Actor, fn_constructor_args=[str(model)], batch_size=65_536,
        compute=ray.data.ActorPoolStrategy(size=WORKERS),
    ).write_parquet(str(output))  # fmt: skip
    ended = time.monotonic()
    ray.shutdown()
    return {
        "seconds": ended - started,
        "not_counted": started - began + time.monotonic() - ended,
    }


def main() -> None:
    """Run one arm and print its seconds as JSON."""
    arm, *paths = sys.argv[1:]
    arms = {"pandas": by_pandas, "pool": by_pool, "ray": by_ray}
    print(json.dumps(arms[arm](*map(Path, paths))))


if __name__ == "__main__":
    main()
