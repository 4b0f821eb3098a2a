"""Outputs under strain: writers that overlap, values that JSON lacks, digests that were torn."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peers.predict import outputs
from peers.predict.atomic_files import atomic_write
from peers.predict.spec import Manifest, schema_text
from peers.predict.tasks.rows import decoded, result_of
from tests.predict.test_outputs import a_manifest, fitted, write_part


def test_writers_that_overlap_do_not_share_a_file(tmp_path: Path) -> None:
    """Peers on other hosts may have the same process id: each has a temporary file of its own."""
    path = tmp_path / "part"
    with atomic_write(path) as mine:
        mine.write_text("whole")
        with atomic_write(path) as theirs:
            assert theirs != mine
            theirs.write_text("whole")
        assert path.read_text() == "whole"
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def of_format(manifest: Manifest, suffix: str, rows: int) -> Manifest:
    """The same run with another output and so many rows."""
    output = Path(manifest.output).with_suffix(suffix)
    source = replace(manifest.input, rows=rows)
    changed = replace(manifest, output=str(output), input=source, chunks=1)
    changed.folder.mkdir(parents=True, exist_ok=True)
    return changed


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_what_json_lacks_is_null(suffix: str, tmp_path: Path) -> None:
    """Every line is JSON by the standard, which has neither NaN nor infinity."""
    manifest = of_format(a_manifest(tmp_path), suffix, 2)
    write_part(manifest, 0, [0, 1], ["a", "b"], np.array([[1, math.nan], [math.inf, 2]]))
    written = outputs.assemble(manifest, {})
    text = written.path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    if suffix == ".jsonl":
        found = [json.loads(line)["prediction"] for line in text.splitlines()]
        assert found == [[1.0, None], [None, 2.0]]


@pytest.mark.parametrize(
    ("ids", "predictions"),
    [
        ([datetime.date(2020, 1, 1), None, None], np.array([0.1, 0.2, 0.3], "f4")),
        ([b"\x00a", b"b", b"c"], [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)] * 3),
        (["a\x00", "b", "c"], [b"\x00", b"1", b"2"]),
        ([1, 2, 3], [math.nan, math.inf, 1.0]),
        ([[1], [2], [3]], [decimal.Decimal("1.10")] * 3),
        ([datetime.timedelta(1)] * 3, [{"a": np.float32(0.5), "b": [1]}] * 3),
        ([uuid.UUID(int=1).bytes] * 3, [[0.5, math.nan]] * 3),
    ],
)
def test_rows_alone_are_as_exact_as_the_others(
    ids: list[Any], predictions: Any, tmp_path: Path
) -> None:
    """Ids and predictions of whatever type are what they would have been within their batch."""
    column = pa.array(ids)
    manifest = of_format(a_manifest(tmp_path), ".parquet", 3)
    schema = schema_text(pa.schema([("x", pa.float64()), ("id", column.type)]))
    manifest = replace(manifest, input=replace(manifest.input, arrow_schema=schema))
    write_part(manifest, 0, [0, 1, 2], column, predictions)
    expected = pq.read_table(outputs.assemble(manifest, {}).path)
    write_part(manifest, 0, [1], column[1:2], predictions[1:2])
    rows = [0, 2]
    ids_alone = pa.table({"id": column.take(rows)})
    known = outputs.IsolatedValues(ids_alone, ids_alone.slice(0, 0))
    values = outputs.write_isolated_values(manifest.folder, 0, rows, known)
    found = [decoded(encoded(fitted(manifest, predictions[row : row + 1]))) for row in rows]
    alone = {0: outputs.IsolatedPredictions(rows, values, found)}
    table = pq.read_table(outputs.assemble(manifest, alone).path)
    assert table.schema == expected.schema
    assert str(table.to_pydict()) == str(expected.to_pydict())


def encoded(prediction: pa.Table) -> Any:
    """As it goes through the database."""
    return json.loads(json.dumps(result_of(prediction), allow_nan=False))


@pytest.mark.parametrize("torn", ["", "[]", "{}", '{"digests": nul'])
def test_a_torn_receipt_says_nothing(torn: str, tmp_path: Path) -> None:
    """Cut off by a crash, it keeps nobody from going on: the output is then not known as ours."""
    manifest = of_format(a_manifest(tmp_path), ".csv", 1)
    write_part(manifest, 0, [0], ["a"], [1])
    outputs.assemble(manifest, {})
    digests = manifest.folder / "written.json"
    whole = digests.read_text()
    digests.write_text(torn)
    assert not outputs.is_written_by(manifest)
    digests.write_text(whole)
    assert outputs.is_written_by(manifest)
