"""Inputs: every row is read exactly once, whatever the chunks; a bad one takes no other along."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL

from peers.predict import inputs
from peers.predict.errors import InputChanged, InputError
from peers.predict.inputs.forward import ForwardReader
from peers.predict.inputs.query import snapshot
from peers.predict.spec import Chunk, InputRef
from tests.predict.planned import planned

ROWS = 500
SIZES = [1, 7, 100, 10_000]


def read_all(
    path: Path,
    size: int,
    columns: list[str],
    id_column: str | None = "id",
    types: dict[str, pa.DataType] | None = None,
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """All rows and the reasons of the bad ones by row number, read chunk by chunk."""
    source, chunks = planned(path, size, columns, id_column, types)
    rows: list[dict[str, Any]] = []
    bad: dict[int, str] = {}
    assert source.rows == sum(chunk.rows for chunk in chunks) > 0
    for chunk in chunks:
        assert chunk.first == len(rows)
        assert chunk.rows <= size
        found = inputs.read(source, chunk, columns)
        assert found.table.column_names == columns
        assert found.table.num_rows == chunk.rows
        rows += found.table.to_pylist()
        bad |= {chunk.first + index: why for index, why in found.bad.items()}
    return rows, bad


def some_rows() -> list[dict[str, Any]]:
    """Texts with quotes, commas and line breaks, and numbers that are whole at first."""
    chance = random.Random(3)
    words = ["plain", 'say "so"', "a,b", "two\nlines", "ends in \r\n", "ünïcode"]
    return [
        {"id": number, "x": number + (0.5 if number > 300 else 0), "word": chance.choice(words)}
        for number in range(ROWS)
    ]


@pytest.mark.parametrize("size", SIZES)
def test_csv_with_quoted_line_breaks_and_bad_rows(size: int, tmp_path: Path) -> None:
    """All well rows come as they were written; bad ones, and only these, with their reasons."""
    rows, path = some_rows(), tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "x", "word"])
        for row in rows:
            match row["id"]:
                case 50:
                    stream.write("50,1.5\n")
                case 51:
                    stream.write("51,many,word\n")
                case _:
                    writer.writerow(row.values())
    found, bad = read_all(path, size, ["word", "id", "x"], types={"x": pa.float64()})
    assert bad.keys() == {50, 51}
    assert "2 fields" in bad[50]
    assert "'many'" in bad[51]
    assert found[51] == {"word": "word", "id": 51, "x": None}
    assert [row for row in found if row["id"] not in {None, 51}] == [
        {"word": row["word"], "id": row["id"], "x": row["x"]}
        for row in rows
        if row["id"] not in {50, 51}
    ]


@pytest.mark.parametrize("size", SIZES)
def test_json_lines_with_broken_lines_and_missing_keys(size: int, tmp_path: Path) -> None:
    """A line that is no JSON object is bad; a missing key is only null; blanks don't count."""
    rows, path = some_rows(), tmp_path / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    lines[10], lines[20], lines[30] = b'{"id": 10, ', b"\xff\xfe", b"[1, 2]"
    lines[40] = b'{"id": 40, "word": "no x"}'
    path.write_bytes(b"\n".join([*lines[:5], b"", *lines[5:]]) + b"\n")
    found, bad = read_all(path, size, ["id", "x"])
    assert bad.keys() == {10, 20, 30}
    assert found[40] == {"id": 40, "x": None}
    assert [row for row in found if row["x"] is not None] == [
        {"id": row["id"], "x": row["x"]} for row in rows if row["id"] not in {10, 20, 30, 40}
    ]


@pytest.mark.parametrize("size", SIZES)
def test_parquet_of_several_row_groups(size: int, tmp_path: Path) -> None:
    """However many rows a group has, all are read, and no chunk has more than it should."""
    for group in (7, 130):
        path = tmp_path / f"rows-{group}.parquet"
        pq.write_table(pa.Table.from_pylist(some_rows()), path, row_group_size=group)
        found, bad = read_all(path, size, ["x", "id"])
        assert not bad
        assert found == [{"x": row["x"], "id": row["id"]} for row in some_rows()]


@pytest.mark.parametrize(
    ("groups", "size", "cut"),
    [
        ([10, 10], 10, [10, 10]),
        ([10, 10], 4, [4, 3, 3, 4, 3, 3]),
        ([10, 10, 10], 25, [20, 10]),
        ([1, 1, 1, 7, 1], 3, [3, 3, 2, 2, 1]),
        ([4, 0, 4], 100, [8]),
    ],
)
def test_a_chunk_begins_and_ends_with_row_groups_where_it_can(
    groups: list[int], size: int, cut: list[int], tmp_path: Path
) -> None:
    """A group is cut only if it is larger than a chunk, and then into even pieces."""
    path = tmp_path / "rows.parquet"
    with pq.ParquetWriter(path, pa.schema([("x", pa.int64())])) as writer:
        for rows in groups:
            writer.write_table(pa.table({"x": pa.array(range(rows), pa.int64())}))
    _, chunks = planned(path, size)
    assert [chunk.rows for chunk in chunks] == cut
    assert [chunk.first for chunk in chunks] == [sum(cut[:place]) for place in range(len(cut))]


@pytest.mark.parametrize("group_rows", [1000, 90, 1])
def test_a_parquet_file_gives_any_rows_in_any_order(group_rows: int, tmp_path: Path) -> None:
    """Forward, again, back, across pieces and groups; what is asked for, in the columns' order."""
    path = tmp_path / "rows.parquet"
    table = pa.table({"a": range(1000), "b": range(0, -1000, -1)})
    pq.write_table(table, path, row_group_size=group_rows)
    reader = ForwardReader(str(path), ["b", "a"])
    dice = random.Random(7)
    asked = 0
    for _ in range(300):
        first = dice.randrange(1000)
        count = dice.randint(1, min(200, 1000 - first))
        table = reader.rows(first, count)
        assert table.column_names == reader.columns == ["b", "a"]
        assert table.column("a").to_pylist() == list(range(first, first + count))
        asked += count
    assert asked > 0
    with pytest.raises(InputError, match="fewer rows"):
        reader.rows(990, 20)
    assert reader.rows(0, 1).column("a").to_pylist() == [0]


def test_parquet_is_decoded_once_going_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large its groups, and however small the chunks; a new start is for going back, and
    for groups that nobody asks for.
    """
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": range(1000)}), path, row_group_size=200)
    starts = 0
    start = ForwardReader._start

    def counted(self: ForwardReader, first: int, piece: int) -> pa.RecordBatch:
        nonlocal starts
        starts += 1
        return start(self, first, piece)

    monkeypatch.setattr(ForwardReader, "_start", counted)
    reader = ForwardReader(str(path), ["a"])
    for first in [*range(0, 1000, 50), 950]:
        assert reader.rows(first, 50).num_rows == 50
    assert starts == 1
    reader.rows(0, 50)
    assert starts == 2
    reader.rows(150, 50)
    assert starts == 2
    reader.rows(650, 50)
    assert starts == 3


def test_memory_does_not_grow_with_what_was_read(tmp_path: Path) -> None:
    """It holds a chunk, and a piece of each column, however many groups have been read."""
    path, rows = tmp_path / "rows.parquet", 1 << 19
    numbers = random.Random(1).randbytes(8 * rows)
    pq.write_table(
        pa.table({"x": pa.Array.from_buffers(pa.int64(), rows, [None, pa.py_buffer(numbers)])}),
        path, row_group_size=rows // 8, use_dictionary=False,
    )  # fmt: skip
    source, chunks = planned(path, 1 << 13)
    before = pa.total_allocated_bytes()
    held = []
    for chunk in chunks:
        inputs.read(source, chunk, ["x"])
        held.append(pa.total_allocated_bytes() - before)
    assert len(held) == 64
    assert max(held) < len(numbers) / 4


def three_rows(path: Path) -> tuple[InputRef, Chunk]:
    """An input of three rows, and its only chunk."""
    pq.write_table(pa.table({"x": [1, 2, 3]}), path)
    source, [chunk] = planned(path, 10)
    return source, chunk


@pytest.mark.parametrize("how", ["grown", "rewritten", "atomic_write"])
def test_an_input_that_changes_under_way_is_noticed(how: str, tmp_path: Path) -> None:
    """By its size, its time or its identity; the remedy says how to go on."""
    path = tmp_path / "rows.parquet"
    source, chunk = three_rows(path)
    assert inputs.read(source, chunk, ["x"]).table.num_rows == 3
    if how == "grown":
        pq.write_table(pa.table({"x": [1, 2, 3, 4] * 100}), path)
    elif how == "rewritten":
        pq.write_table(pa.table({"x": [3, 2, 1]}), path)
    else:
        other = tmp_path / "other"
        pq.write_table(pa.table({"x": [7, 8, 9]}), other)
        other.replace(path)
    with pytest.raises(InputChanged, match="starts a new run"):
        inputs.read(source, chunk, ["x"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.xlsx", b"x", "The known formats are"),
        ("rows.csv", b"", "header"),
        ("rows.csv", b"a,b\n", "no rows"),
        ("rows.parquet", b"PAR1 and then nothing", "cannot be read as a Parquet file"),
        ("rows.jsonl", b"\n\n", "no rows"),
    ],
)
def test_an_input_that_is_none_is_refused(
    name: str, content: bytes, says: str, tmp_path: Path
) -> None:
    """Before anything else happens, with what is wrong."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        planned(path, 10)


def test_an_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(InputError, match=r"missing\.csv"):
        planned(tmp_path / "missing.csv", 10)


def test_a_query_is_streamed_into_a_snapshot(database_url: str, tmp_path: Path) -> None:
    """Every row comes in order, numerics as doubles; errors are the database's own sentences."""
    query = "select n as id, n / 4.0 as x, 'a:b' as word from generate_series(1, 25000) n"
    target = tmp_path / "input.parquet"
    parts: dict[str, Any] = conninfo_to_dict(database_url)
    host = {"host": parts.pop("host")}  # a socket's folder has no place in a URL but here
    url = URL.create(
        "postgresql", parts.get("user"), parts.get("password"), None,
        int(parts.get("port", 5432)), parts["dbname"], host,
    ).render_as_string(hide_password=False)  # fmt: skip
    assert snapshot(url, query, target) == 25_000
    found = pq.read_table(target)
    assert found.column("id").to_pylist() == list(range(1, 25_001))
    assert found.column("x")[4].as_py() == 1.25
    with pytest.raises(InputError, match="does not exist"):
        snapshot(url, "select * from nowhere", target)
    assert "secret" not in inputs.hidden("postgresql://me:secret@host/db")
