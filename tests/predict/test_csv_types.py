"""CSV columns: the types and values of `pandas.read_csv` on the whole file, however it is cut."""

from __future__ import annotations

import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.predict.inputs import text_blocks
from peers.predict.inputs.text_survey import TextSurvey

WHOLE = ["0", "1", "-1", "42", "0042", "+5", " 7", "8 ", "9007199254740993"]
EDGES = ["9223372036854775807", "-9223372036854775808", "-9223372036854775809"]
LARGE = ["9223372036854775808", "18446744073709551614", "18446744073709551615"]
BEYOND = ["18446744073709551616", "99999999999999999999", "-99999999999999999999"]
NUMBERS = [
    "0.1",
    "1.",
    ".5",
    "-0.0",
    "1e5",
    "2E+3",
    "123456789.123456789",
    "0.1000000000000000055",
]
ODD_NUMBERS = ["inf", "-Infinity", "INF", "1e400", "1e-400", "3.14159265358979323846264338"]
TRUTHS = ["True", "TRUE", "true", "False", "FALSE", "false"]
GAPS = ["", "NA", "NULL", "None", "n/a", "nan", "#N/A", "<NA>", "NaN", "-1.#IND"]
TEXTS = ["V0001", "0x10", "1_000", "1,000", " True", "yes", "NaT", "1d5", "1e", "x y", "ünï", '5"']
SORTS = [WHOLE, EDGES, LARGE, BEYOND, NUMBERS, ODD_NUMBERS, TRUTHS, GAPS, TEXTS]


def columns() -> st.SearchStrategy[list[str]]:
    """Columns of some sorts of values: mostly of one or two, in long runs."""
    runs = st.sampled_from(SORTS).flatmap(
        lambda sort: st.lists(st.sampled_from(sort), min_size=1, max_size=5)
    )
    return st.lists(runs, min_size=1, max_size=5).map(lambda found: list(chain(*found)))


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    """Columns of the same length."""
    found = draw(st.lists(columns(), min_size=2, max_size=4))
    rows = max(map(len, found))
    return [(column * rows)[:rows] for column in found]


def quoted(value: str, mark: str = '"') -> str:
    """The field of a CSV."""
    return f"{mark}{value.replace(mark, mark * 2)}{mark}" if set(value) & {",", mark} else value


def read(path: Path, **asked: pa.DataType) -> pd.DataFrame:
    """The input as a run reads it, as a frame with the gaps of `read_csv`."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        survey = TextSurvey(path, None, Path(folder))
        schema = pa.schema(
            [pa.field(field.name, asked.get(field.name, field.type)) for field in survey.schema]
        )
        (file,) = survey.with_types(schema, Path(folder)).files
        survey.close()
        table = pq.read_table(file.path)
    assert table.column("peers.problem").null_count == table.num_rows
    return pd.DataFrame({field.name: series(table.column(field.name)) for field in schema})


def series(column: pa.ChunkedArray) -> pd.Series[Any]:
    """A column as `read_csv` would have it."""
    if column.null_count == 0 and not pa.types.is_string(column.type):
        return column.to_pandas()
    if pa.types.is_floating(column.type):
        return column.to_pandas()
    return pd.Series(column.to_pylist(), dtype=object)


def same(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Dtypes and values, to the last bit; a text's dtype is object in one version, str in another,
    and numbers that no 64 bits hold are texts here.
    """
    assert list(ours.columns) == list(theirs.columns)
    for name in theirs.columns:
        mine, other = ours[name], theirs[name]
        if other.dtype.kind in "iufb":
            assert mine.dtype == other.dtype, (name, mine.tolist(), other.tolist())
            assert mine.to_numpy().tobytes() == other.to_numpy().tobytes() or all(
                (pd.isna(a) and pd.isna(b)) or (a == b and str(a) == str(b))
                for a, b in zip(mine, other, strict=True)
            ), (name, mine.tolist(), other.tolist())
            continue
        for a, b in zip(mine, other, strict=True):
            if type(b) is int:
                assert int(a) == b
            else:
                assert (a is None and pd.isna(b)) or (type(a) is type(b) and a == b), (name, a, b)


def written(path: Path, table: list[list[str]]) -> None:
    """The table as a CSV."""
    lines = [",".join(f"c{number}" for number in range(len(table)))]
    lines += [",".join(map(quoted, row)) for row in zip(*table, strict=True)]
    path.write_text("\n".join(lines) + "\n")


@settings(max_examples=60, deadline=None)
@given(table=tables(), block=st.sampled_from([1, 24, 1 << 20]))
def test_types_and_values_are_those_of_pandas(table: list[list[str]], block: int) -> None:
    """Whatever the columns hold, and however few rows are looked at together."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        written(path, table)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_blocks, "BLOCK", block)
            ours = read(path)
        same(ours, pd.read_csv(path, low_memory=False))


@pytest.mark.parametrize("second", ["3", "3.5", "-1"])
@pytest.mark.parametrize("third", ["-0.5", "-2.5", "1e300"])
def test_beside_a_number_of_64_bits_doubles_do_not_show_what_pandas_infers(
    second: str, third: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of 3 and -0.5 is of doubles, but the column is of texts."""
    path = tmp_path / "rows.csv"
    written(path, [["9223372036854775808", second, third], ["1"] * 3])
    monkeypatch.setattr(text_blocks, "BLOCK", 10)
    same(read(path), pd.read_csv(path, low_memory=False))
