"""Columns of Parquet as pandas reads them: each chunk looks like the same rows of the whole."""

from __future__ import annotations

import datetime as dt
import decimal
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peers.predict import inputs
from peers.predict.column_metadata import INDEX, READER
from tests.predict.as_pandas import assert_reads_as_pandas
from tests.predict.planned import planned

ROWS = 40


def of_all_kinds() -> pa.Table:
    """Columns of many types, with gaps only far from the first row, and groups that differ."""
    chance = random.Random(5)
    noon = dt.datetime(2024, 5, 17, 12, 0, 0, 123456)  # noqa: DTZ001

    def column(values: Sequence[Any], type_: pa.DataType, gap: int | None = ROWS - 3) -> pa.Array:
        return pa.array([None if row == gap else v for row, v in enumerate(values)], type_)

    whole = list(range(ROWS))
    words = [chance.choice("xyzuvw") * 2 if row < 30 else f"late {row % 3}" for row in whole]
    return pa.table(
        {
            "int8": column(whole, pa.int8()),
            "int64": column([2**53 + 1 + n for n in whole], pa.int64(), None),
            "int64 with gaps": column(whole, pa.int64()),
            "uint64": column([2**64 - 1 - n for n in whole], pa.uint64(), None),
            "bool": column([n % 2 == 0 for n in whole], pa.bool_(), None),
            "bool with gaps": column([n % 2 == 0 for n in whole], pa.bool_()),
            "half": column(np.arange(ROWS, dtype=np.float16).tolist(), pa.float16()),
            "float": column([n / 7 for n in whole], pa.float32()),
            "double": column([n / 7 for n in whole], pa.float64()),
            "string": column(words, pa.string()),
            "large": column(words, pa.large_string()),
            "category": column(words, pa.string()).dictionary_encode(),
            "bytes": column([b"\x00%d" % n for n in whole], pa.binary()),
            "decimal": column([decimal.Decimal(n) / 100 for n in whole], pa.decimal128(20, 2)),
            "date": column([noon.date() + dt.timedelta(n) for n in whole], pa.date32()),
            "time": column([noon.time()] * ROWS, pa.time64("us")),
            "naive": column([noon + dt.timedelta(n) for n in whole], pa.timestamp("us")),
            "seconds": column([noon.replace(microsecond=0)] * ROWS, pa.timestamp("ms")),
            "zoned": column([noon] * ROWS, pa.timestamp("ns", "Europe/Berlin")),
            "duration": column([dt.timedelta(seconds=n) for n in whole], pa.duration("ms")),
            "list": column([[n, None] for n in whole], pa.list_(pa.int32())),
            "struct": column([{"a": n} for n in whole], pa.struct([("a", pa.int64())])),
            "map": column([[("k", n)] for n in whole], pa.map_(pa.string(), pa.int64())),
            "null": pa.nulls(ROWS),
            "int64 without values": pa.nulls(ROWS, pa.int64()),
            "a.b": column(whole, pa.int64(), None),
        }
    )


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("size", [1, 7, 16, 1000])
def test_columns_of_every_type(size: int, statistics: bool, tmp_path: Path) -> None:
    """A slice has the dtypes of the whole, also where no gap is in it, and all categories."""
    path = tmp_path / "rows.parquet"
    pq.write_table(of_all_kinds(), path, row_group_size=9, write_statistics=statistics)
    assert_reads_as_pandas(path, size, pd.read_parquet(path))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_frames_that_pandas_wrote(size: int, tmp_path: Path) -> None:
    """Its own types come back: nullable ones, Arrow's, categories in order, of the whole file."""
    whole = range(ROWS)
    written = pd.DataFrame(
        {
            "Int64": pd.array([None if n == 30 else n for n in whole], "Int64"),
            "UInt8": pd.array([None if n == 30 else n for n in whole], "UInt8"),
            "boolean": pd.array([None if n == 30 else n > 3 for n in whole], "boolean"),
            "Float32": pd.array([None if n == 30 else n / 8 for n in whole], "Float32"),
            "string": pd.array([None if n == 30 else f"t{n}" for n in whole], "string"),
            "arrow": pd.array([None if n == 30 else n for n in whole], "int64[pyarrow]"),
            "object": [None if n == 30 else f"t{n}" for n in whole],
            "ordered": pd.Categorical(
                [f"c{n % 3}" for n in whole], ["c9", "c2", "c0", "c1"], ordered=True
            ),
            "zoned": pd.date_range("2024-03-30", periods=ROWS, tz="Europe/Berlin"),
            "int": whole,
        },
        index=pd.Index([f"i{n}" for n in whole], name="key"),
    )
    path = tmp_path / "rows.parquet"
    written.to_parquet(path, row_group_size=9)
    assert_reads_as_pandas(path, size, pd.read_parquet(path))


def test_column_names_that_are_numbers(tmp_path: Path) -> None:
    """They are numbers in the frame again."""
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pandas(pd.DataFrame(np.eye(4))), path)
    assert list(pd.read_parquet(path).columns) == [0, 1, 2, 3]
    assert_reads_as_pandas(path, 3, pd.read_parquet(path))


@pytest.mark.parametrize(
    ("index", "name"),
    [(pd.Index([7, 8, 9], name="key"), "key"), (pd.Index(list("abc")), "__index_level_0__")],
)
def test_an_index_of_pandas_says_so(index: Any, name: str, tmp_path: Path) -> None:
    """It is marked, can be read all the same, and is a column then, not an index."""
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"x": [1, 2, 3]}, index=index).to_parquet(path)
    with inputs.survey(inputs.Source(str(path)), tmp_path) as survey:
        marked = [f.name for f in survey.schema if INDEX in (f.metadata or {})]
        assert survey.schema.metadata[READER] == b"parquet"
    assert marked == [name]
    source, [chunk] = planned(path, 10)
    table = inputs.read(source, chunk, ["x", name]).table
    assert list(table.to_pandas().columns) == ["x", name]


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_categories_are_those_of_the_whole_input(size: int, tmp_path: Path) -> None:
    """Row groups have their own, with some that no row has; pandas joins them in this order."""
    path = tmp_path / "rows.parquet"
    type_ = pa.dictionary(pa.int8(), pa.string())
    with pq.ParquetWriter(path, pa.schema([("c", type_)])) as writer:
        for words in (["y", "unused", "x"], ["q", "x"], [], ["x", "y", "a"]):
            places = pa.array([None, *range(len(words))] if words else [0], pa.int8())
            column = pa.DictionaryArray.from_arrays(places, words or ["z"])
            writer.write_table(pa.table({"c": column.filter(pa.array(_but_unused(column)))}))
    truth = pd.read_parquet(path)
    assert list(truth["c"].cat.categories) == ["y", "unused", "x", "q", "z", "a"]
    assert_reads_as_pandas(path, size, truth)


def _but_unused(column: pa.Array) -> list[bool]:
    return [value != "unused" for value in column.to_pylist()]


def test_more_categories_than_a_dictionary_page_has(tmp_path: Path) -> None:
    """What comes behind them is written as plain texts, and has its category all the same."""
    words = [f"{n * 7919 % 60_000:06}" + "w" * 30 for n in range(120_000)]
    path = tmp_path / "rows.parquet"
    table = pa.table({"c": pa.array(words).dictionary_encode(), "n": range(len(words))})
    pq.write_table(table, path, row_group_size=50_000)
    assert_reads_as_pandas(path, 40_000, pd.read_parquet(path))


def test_a_text_column_can_be_read_as_categories(tmp_path: Path) -> None:
    """They are sorted, as `astype("category")` does, and the same in each chunk."""
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"c": ["z", "b", None, "a", "b"]}), path)
    with inputs.survey(inputs.Source(str(path)), tmp_path) as survey:
        wanted = pa.schema([("c", pa.dictionary(pa.int8(), pa.string()))])
        source = survey.with_types(wanted, tmp_path)
    truth = pd.read_parquet(path).astype("category")
    for chunk in inputs.chunks(source, 2):
        part = truth.iloc[chunk.first : chunk.first + chunk.rows].reset_index(drop=True)
        pd.testing.assert_frame_equal(inputs.read(source, chunk, ["c"]).table.to_pandas(), part)
