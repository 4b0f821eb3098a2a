"""A value that cannot be read: the row's other values stay, and no other column changes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from peers.predict import inputs
from peers.predict.inputs import whole_columns
from peers.predict.inputs.missing_values import missing_values
from peers.predict.models.frames import frame
from tests.predict.planned import planned

CSV = {
    "value": b"1001,31,much\n",
    "fields": b"1001,31\n",
    "encoding": b"1001,31,caf\xe9\n",
    "encoding of an integer": b"1001,\xe9,2.5\n",
}
NAMES = ["id", "age", "income"]
TYPES = {"income": pa.float64()}


@pytest.mark.parametrize("kind", CSV)
def test_a_bad_csv_row_leaves_the_other_columns_as_they_are(kind: str, tmp_path: Path) -> None:
    """The types and missing values are those that pandas reads without the row."""
    clean = [b"1000,30,0.5\n", b"1002,9007199254740993,\n", b"1003,33,3.5\n"]
    path, without = tmp_path / "rows.csv", tmp_path / "clean.csv"
    without.write_bytes(b"id,age,income\n" + b"".join(clean))
    path.write_bytes(b"id,age,income\n" + b"".join([clean[0], CSV[kind], *clean[1:]]))
    found, [chunk] = planned(path, 100, NAMES, "id", TYPES)
    source = whole_columns.with_missing_values(found)
    assert missing_values(source, NAMES) == {"income": 1}
    rows = inputs.read(source, chunk, NAMES)
    assert rows.bad.keys() == {1}
    whole = rows.table.to_pylist()[1]
    assert whole["id"] == (None if kind == "fields" else 1001)
    assert whole["age"] == (31 if kind in {"value", "encoding"} else None)
    assert whole["income"] == (2.5 if kind == "encoding of an integer" else None)
    good = frame(rows.table.take([0, 2, 3]), {}, NAMES)
    pd.testing.assert_frame_equal(good, pd.read_csv(without), check_exact=True)


@pytest.mark.parametrize("row", ['{"id": 1001, "age": 31, "income": "much"}', "no JSON"])
def test_a_bad_json_row_leaves_the_other_columns_as_they_are(row: str, tmp_path: Path) -> None:
    """A line that is no row at all has no values, but these are not missing either."""
    clean = ['{"id": 1000, "age": 30, "income": 0.5}', '{"id": 1002, "age": 32, "income": null}']
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([clean[0], row, clean[1]]) + "\n")
    found, [chunk] = planned(path, 100, NAMES, "id", TYPES)
    source = whole_columns.with_missing_values(found)
    assert missing_values(source, NAMES) == {"income": 1}
    rows = inputs.read(source, chunk, NAMES)
    assert rows.bad.keys() == {1}
    assert rows.table.column("age").to_pylist() == [30, 31 if row[0] == "{" else None, 32]
    assert rows.table.column("id")[1].as_py() == (1001 if row[0] == "{" else None)
    assert frame(rows.table.take([0, 2]), {}, NAMES).dtypes["age"] == "int64"
