"""Outputs: the parts and the rows that were isolated become one file, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peers.predict import outputs
from peers.predict.errors import OutputError, StorageFailed
from peers.predict.outputs import IsolatedPredictions
from peers.predict.outputs.ownership import record_output_digest
from peers.predict.outputs.text_parts import write_text
from peers.predict.spec import Chunk, InputRef, Manifest, ModelRef, load_manifest, schema_text

SIZE = 10
CHUNKS = 5


def a_manifest(folder: Path, suffix: str = ".parquet") -> Manifest:
    """Of five chunks with ten rows each."""
    fields = [("x", pa.float64()), ("id", pa.string())]
    made = Manifest(
        run="abc", name=None, model=ModelRef("callable", "m:f", "d"),
        input=InputRef("d", SIZE * CHUNKS, (), schema_text(pa.schema(fields))),
        source="in.csv", id_column="id", features=("x",), output=str(folder / f"out{suffix}"),
        batch_size=SIZE, chunk_rows=SIZE, rows_per_second=None, call_seconds=None,
        max_attempts=3, timeout=None, asynchronous=False, required=(),
        chunks=CHUNKS, concurrency=None,
    )  # fmt: skip
    made.folder.mkdir(parents=True, exist_ok=True)
    return made


def write_part(
    manifest: Manifest, number: int, rows: Sequence[int], ids: Any, predictions: Any,
    values: pa.Table | None = None,
) -> None:  # fmt: skip
    """A chunk's part, as its task writes it; all predictions fit. `values`: of the input."""
    found = pa.table({"id": ids}) if values is None else values
    kept = outputs.kept_columns(manifest, rows, found)
    outputs.write_part(manifest, number, kept, fitted(manifest, predictions))


def fitted(manifest: Manifest, predictions: Any) -> pa.Table:
    """Predictions as columns, if all of them fit."""
    found = outputs.fit(manifest.folder, outputs.requested_columns(manifest), [predictions])
    assert found.problems == {}
    return found.table


def write_parts(manifest: Manifest, alone: set[int], value: Any = lambda row: row * 2) -> None:
    """Every row but those alone; the third chunk is whole of rows that are isolated."""
    for number in range(CHUNKS):
        rows = [r for r in range(number * SIZE, (number + 1) * SIZE) if r not in alone]
        ids = pa.array([f"id{row}" for row in rows], pa.string())
        write_part(manifest, number, rows, ids, [value(row) for row in rows])


def alone(
    manifest: Manifest, predictions: dict[int, Any], size: int = SIZE
) -> dict[int, IsolatedPredictions]:
    """Rows that were isolated, by chunk, as the assembling task hands them over."""
    found: dict[int, IsolatedPredictions] = {}
    for chunk in sorted({row // size for row in predictions}):
        rows = [row for row in predictions if row // size == chunk]
        ids = pa.table({"id": [f"id{row}" for row in rows]})
        values = outputs.write_isolated_values(
            manifest.folder, chunk, rows, outputs.IsolatedValues(ids, ids.slice(0, 0))
        )
        found[chunk] = IsolatedPredictions(
            rows, values, [fitted(manifest, [predictions[row]]) for row in rows]
        )
    return found


def read(path: Path) -> list[dict[str, Any]]:
    """The output's rows, as Python values."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as stream:
        return [
            {"row": int(r["row"]), "id": r["id"], "prediction": json.loads(r["prediction"])}
            for r in csv.DictReader(stream)
        ]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_rows_that_stood_alone_take_their_places(suffix: str, tmp_path: Path) -> None:
    """First and last of a chunk, a whole chunk, the very first and last row; dead ones are left
    out. Assembled again, the file is the same to the byte.
    """
    manifest = a_manifest(tmp_path, suffix)
    dead = {13, 25}
    single = {0, 9, 10, 19, *range(20, 30), 49} | dead
    write_parts(manifest, single)
    isolated = alone(manifest, {row: row * 2 for row in sorted(single - dead)})
    written = outputs.assemble(manifest, isolated, dead=len(dead))
    expected = [
        {"row": row, "id": f"id{row}", "prediction": row * 2}
        for row in range(SIZE * CHUNKS)
        if row not in dead
    ]
    assert read(written.path) == expected
    assert written.rows == len(expected)
    before = written.path.read_bytes()
    assert outputs.is_written_by(manifest)
    outputs.assemble(manifest, isolated, dead=len(dead))
    assert written.path.read_bytes() == before


def test_types_of_parts_and_of_rows_alone_are_brought_together(tmp_path: Path) -> None:
    """Whole numbers here and 0.5 there are doubles in the end; lists stay lists."""
    manifest = a_manifest(tmp_path)
    write_parts(manifest, {7})
    write_part(manifest, 1, range(10, 20), ["i"] * 10, np.full(10, 0.5))
    outputs.assemble(manifest, alone(manifest, {7: 1.25}))
    found = read(Path(manifest.output))
    assert (found[7]["prediction"], found[10]["prediction"], found[0]["prediction"]) == (
        1.25,
        0.5,
        0,
    )
    again = replace(manifest, run="other", output=str(tmp_path / "lists.parquet"))
    again.folder.mkdir(parents=True)
    write_parts(again, {3}, lambda row: [row, 0.5])
    outputs.assemble(again, alone(again, {3: [3, 0.5]}))
    assert read(Path(again.output))[3]["prediction"] == [3.0, 0.5]


def test_an_output_that_was_edited_is_not_ours_any_more(tmp_path: Path) -> None:
    """In Parquet, too, where an editor keeps the metadata; nor is that of a run of another name,
    though it has the same contents.
    """
    for suffix in (".parquet", ".csv", ".jsonl"):
        manifest = a_manifest(tmp_path, suffix)
        write_parts(manifest, set())
        path = outputs.assemble(manifest, {}).path
        other = replace(manifest, run="other")
        other.folder.mkdir()
        assert outputs.is_written_by(manifest)
        assert not outputs.is_written_by(other)
        if suffix == ".parquet":
            pq.write_table(pq.read_table(path).slice(0, 3), path)
        else:
            path.write_bytes(path.read_bytes() + b"\n")
        assert not outputs.is_written_by(manifest)


def test_killed_between_receipt_and_output_the_output_stays_ours(tmp_path: Path) -> None:
    """The digest is written first, and holds for the output before and for the one after."""
    manifest = a_manifest(tmp_path, ".csv")
    write_parts(manifest, {12})
    outputs.assemble(manifest, {}, dead=1)
    new = tmp_path / "new"
    new.write_text("what the next assembling task was about to put there")
    record_output_digest(manifest, new)
    assert outputs.is_written_by(manifest)
    outputs.assemble(manifest, alone(manifest, {12: 24}))
    assert outputs.is_written_by(manifest)


def test_what_a_killed_writer_left_behind_is_cleared_away(tmp_path: Path) -> None:
    """Else each death while assembling would cost the room of an output."""
    manifest = a_manifest(tmp_path)
    write_parts(manifest, set())
    (tmp_path / ".out.parquet.0123456789abcdef").write_text("half")
    outputs.assemble(manifest, {})
    assert list(tmp_path.glob(".out*")) == []


def test_a_flipped_bit_in_a_part_is_noticed(tmp_path: Path) -> None:
    """Wherever it is in the rows: nobody gets another prediction than the model's."""
    manifest = a_manifest(tmp_path)
    write_parts(manifest, set())
    path = outputs.part_path(manifest.folder, 1)
    whole, table = path.read_bytes(), outputs.read_part(manifest.folder, 1)
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    noticed = 0
    for place in range(4, len(whole) - footer):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if not outputs.is_whole(manifest.folder, 1):
            noticed += 1
        else:  # in what says nothing of rows
            assert outputs.read_part(manifest.folder, 1).equals(table)
    assert noticed > 100


def test_a_part_that_is_damaged_anywhere_is_made_again(tmp_path: Path) -> None:
    """Who looks for finished rows sees what the assembling task would see."""
    manifest = a_manifest(tmp_path)
    write_parts(manifest, set())
    path, chunk = outputs.part_path(manifest.folder, 1), Chunk(1, SIZE, SIZE)
    whole = path.read_bytes()
    found = outputs.rows_of_part(manifest.folder, chunk)
    assert found is not None
    assert found.tolist() == list(range(SIZE))
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    at = len(whole) - footer - 2  # in the last column, the predictions
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert outputs.rows_of_part(manifest.folder, chunk) is None


def test_an_output_of_other_contents_is_not_replaced(tmp_path: Path) -> None:
    """Neither another program's nor another run's, in any format; unless that is asked for."""
    for suffix in (".parquet", ".csv", ".jsonl"):
        manifest = a_manifest(tmp_path, suffix)
        write_parts(manifest, set())
        Path(manifest.output).write_text("mine\n")
        with pytest.raises(OutputError, match="--overwrite"):
            outputs.assemble(manifest, {})
        assert Path(manifest.output).read_text() == "mine\n"
        outputs.assemble(manifest, {}, overwrite=True)
        assert outputs.is_written_by(manifest)


def test_a_missing_part_and_a_repeated_or_missing_row_are_errors(tmp_path: Path) -> None:
    """Nothing is written then."""
    manifest = a_manifest(tmp_path)
    write_parts(manifest, {12})
    with pytest.raises(OutputError, match="have 49 rows, but 50"):
        outputs.assemble(manifest, {})
    write_parts(manifest, set())
    with pytest.raises(OutputError, match="twice"):
        outputs.assemble(manifest, alone(manifest, {12: 1}))
    outputs.part_path(manifest.folder, 2).unlink()
    with pytest.raises(OutputError, match="chunk-000002"):
        outputs.assemble(manifest, {})
    assert not Path(manifest.output).exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    """A part that does not fit leaves no trace; earlier ones stay whole."""
    manifest = a_manifest(tmp_path)
    write_parts(manifest, set())
    manifest.path.write_text(manifest.to_json())
    before = sorted(manifest.folder.iterdir())
    code = f"""
import numpy as np, pyarrow as pa, resource, signal
from peers.predict import outputs
from peers.predict.spec import load_manifest
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
kept = pa.table({{"row": range(50_000)}})
outputs.write_part(
    load_manifest({str(manifest.path)!r}), 9, kept,
    pa.table({{"prediction": np.random.random(50_000)}}),
)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 1
    assert "StorageFailed" in done.stderr
    assert "chunk-000009.parquet cannot be written" in done.stderr
    assert sorted(manifest.folder.iterdir()) == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000
    assert signal.getsignal(signal.SIGXFSZ) is not None


@pytest.mark.parametrize("name", ["out.xlsx", "nowhere/out.csv", "."])
def test_a_place_where_nothing_can_be_written_is_refused(name: str, tmp_path: Path) -> None:
    """Before anything is done."""
    with pytest.raises(OutputError):
        outputs.check_output(tmp_path / name)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"model": 1}', "\x00"])
def test_a_manifest_that_cannot_be_read_is_said(content: str | None, tmp_path: Path) -> None:
    """Missing, damaged, or of another version: in words, and never with a traceback."""
    path = tmp_path / "manifest.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StorageFailed, match=r"manifest\.json cannot be read"):
        load_manifest(str(path))


def test_whatever_of_a_run_cannot_be_written_counts_as_failed_storage(tmp_path: Path) -> None:
    """The command ends for that, and waits for other errors."""
    gone = a_manifest(tmp_path / "gone", ".csv")
    shutil.rmtree(gone.folder)
    table = pa.table({"row": pa.array([0], pa.int64()), "prediction": [1.5]})
    kind = outputs.type_of(gone, [1.5])
    for write in (
        lambda: write_text(gone.folder / "chunk-000000.csv", Path(gone.output), table),
        lambda: outputs.set_first_type(gone.folder, kind),
        lambda: outputs.write_part(gone, 0, table.select(["row"]), table.select(["prediction"])),
    ):
        with pytest.raises(StorageFailed, match="cannot be written"):
            write()
