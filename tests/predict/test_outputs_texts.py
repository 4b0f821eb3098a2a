"""CSV and JSON Lines: values read back as they were, and chunks' lines are joined by copying."""

from __future__ import annotations

import base64
import csv
import datetime
import decimal
import io
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.predict import outputs
from peers.predict.outputs import text_parts
from peers.predict.outputs.rendering import csv_header, csv_lines, json_lines
from peers.predict.spec import Manifest, schema_text
from tests.predict.test_outputs import (
    CHUNKS,
    SIZE,
    a_manifest,
    alone,
    read,
    write_part,
    write_parts,
)

ZURICH = ZoneInfo("Europe/Zurich")
NAIVE = datetime.datetime(2020, 1, 2, 3, 4, 5, 6)  # noqa: DTZ001  # as models have them
WHOLE = st.characters(exclude_categories=["Cs"])


def as_csv(table: pa.Table) -> bytes:
    """The whole file."""
    return csv_header(table.column_names) + b"".join(csv_lines(table))


def from_json(table: pa.Table) -> list[dict[str, Any]]:
    """What Python reads of the file; nothing but JSON is in it."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    lines = b"".join(json_lines(table)).decode().split("\n")
    assert lines.pop() == ""
    return [json.loads(line, parse_constant=refuse) for line in lines]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.none() | st.floats(), st.none() | st.text(WHOLE, max_size=8))))
def test_floats_and_texts_read_back_exactly(rows: list[tuple[float | None, str | None]]) -> None:
    """Every double and every text, with line breaks, quotes and NULs."""
    table = pa.table({
        "x": pa.array([x for x, _ in rows], pa.float64()),
        "text,\n": pa.array([text for _, text in rows], pa.string()),
    })  # fmt: skip
    stream = io.StringIO(as_csv(table).decode(), newline="")
    header, *found = csv.reader(stream)
    assert header == ["x", "text,\n"]
    assert [text for _, text in found] == [text or "" for _, text in rows]
    for (number, _), (x, _) in zip(found, rows, strict=True):
        assert number == "" if x is None else repr(float(number)) == repr(x)
    objects = from_json(table)
    assert [one["text,\n"] for one in objects] == [text for _, text in rows]
    for one, (x, _) in zip(objects, rows, strict=True):
        assert repr(one["x"]) == repr(x if x is not None and math.isfinite(x) else None)


TYPED = pa.table({
    "numbers": pa.array([0.1, math.nan, math.inf]),
    "narrow": pa.array([0.1, 1, 1e-40], pa.float32()),
    "decimals": [decimal.Decimal("1.10"), decimal.Decimal("-2.25"), None],
    "dates": [datetime.date(2020, 1, 2), None, datetime.date(1999, 12, 31)],
    "times": [datetime.time(1, 2, 3, 4), None, datetime.time(0)],
    "naive": [NAIVE, None, NAIVE + datetime.timedelta(days=1)],
    "zoned": [NAIVE.replace(tzinfo=ZURICH), None, NAIVE.replace(month=7, tzinfo=ZURICH)],
    "spans": [datetime.timedelta(1, 2, 3), None, -datetime.timedelta(hours=30, microseconds=5)],
    "flags": [True, None, False],
    "kinds": pa.array(["u", "v", "u"]).dictionary_encode(),
    "bytes": [b"\x00\xff", None, b""],
    "lists": [[0.5, math.nan], None, []],
    "dicts": [{"a": 'q"', "b": [b"\x01"]}, None, {"a": None, "b": None}],
})  # fmt: skip


def test_typed_values_read_back_from_csv() -> None:
    """As pandas reads them."""
    # before pandas 3, its default takes a double beside the right one for some digits
    exact: dict[str, Any] = {"float_precision": "round_trip"} if pd.__version__ < "3" else {}
    found = pd.read_csv(io.BytesIO(as_csv(TYPED)), **exact)
    assert str(found["numbers"].tolist()) == "[0.1, nan, inf]"
    assert found["narrow"].tolist() == TYPED["narrow"].to_pylist()
    assert found["decimals"].tolist()[:2] == [1.1, -2.25]
    assert found["flags"].tolist()[::2] == [True, False]
    assert found["kinds"].tolist() == ["u", "v", "u"]
    check_temporal(found)
    assert found["bytes"][0] == base64.b64encode(b"\x00\xff").decode()
    assert json.loads(found["lists"][0]) == [0.5, None]
    assert json.loads(found["dicts"][0]) == {"a": 'q"', "b": ["AQ=="]}


def test_typed_values_read_back_from_json() -> None:
    """The same from JSON Lines, decimals with all their digits."""
    found = pd.DataFrame(from_json(TYPED))
    assert str([repr(one) for one in found["numbers"][:1]]) == "['0.1']"
    assert found["narrow"].tolist() == TYPED["narrow"].to_pylist()
    check_temporal(found)
    assert found["bytes"].tolist()[::2] == ["AP8=", ""]
    assert found["lists"].tolist()[::2] == [[0.5, None], []]
    assert found["dicts"].tolist()[::2] == [{"a": 'q"', "b": ["AQ=="]}, {"a": None, "b": None}]
    first = b"".join(json_lines(TYPED.select(["decimals"]))).decode().splitlines()[0]
    assert json.loads(first, parse_float=decimal.Decimal)["decimals"] == decimal.Decimal("1.10")
    assert "1.10" in first


def check_temporal(found: pd.DataFrame) -> None:
    """Dates, times, zones and durations, of which pandas reads the texts."""
    for name, read_as in (
        ("dates", datetime.date.fromisoformat),
        ("times", datetime.time.fromisoformat),
        ("naive", datetime.datetime.fromisoformat),
        ("zoned", datetime.datetime.fromisoformat),
        ("spans", lambda one: pd.to_timedelta(one).to_pytimedelta()),
    ):
        expected = TYPED[name].to_pylist()
        assert [read_as(found[name][row]) for row in (0, 2)] == [expected[0], expected[2]], name
        assert pd.isna(found[name][1])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_lines_of_chunks_are_copied_and_not_made_again(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for those of chunks with rows alone, of an earlier type, or that were damaged since."""
    manifest = a_manifest(tmp_path, suffix)
    write_parts(manifest, {12}, lambda row: row)
    damaged = text_parts.text_path(manifest.folder, 3, Path(manifest.output))
    damaged.write_bytes(damaged.read_bytes().replace(b"id31", b"id13"))
    made = rendered(monkeypatch)
    isolated = alone(manifest, {12: 12})
    path = outputs.assemble(manifest, isolated).path
    assert made == [SIZE, SIZE]  # the second and the fourth
    assert read(path) == [
        {"row": row, "id": f"id{row}", "prediction": row} for row in range(SIZE * CHUNKS)
    ]
    write_part(manifest, 4, range(40, 50), [f"id{row}" for row in range(40, 50)], [0.5] * SIZE)
    made.clear()
    path = outputs.assemble(manifest, isolated).path
    assert made == [SIZE] * 4  # whole numbers are others' 1.0 now
    assert b"0.0" in path.read_bytes()
    assert [row["prediction"] for row in read(path)] == [*map(float, range(40)), *[0.5] * SIZE]


def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows are made into lines from now on, each time."""
    made: list[int] = []
    lines = text_parts.lines

    def noted(output: Path, table: pa.Table) -> Iterator[memoryview]:
        made.append(table.num_rows)
        return lines(output, table)

    monkeypatch.setattr("peers.predict.outputs.assembly.lines", noted)
    return made


@pytest.mark.parametrize("error", [OSError(18, "cross-device"), None])
def test_lines_are_joined_on_any_file_system(
    error: OSError | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel copies nothing, or only a little at a time."""
    manifest = a_manifest(tmp_path, ".csv")
    write_parts(manifest, set())
    expected = outputs.assemble(manifest, {}).path.read_bytes()
    copy: Any = os.copy_file_range

    def some(source: int, target: int, count: int) -> int:
        if error is not None:
            raise error
        return int(copy(source, target, min(count, 7)))

    monkeypatch.setattr(os, "copy_file_range", some)
    assert outputs.assemble(manifest, {}).path.read_bytes() == expected


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_carried_columns_keep_their_types_also_of_rows_alone(suffix: str, tmp_path: Path) -> None:
    """Categories, dates, JSON; the columns come after the id, before the predictions."""
    kept = pa.table({
        "id": pa.array([b"a", b"b", b"c"]),
        "kind": pa.array(["u", "v", "u"]).dictionary_encode(),
        "when": [datetime.date(2020, 1, 1)] * 3,
    })  # fmt: skip
    manifest = carrying(a_manifest(tmp_path, suffix), kept)
    write_part(
        manifest, 0, [0, 2], None, [{"p": 1, "q": "x"}, {"p": 2, "q": "y"}], kept.take([0, 2])
    )
    rows = kept.slice(1, 1)
    values = outputs.write_isolated_values(
        manifest.folder, 0, [1], outputs.IsolatedValues(rows, rows.slice(0, 0))
    )
    found = outputs.fit(
        manifest.folder, outputs.requested_columns(manifest), [[{"p": 0.5, "q": None}]]
    )
    path = outputs.assemble(
        manifest, {0: outputs.IsolatedPredictions([1], values, [found.table])}
    ).path
    if suffix == ".parquet":
        table = pa.parquet.read_table(path)
        assert table.column_names == ["row", "id", "kind", "when", "p", "q"]
        assert table.select(kept.column_names).equals(kept)
        assert table["p"].to_pylist() == [1.0, 0.5, 2.0]
    elif suffix == ".csv":
        assert path.read_text() == (
            "row,id,kind,when,p,q\n"
            "0,YQ==,u,2020-01-01,1.0,x\n1,Yg==,v,2020-01-01,0.5,\n2,Yw==,u,2020-01-01,2.0,y\n"
        )
    else:
        assert json.loads(path.read_text().splitlines()[1]) == {
            "row": 1, "id": "Yg==", "kind": "v", "when": "2020-01-01", "p": 0.5, "q": None
        }  # fmt: skip


def carrying(manifest: Manifest, kept: pa.Table) -> Manifest:
    """A run over these rows in one chunk, which carries all columns but the id along."""
    source = replace(
        manifest.input, rows=kept.num_rows, arrow_schema=schema_text(kept.schema)
    )  # fmt: skip
    carry = tuple(name for name in kept.column_names if name != "id")
    return replace(manifest, input=source, chunks=1, carry=carry)


def test_arrays_of_two_dimensions_are_lists(tmp_path: Path) -> None:
    """Wide ones and empty ones."""
    manifest = a_manifest(tmp_path, ".jsonl")
    manifest = replace(manifest, chunks=2, input=replace(manifest.input, rows=3))
    write_part(manifest, 0, [0, 1], ["a", "b"], np.array([[1, 2], [3, 4]]))
    write_part(manifest, 1, [2], ["c"], np.zeros((1, 0)))
    found = read(outputs.assemble(manifest, {}).path)
    assert [row["prediction"] for row in found] == [[1.0, 2.0], [3.0, 4.0], []]


def test_a_carried_column_of_json_is_json_again() -> None:
    """In JSON Lines it is a value, not a text; in CSV its text."""
    field = pa.field("tags", pa.string(), metadata={b"peers.type": b"json"})
    table = pa.table([pa.array(['{"a": [1, "ü"]}', None])], pa.schema([field]))
    assert from_json(table) == [{"tags": {"a": [1, "ü"]}}, {"tags": None}]
    assert as_csv(table).decode() == 'tags\n"{""a"": [1, ""ü""]}"\n\n'
