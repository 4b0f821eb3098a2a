"""Beside Peers: Ray Data with the same forest, the same rows, batches and two cores.

    pip install 'ray[data]' pandas
    python -m benchmarks.forest_ray [--rows 100000]

Three runs: all is well; one row makes the model raise; one row kills its worker. Prints what came:
rows a second, peak memory of all processes, and what became of the rows.
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
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from benchmarks.forest import BATCH, WORKERS, make

_RAISES: Final = 1e6
_KILLS: Final = 2e6
_PATIENCE: Final = 60


class Forest:
    """The model, loaded once in an actor."""

    def __init__(self, path: str) -> None:
        import joblib

        self.forest = joblib.load(path)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Predictions of a batch."""
        table = np.column_stack([values for name, values in batch.items() if name != "id"])
        if (table[:, 0] == _KILLS).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        if (table[:, 0] == _RAISES).any():
            raise ValueError("a pixel is out of range")
        return {"id": batch["id"], "prediction": self.forest.predict(table)}


def main() -> None:
    """Run the three cases and print what became of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    rows: int = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="forest-ray-") as place:
        folder = Path(place)
        truth = make(folder, rows)
        import ray

        # one more than its actors take: else its readers would wait for them for ever
        ray.init(num_cpus=WORKERS + 1, include_dashboard=False, logging_level=logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        for case, value in (("well", None), ("a row raises", _RAISES), ("a row kills", _KILLS)):
            source = poisoned(folder, case, value)
            print(json.dumps({"case": case, **run(ray, folder, source, case, truth)}), flush=True)
        ray.shutdown()


def poisoned(folder: Path, case: str, value: float | None) -> Path:
    """The input, with one bad row in the middle."""
    if value is None:
        return folder / "rows.parquet"
    table = pq.read_table(folder / "rows.parquet")
    column = table.column("pixel_0").to_numpy().copy()
    column[len(column) // 2] = value
    path = folder / f"{case.replace(' ', '-')}.parquet"
    pq.write_table(table.set_column(1, "pixel_0", [column]), path)
    return path


def run(ray: Any, folder: Path, source: Path, case: str, truth: Any) -> dict[str, Any]:
    """One job; seconds, memory, and how many rows came out."""
    output = folder / f"out-{case.replace(' ', '-')}"
    peak = Peak()
    began = time.monotonic()
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(_PATIENCE)
    error = None
    try:
        ray.data.read_parquet(str(source)).map_batches(
            Forest, fn_constructor_args=[str(folder / "forest.joblib")],
            batch_size=BATCH, compute=ray.data.ActorPoolStrategy(size=WORKERS),
        ).write_parquet(str(output))  # fmt: skip
    except BaseException as failure:  # noqa: BLE001  # the point is what it says
        error = f"{type(failure).__name__}: {str(failure).strip().splitlines()[0][:120]}"
    signal.alarm(0)
    seconds = time.monotonic() - began
    found = pq.read_table(output) if list(output.glob("*.parquet")) else None
    written = 0 if found is None else found.num_rows
    return {
        "seconds": round(seconds, 1), "rows_per_second": round(written / seconds),
        "rows_written": written, "rows": len(truth), "peak_mib": peak.stop(), "error": error,
    }  # fmt: skip


def _give_up(*_: object) -> None:
    raise TimeoutError(f"not over after {_PATIENCE} s")


class Peak:
    """The most memory that this process and all beneath it had together, proportionally shared."""

    def __init__(self) -> None:
        self._most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> int:
        """In MiB."""
        self._over.set()
        self._thread.join()
        return self._most >> 10

    def _look(self) -> None:
        while not self._over.wait(0.5):
            self._most = max(self._most, sum(map(_kilobytes, _session())))


def _session() -> list[int]:
    """Every process of ray and our own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"ray" in words or int(folder.name) == os.getpid():
            found.append(int(folder.name))
    return found


def _kilobytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
