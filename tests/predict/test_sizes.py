"""How large chunks and batches are, and which rows are isolated when a worker dies of one."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from peers.predict.run.chunk_sizes import chunk_rows
from peers.predict.tasks import batches as batches_module
from peers.predict.tasks import cpu_clock
from peers.predict.tasks.batch_marker import BatchMarker
from peers.predict.tasks.batch_sizes import MAX_CRASHES, BatchSizer, max_batch_rows
from peers.predict.tasks.batches import run_batches
from peers.predict.tasks.chunk_predictions import ChunkPredictions
from peers.predict.tasks.measure import Measurement, measure
from tests.predict.runs import MODELS, numbers


def at(rate: float, row_bytes: float = 64.0) -> Measurement:
    """A model of this speed."""
    return Measurement(rate, row_bytes)


def test_a_chunk_is_about_a_second_of_work_within_bounds() -> None:
    """Of time, memory, an even end and the number of chunks; a small input is cut little."""
    assert chunk_rows(10**6, at(20_000), None) == 20_000
    assert chunk_rows(10**6, at(10**9, row_bytes=1 << 20), None) == 250  # thousands of chunks
    assert chunk_rows(10**5, at(10**9, row_bytes=1 << 20), None) == 32
    assert chunk_rows(10**5, at(10), None) == 100
    assert chunk_rows(2_000_000, at(10**7), None) == 125_000
    assert chunk_rows(20_000_000, at(10**7), None) == 125_000  # no more memory than that
    assert chunk_rows(3000, at(10**7), None) == 2048
    assert chunk_rows(10, at(10**7), None) == 2048
    assert chunk_rows(10**9, at(10**7), None) == 250_000
    assert chunk_rows(10**9, at(1), None) == 250_000
    assert chunk_rows(1000, at(0.01), None) == 1
    assert chunk_rows(3000, at(10**7), 50) == 400
    assert chunk_rows(10**6, None, None) == 2048


def test_a_batch_fits_into_memory_and_what_the_user_says() -> None:
    """The user's bound comes first."""
    assert max_batch_rows(at(10**7, row_bytes=64), None) == (1 << 25) // 64
    assert max_batch_rows(at(10**7, row_bytes=1 << 30), None) == 1
    assert max_batch_rows(at(10**7), 7) == 7


@pytest.mark.parametrize("call_seconds", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("row_seconds", [1e-7, 1e-4, 1.0])
@pytest.mark.parametrize("rate", [None, 1e-3, 1e9])
def test_batches_become_as_large_as_their_time_allows(
    call_seconds: float, row_seconds: float, rate: float | None
) -> None:
    """Whatever was measured before: a call soon takes about 50 ms, or has one row."""
    sizer = BatchSizer(rate, None, None)
    for _ in range(30):
        sizer.record_call(sizer.rows, call_seconds + sizer.rows * row_seconds)
    took = call_seconds + sizer.rows * row_seconds
    assert took <= 0.1 or sizer.rows == 1
    assert took >= 0.025


def test_a_call_stays_far_below_its_time_limit() -> None:
    """And one that is short because its chunk ends teaches nothing."""
    sizer = BatchSizer(1000.0, 0.5, 0.1)
    assert sizer.rows == 10
    sizer.record_call(3, 0.000_1)
    assert sizer.rows == 10
    sizer.record_call(3, 0.1)
    assert sizer.rows == 1


def test_a_model_is_measured_until_a_call_takes_long_enough() -> None:
    """With few calls, and never more rows than there are."""
    calls: list[int] = []

    def call(table: pa.Table) -> None:
        calls.append(table.num_rows)

    found = measure(call, pa.table({"x": [0.0] * 100}))
    assert calls == [1, 4, 16, 64, 100]
    assert found.row_bytes == 8.0
    assert found.call_seconds == 0.05


def test_a_busy_machine_does_not_make_a_model_look_slow() -> None:
    """The time in which others have the cores does not count."""
    burn = "while True: pass"
    others = [
        subprocess.Popen([sys.executable, "-c", burn])
        for _ in range(6 * len(os.sched_getaffinity(0)))
    ]
    try:
        began, stopped_at, used = time.perf_counter(), cpu_clock.seconds(), time.process_time()
        while time.process_time() < used + 0.3:
            pass
        assert cpu_clock.seconds() - stopped_at < 0.45
        assert time.perf_counter() - began > 0.45, "the machine was not busy"
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.parametrize(("by_call", "by_row"), [(0.03, 1e-5), (0.0, 0.02), (0.0, 0.6)])
def test_what_a_call_costs_by_itself_does_not_make_a_model_slow(
    by_call: float, by_row: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forest needs as long for one row as for a hundred. Measuring takes 2 s at most."""
    spent = 0.0

    def call(table: pa.Table) -> None:
        nonlocal spent
        spent += by_call + by_row * table.num_rows

    monkeypatch.setattr(cpu_clock, "seconds", lambda: spent)
    found = measure(call, pa.table({"x": [0.0] * 16_384}))
    assert 0.3 / by_row < found.rows_per_second <= 1.01 / by_row
    assert 0.0 < spent < 2.0


def test_calls_are_longer_where_each_costs_much_by_itself() -> None:
    """Up to half a second: such as those of a large forest."""
    assert Measurement(1e4, 8.0, row_seconds=0.004).call_seconds == pytest.approx(0.2)
    assert Measurement(1e4, 8.0, row_seconds=4.0).call_seconds == 0.5
    assert BatchSizer(1e4, 0.2, None).rows == 2000


def test_a_call_that_the_machine_delays_does_not_make_a_model_slow() -> None:
    """It is made again."""
    delays = iter([0.0, 0.1, 0.0, 0.05])

    def call(_: pa.Table) -> None:
        time.sleep(next(delays, 0.0))

    assert measure(call, pa.table({"x": [0.0] * 100})).rows_per_second > 10_000


class _Died(BaseException):
    """The end of a worker: not even what it has to say about it is left."""


def _attempts(
    patch: pytest.MonkeyPatch, folder: Path, rows: int, kills: Callable[[int, int], bool]
) -> tuple[ChunkPredictions, int]:
    """What the last attempt of a chunk found, and how many died before."""
    table = pa.table({"x": pa.array(range(rows), pa.int64())})
    manifest: Any = SimpleNamespace(
        run=f"{folder}", features_of=lambda table: table, batch_size=1 << 19,
        rows_per_second=1e9, call_seconds=None, timeout=None, asynchronous=False,
    )  # fmt: skip

    async def predict(batch: pa.Table) -> list[int]:
        first, last = batch.column("x")[0].as_py(), batch.column("x")[-1].as_py()
        if kills(first, last + 1):
            raise _Died
        found: list[int] = batch.column("x").to_pylist()
        return found

    deaths = 0
    while deaths <= MAX_CRASHES:
        batches_module._batch_sizer.cache_clear()  # another process
        done = ChunkPredictions()
        marker = BatchMarker(folder, 1)
        task = SimpleNamespace(attempt=deaths + 1, progress=lambda *_: None)
        patch.setattr(batches_module, "current_task", lambda task=task: task)
        try:
            asyncio.run(run_batches(manifest, table, predict, marker, done))
        except _Died:
            deaths += 1
        else:
            return done, deaths
    raise AssertionError("it dies again and again")


@pytest.mark.parametrize("seed", range(20))
def test_few_rows_are_isolated_for_each_that_kills_its_worker(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large the batches were: at most 64 for each, in a death for each and two more."""
    dice = random.Random(seed)
    rows = dice.choice([1, 60, 65, 300, 3750, 4097, 20_000, 60_000])
    bad_rows = dice.sample(range(rows), min(rows, dice.randint(1, 6)))
    done, deaths = _attempts(
        monkeypatch,
        tmp_path,
        rows,
        lambda first, stop: any(first <= one < stop for one in bad_rows),
    )
    assert done.to_isolate >= set(bad_rows)
    assert len(done.to_isolate) <= 64 * len(bad_rows)
    assert deaths <= len(bad_rows) + 2
    predicted = [index for indices, _ in done.batches_found for index in indices]
    assert sorted([*predicted, *done.to_isolate]) == list(range(rows))


def test_a_model_that_always_kills_its_worker_needs_fewer_attempts_than_a_chunk_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is isolated then."""
    done, deaths = _attempts(monkeypatch, tmp_path, 250_000, lambda *_: True)
    assert deaths <= MAX_CRASHES
    assert len(done.to_isolate) == 250_000


def planned(source: Path, output: Path, **options: object) -> dict[str, Any]:
    """The run of such a command, its chunks and what bounds its calls, in a process of its own."""
    given = {"id_column": "id", **options}
    code = f"""if True:
        import json
        from pathlib import Path
        from peers.predict.run.prepare import prepare
        from peers.predict.run.request import Request
        plan = prepare(Request("{MODELS}:double", "{source}", Path("{output}"), **{given}))
        manifest = plan.manifest
        print(json.dumps({{
            "run": manifest.run, "chunks": [[c.first, c.rows] for c in plan.chunks],
            "bounds": [manifest.batch_size, manifest.timeout],
            "columns": manifest.input.schema.names,
        }}))
    """
    said = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(said.stdout)
    return found


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_the_same_command_again_keeps_the_chunks_of_its_run(suffix: str, tmp_path: Path) -> None:
    """Sizes are measured, so they differ each time; options that bound a call are the new ones."""
    source, output = numbers(tmp_path), tmp_path / "out.parquet"
    if suffix == ".csv":
        csv.write_csv(pq.read_table(source), source.with_suffix(suffix))
        source = source.with_suffix(suffix)
    first = planned(source, output)
    again = planned(source, output, batch_size=10, timeout=7.0)
    for what in ("run", "chunks", "columns"):
        assert again[what] == first[what]
    assert again["bounds"] == [10, 7.0]
    other = planned(source, tmp_path / "other.parquet", batch_size=10)
    assert len(other["chunks"]) > len(first["chunks"])
