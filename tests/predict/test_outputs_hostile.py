"""Outputs under strain: writers that overlap, values that JSON lacks, receipts that were torn."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peers.predict import outputs
from peers.predict.errors import OutputError
from peers.predict.outputs.durable import replaced
from peers.predict.spec import Manifest
from tests.predict.test_outputs import a_manifest


def test_writers_that_overlap_do_not_share_a_file(tmp_path: Path) -> None:
    """Peers on other hosts may have the same process id: each has a temporary file of its own."""
    path = tmp_path / "part"
    with replaced(path) as mine:
        mine.write_text("whole")
        with replaced(path) as theirs:
            assert theirs != mine
            theirs.write_text("whole")
        assert path.read_text() == "whole"
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def of_format(manifest: Manifest, suffix: str, rows: int) -> Manifest:
    """The same run with another output and so many rows."""
    output = Path(manifest.output).with_suffix(suffix)
    changed = replace(manifest, output=str(output), input=replace(manifest.input, rows=rows))
    changed.folder.mkdir(parents=True, exist_ok=True)
    return changed


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_what_json_lacks_is_null(suffix: str, tmp_path: Path) -> None:
    """Every line is JSON by the standard, which has neither NaN nor infinity."""
    manifest = of_format(a_manifest(tmp_path), suffix, 2)
    outputs.write_part(manifest.folder, 0, [0, 1], None, np.array([[1, math.nan], [math.inf, 2]]))
    written = outputs.assemble(manifest, [0], [])
    text = written.path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    if suffix == ".jsonl":
        found = [json.loads(line)["prediction"] for line in text.splitlines()]
        assert found == [[1.0, None], [None, 2.0]]


def test_a_row_alone_takes_the_type_of_the_others(tmp_path: Path) -> None:
    """What went through JSON comes back as float32, and as a date, if the parts say so; an id that
    is null stays null.
    """
    manifest = of_format(a_manifest(tmp_path), ".parquet", 3)
    day = datetime.date(2020, 1, 1)
    scores: Any = np.array([0.1], np.float32)
    outputs.write_part(manifest.folder, 0, [0], pa.array([day]), scores)
    alone = [outputs.Extra(1, "2020-01-02", float(scores[0])), outputs.Extra(2, None, 0.5)]
    table = pq.read_table(outputs.assemble(manifest, [0], alone).path)
    assert table.schema.field("prediction").type == pa.float32()
    assert table.column("prediction").to_pylist() == [float(scores[0]), float(scores[0]), 0.5]
    assert table.column("id").to_pylist() == [day, datetime.date(2020, 1, 2), None]


def write_and_assemble(manifest: Manifest, parts: list[list[Any]]) -> None:
    """Parts of one row each."""
    for number, predictions in enumerate(parts):
        outputs.write_part(manifest.folder, number, [number], None, predictions)
    outputs.assemble(manifest, range(len(parts)), [])


@pytest.mark.parametrize(
    ("parts", "says"),
    [([[{}]], "cannot hold"), ([[2**60 + 1], [0.5]], "chunk 0 do not fit")],
)
def test_predictions_that_fit_nowhere_are_said(
    parts: list[list[Any]], says: str, tmp_path: Path
) -> None:
    """By an error of ours that names the part; nothing is left behind."""
    manifest = of_format(a_manifest(tmp_path), ".parquet", len(parts))
    with pytest.raises(OutputError, match=says):
        write_and_assemble(manifest, parts)
    assert not Path(manifest.output).exists()
    assert not list(tmp_path.rglob(".*"))


def test_a_torn_receipt_says_nothing(tmp_path: Path) -> None:
    """Another run's, cut off by a crash, keeps nobody from knowing whose a file is."""
    manifest = of_format(a_manifest(tmp_path), ".csv", 1)
    outputs.write_part(manifest.folder, 0, [0], None, [1])
    outputs.assemble(manifest, [0], [])
    (manifest.folder / "written.json").rename(manifest.folder / "kept")
    for name, content in (("a", ""), ("b", "[]"), ("c", "{}")):
        folder = manifest.folder.with_name(name)
        folder.mkdir()
        (folder / "written.json").write_text(content)
    assert outputs.belongs_to(Path(manifest.output)) is None
    (manifest.folder / "kept").rename(manifest.folder / "written.json")
    assert outputs.belongs_to(Path(manifest.output)) == manifest.run
