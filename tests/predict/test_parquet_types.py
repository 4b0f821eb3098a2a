"""Types that are not the file's own: of files that differ, and decided for a model."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peers.predict import inputs
from peers.predict.column_metadata import NULLS
from peers.predict.errors import InputError
from peers.predict.spec import Chunk, InputRef
from tests.predict.planned import planned


def write_two(folder: Path, one: Any, other: Any) -> None:
    """Two files with the column x."""
    folder.mkdir()
    for name, values in (("a", one), ("b", other)):
        pq.write_table(pa.table({"x": values, name: [1] * len(values)}), folder / f"{name}.parquet")


@pytest.mark.parametrize(
    ("one", "other", "type_"),
    [
        (pa.array([1], pa.int32()), pa.array([2**40]), "int64"),
        (pa.array([1.5], pa.float32()), pa.array([0.1]), "double"),
        (pa.array([1]), pa.array([0.5]), "double"),
        (pa.array(["a"]), pa.array(["b"], pa.large_string()), "large_string"),
        (pa.nulls(1), pa.array(["b"]), "string"),
        (pa.array(["a"]), pa.array(["b"]).dictionary_encode(), "string"),
        (
            pa.array(["a"]).dictionary_encode(),
            pa.array(["b"], pa.dictionary(pa.int8(), pa.string())),
            "dictionary<values=string, indices=int32, ordered=0>",
        ),
        (pa.array([[1]], pa.list_(pa.int8())), pa.array([[2]]), "list<element: int64>"),
        (
            pa.array([dt.datetime(2024, 1, 1)], pa.timestamp("us")),  # noqa: DTZ001
            pa.array([dt.datetime(2024, 1, 2)], pa.timestamp("ns")),  # noqa: DTZ001
            "timestamp[ns]",
        ),
    ],
)
def test_files_that_differ_have_the_wider_type(
    one: Any, other: Any, type_: str, tmp_path: Path
) -> None:
    """In every row, whichever file comes first; what a file lacks is a gap."""
    write_two(tmp_path / "forth", one, other)
    write_two(tmp_path / "back", other, one)
    for folder, values in (("forth", (one, other)), ("back", (other, one))):
        source, chunks = planned(tmp_path / folder, 1)
        tables = [inputs.read(source, chunk, ["x", "a", "b"]).table for chunk in chunks]
        assert [str(table.column("x").type) for table in tables] == [type_, type_]
        joined = [table.to_pylist()[0] for table in tables]
        assert [row["x"] for row in joined] == [value.to_pylist()[0] for value in values]
        assert [(row["a"], row["b"]) for row in joined] == [(1, None), (None, 1)]
        assert NULLS in source.schema.field("a").metadata


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([1]), pa.array(["1"])),
        (pa.array([True]), pa.array([1])),
        (pa.array([b"1"]), pa.array(["1"])),
        (pa.array([dt.date(2024, 1, 1)]), pa.array(["2024"])),
        (pa.array([1]), pa.array([[1]])),
        (
            pa.array([dt.datetime(2024, 1, 1)], pa.timestamp("us")),  # noqa: DTZ001
            pa.array([dt.datetime(2024, 1, 1)], pa.timestamp("us", "UTC")),  # noqa: DTZ001
        ),
    ],
)
def test_files_that_contradict_each_other_are_refused(one: Any, other: Any, tmp_path: Path) -> None:
    """Naming the column and the files."""
    write_two(tmp_path / "data", one, other)
    with pytest.raises(InputError, match=r"'x' is .* in .*b\.parquet, and .* in .*a\.parquet"):
        planned(tmp_path / "data", 1)


def settled(path: Path, **types: pa.DataType) -> tuple[InputRef, list[Chunk]]:
    """The input with these columns in these types, in one chunk."""
    with inputs.survey(inputs.Source(str(path)), path.parent) as survey:
        source = survey.with_types(pa.schema(list(types.items())), path.parent)
    return source, inputs.chunks(source, 1000)


UTC, BERLIN = pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Berlin")


CASTS: list[tuple[pa.Array, pa.DataType, list[int]]] = [
    (pa.array([1, 2**53, 2**53 + 1, None, -5]), pa.float64(), [2]),
    (pa.array([1.0, 0.5, None, 1e300, float("nan")]), pa.int64(), [1, 3, 4]),
    (pa.array([0.5, 0.1, None, float("nan"), 1e300]), pa.float32(), [1, 4]),
    (pa.array([1, 300, -1, None]), pa.uint8(), [1, 2]),
    (pa.array(["1", "1.5", "x", None, ""]), pa.float64(), [2, 4]),
    (pa.array(["0042", "7", "1.5", None]), pa.int64(), [2]),
    (pa.array(["b", None, "a"]).dictionary_encode(), pa.string(), []),
    (pa.array(["1", "x", None, "3"]).dictionary_encode(), pa.int64(), [1]),
    (
        pa.array([decimal.Decimal(v) for v in ("0.10", "12345678901234567890.12", "7.00")]),
        pa.float64(),
        [1],
    ),
    (pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.00")]), pa.int64(), [0]),
    (pa.array([1, 2, None], pa.timestamp("ns", "UTC")), UTC, [0, 1]),
    (pa.array([1, 2, None], UTC), BERLIN, []),
    (pa.array([0, 86_400_000_001], pa.timestamp("us")), pa.date32(), [1]),
    (pa.array([True, None]), pa.string(), []),
    (pa.array([True, None]), pa.float64(), []),
    (pa.array([1.5, 2.5], pa.float16()), pa.float64(), []),
    (pa.nulls(3), pa.float64(), []),
]


@pytest.mark.parametrize(("values", "type_", "lost"), CASTS, ids=lambda one: str(one)[:40])
def test_a_cast_keeps_a_value_or_makes_its_row_bad(
    values: pa.Array, type_: pa.DataType, lost: list[int], tmp_path: Path
) -> None:
    """Never another value; the reason names the column and the value, and the others are there."""
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": values}), path)
    source, [chunk] = settled(path, x=type_)
    rows = inputs.read(source, chunk, ["x"])
    column = rows.table.column("x").combine_chunks()
    assert column.type == type_
    assert sorted(rows.bad) == lost
    assert all("'x' holds" in why for why in rows.bad.values())
    for index, value in enumerate(values):
        if index in lost or not value.is_valid:
            assert not column[index].is_valid
        elif type_ == pa.string():
            assert column[index].as_py() == str(value.as_py()).replace("True", "true")
        elif str(values.type).startswith("dictionary") or values.type == pa.string():
            assert column[index].as_py() == float(value.as_py())
        elif values.type == pa.float64() and value.as_py() != value.as_py():
            assert column[index].as_py() != column[index].as_py()
        elif pa.types.is_decimal(values.type):
            assert column[index].as_py() == float(value.as_py())
        else:
            assert column[index].cast(values.type) == value


def test_a_cast_that_means_nothing_is_refused_at_once(tmp_path: Path) -> None:
    """Naming the column: no row of it could be read, or only by inventing something."""
    path = tmp_path / "rows.parquet"
    now = pa.array([1], pa.timestamp("us"))
    pq.write_table(pa.table({"t": now, "s": pa.array([{"a": 1}]), "l": [[1]]}), path)
    with pytest.raises(InputError, match=r"'t' is .* without a zone"):
        settled(path, t=UTC)
    with pytest.raises(InputError, match="'s' is struct"):
        settled(path, s=pa.float64())
    with pytest.raises(InputError, match="'l' is list"):
        settled(path, l=pa.float64())
    with pytest.raises(InputError, match="no column nothing"):
        settled(path, nothing=pa.float64())


def test_pandas_does_not_undo_a_cast(tmp_path: Path) -> None:
    """What it noted about a column's dtype holds no longer; that of the others does."""
    path = tmp_path / "rows.parquet"
    written = {"x": pd.array([1, None], "Int64"), "y": pd.array([1, None], "Int64")}
    pd.DataFrame(written).to_parquet(path)
    source, [chunk] = settled(path, x=pa.float64(), y=pa.int64())
    found = inputs.read(source, chunk, ["y", "x"]).table.to_pandas()
    assert [str(dtype) for dtype in found.dtypes] == ["Int64", "float64"]
    assert json.loads(source.schema.metadata[b"pandas"])["index_columns"] == []
