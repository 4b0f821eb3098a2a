"""Inputs that are out to harm: whatever stands in a row, the others are read, and read alike."""

from __future__ import annotations

import io
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
from peers.predict.errors import InputError, OutputError
from peers.predict.inputs.query import snapshot
from peers.predict.inputs.records import Marks, OpenQuotes, records
from peers.predict.models.plain_rows import plain_rows
from tests.predict.planned import planned

SIZES = (1, 3, 10_000)
WELL = 1100  # more than the types are told by


NUMBERS = {"id": pa.int64(), "x": pa.float64()}


def read_all(
    path: Path, size: int, columns: list[str], types: dict[str, pa.DataType] | None = None
) -> tuple[list[Any], dict[int, str]]:
    """All rows, and why some are bad, by row number."""
    source, chunks = planned(path, size, columns, "id", types)
    rows: list[Any] = []
    bad: dict[int, str] = {}
    for chunk in chunks:
        found = inputs.read(source, chunk, columns)
        bad |= {len(rows) + index: why for index, why in found.bad.items()}
        rows += found.table.to_pylist()
    return rows, bad


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("line", "is_bad"),
    [
        (b'0,5" pipe,1\n', False),
        (b'0,"it never ends,1\n', True),
        (b'0,"' + b"w" * 200_000 + b'",1\n', False),
        (b"0,\xff,1\n", False),  # a column that nobody wants
        (b"0,a,\xff\n", True),
        (b'0,"a"b,1\n', False),
        (b"0,a,1\r0,a,1\n", True),
        (b"99999999999999999999,a,1\n", True),
        (b"0,a\n", True),
        (b"   \n", True),
    ],
)
def test_a_strange_csv_row_takes_no_other_along(
    line: bytes, is_bad: bool, size: int, tmp_path: Path
) -> None:
    """Neither the rows that follow it, nor those of its chunk; nor is it read otherwise beside a
    bad row, and a quoted row far below does not end a quote that was left open.
    """
    wells = [b'%d,"text, %d",%d\n' % (n, n, n) for n in range(WELL)]
    lines = [*wells[:-1], line, b"7,a,none\n", wells[-1]]
    path = tmp_path / "rows.csv"
    path.write_bytes(b"id,s,x\n" + b"".join(lines))
    rows, bad = read_all(path, size, ["id", "x"], NUMBERS)
    assert len(rows) == WELL + 2
    assert set(bad) == ({WELL - 1, WELL} if is_bad else {WELL})
    wanted = [{"id": n, "x": n} for n in range(WELL)]
    assert rows[: WELL - 1] + rows[-1:] == wanted
    if not is_bad:
        assert rows[WELL - 1] == {"id": 0, "x": 1.0}


@pytest.mark.parametrize("seed", range(40))
def test_any_csv_is_read_alike_whatever_its_chunks(seed: int, tmp_path: Path) -> None:
    """No bytes make it raise, and the size of the chunks changes neither values nor verdicts."""
    chance = random.Random(seed)
    pieces = [b"a", b"1", b",", b",", b'"', b'""', b"\n", b"\n", b"\r\n", b"\r", b" ", b"\xff"]
    body = b"".join(chance.choices(pieces, k=400)) + b'\n1,"well, 2",3\n'
    path = tmp_path / "rows.csv"
    path.write_bytes(b"id,s,x\n" + body)
    first, *others = [read_all(path, size, ["id", "s", "x"]) for size in (1, 2, 5, 10_000)]
    assert first[0][-1]["s"] in {"well, 2", None}
    assert all(other == first for other in others)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "line",
    [
        b'{"id":0,"s":"\\ud800","x":1}',
        b'{"id":99999999999999999999,"s":"a","x":1}',
        b'{"id":0,"s":"a","x":' + b"[" * 200_000,
        b'{"id":0,"s":"a","x":true}',
        b'{"id":0,"s":"a","x":' + b"9" * 6000 + b"}",
    ],
)
def test_a_strange_json_line_takes_no_other_along(line: bytes, size: int, tmp_path: Path) -> None:
    """It alone is bad, whatever Python's own reader makes of it."""
    records = [{"id": n, "s": f"t{n}", "x": n / 2} for n in range(WELL)]
    lines = [json.dumps(record).encode() for record in records]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join([*lines, line, lines[0]]))
    types = NUMBERS | {"s": pa.string()}
    rows, bad = read_all(path, size, ["id", "s", "x"], types)
    assert set(bad) == {WELL}
    assert len(bad[WELL]) < 300
    assert rows[:WELL] + rows[-1:] == [*records, records[0]]


def test_zeros_and_ones_are_numbers(tmp_path: Path) -> None:
    """A JSON column that begins with them may hold 7 and 0.5 later: it holds no truth values."""
    values = [0, 1] * 500 + [7, 0.5]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"x": value}) + "\n" for value in values))
    rows, bad = read_all(path, 100, ["x"])
    assert not bad
    assert [row["x"] for row in rows] == values


def test_columns_must_be_told_apart_and_be_there(tmp_path: Path) -> None:
    """A Parquet name that comes twice is refused; so is a column that the input lacks."""
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]), path)
    with pytest.raises(InputError, match="names x twice"):
        planned(path, 1)
    pq.write_table(pa.table({"x": [1]}), path)
    source, [chunk] = planned(path, 1)
    with pytest.raises(InputError, match=r"no column y.*It has x"):
        inputs.read(source, chunk, ["y"])


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:sesame@h/d",
        "postgresql://u@h/d?password=sesame",
        "postgresql://u@h/d?sslpassword=sesame",
        "postgresql://u:sesame@h:port/d",
        "postgresql://u:open@sesame@h/d",
        "host=h password=sesame",
    ],
)
def test_no_password_is_shown(url: str) -> None:
    """Wherever in the URL it stands, and if the URL cannot be read at all."""
    try:
        shown = inputs.hidden(url)
    except InputError as error:
        shown = str(error)
    assert "sesame" not in shown


def test_a_query_has_the_types_that_the_server_says(database_url: str, tmp_path: Path) -> None:
    """Whatever its first rows hold; a query that fails, at once or midway, leaves no file."""
    url = url_of(database_url)
    query = """select n as id, case when n > 15000 then 'late' end as word,
        case when n > 15000 then 7 end as late, 'a:b' like '%:_' as truth, n / 4.0 as x,
        array[n, null]::numeric[] as list, jsonb_build_object('n', n) as json,
        '[1]'::json as more, date '2020-01-01' + n as day, '12:00'::time as at,
        timestamptz '2020-01-01 00:00Z' as stamp, gen_random_uuid() as uuid, '\\x00'::bytea as raw,
        inet '10.0.0.1' as place
        from generate_series(1, 20000) n order by n"""
    target = tmp_path / "query.parquet"
    assert snapshot(url, query, target) == 20_000
    table = pq.read_table(target)
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "id": "int64", "word": "string", "late": "int64", "truth": "bool", "x": "double",
        "list": "list<element: double>", "json": "string", "more": "string",
        "day": "date32[day]", "at": "time64[us]", "stamp": "timestamp[us, tz=UTC]",
        "uuid": "string", "raw": "binary", "place": "string",
    }  # fmt: skip
    last = table.slice(19_999).to_pylist()[0]
    assert (last["word"], last["late"], last["truth"], last["x"]) == ("late", 7, True, 5000.0)
    assert (last["list"], json.loads(last["json"])) == ([20000.0, None], {"n": 20000})
    failing = "select 1 / (15000 - n) as x from generate_series(1, 20000) n"
    with pytest.raises(InputError, match="division by zero"):
        snapshot(url, failing, tmp_path / "half.parquet")
    with pytest.raises(InputError, match="returns no columns"):
        snapshot(url, "create table t (n int)", tmp_path / "half.parquet")
    with pytest.raises(OutputError, match="cannot be written"):
        snapshot(url, "select 1 as x", tmp_path / "absent" / "query.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["query.parquet"]


def url_of(conninfo: str) -> str:
    """A URL for the connection string."""
    found = {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}
    made = URL.create(
        "postgresql", username=found.get("user"), password=found.get("password"),
        database=found.get("dbname"),
        query={key: found[key] for key in ("host", "port") if key in found},
    )  # fmt: skip
    return made.render_as_string(hide_password=False)


class Counting(io.BytesIO):
    """A file that knows how many lines were read of it."""

    lines = 0

    def readline(self, *arguments: Any) -> bytes:
        """One more."""
        self.lines += 1
        return super().readline(*arguments)


@pytest.mark.parametrize("line", [b'5",",x\n', b'"a\n', b'1,"b\n', b'"x"y,"z\n'])
def test_a_file_of_stray_quotes_is_not_read_again_and_again(line: bytes) -> None:
    """The lines read are a small multiple of those that are there."""
    stream = Counting(line * 5000)
    found = list(records(stream, OpenQuotes(stream, 2, Marks())))
    assert sum(span.bytes for span in found) == 5000 * len(line)
    assert stream.lines < 4 * 5000


def test_ids_are_what_they_were(tmp_path: Path) -> None:
    """Digits with zeros before them are a text; whole numbers stay whole."""
    path = tmp_path / "rows.csv"
    for ids in (["0042", "0043"], [*map(str, range(2000)), "0042"], ["7", "NA"], ["+7", "8"]):
        path.write_text("id,x\n" + "".join(f"{id_},1\n" for id_ in ids))
        rows, _ = read_all(path, 10_000, ["id", "x"])
        assert [row["id"] for row in rows] == ids
    path.write_text(f"id,x\n{2**53 + 1},1\n7,2\n")
    rows, _ = read_all(path, 10, ["id", "x"])
    assert [row["id"] for row in rows] == [2**53 + 1, 7]


def test_lists_and_objects_of_json_stay_what_they_are(tmp_path: Path) -> None:
    """For whoever takes rows as Python values; a key that comes late is a column, too."""
    records_ = [{"id": n, "v": [n, {"a": None}]} for n in range(WELL)]
    records_[-1]["late"] = 7
    records_[5]["v"] = "now a text"
    records_[6]["v"] = ""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records_))
    source, chunks = planned(path, 500, id_column="id")
    found = [
        row
        for chunk in chunks
        for row in plain_rows(inputs.read(source, chunk, ["id", "v", "late"]).table)
    ]
    assert [(row["id"], row["v"]) for row in found] == [(one["id"], one["v"]) for one in records_]
    assert [row["late"] for row in found] == [None] * (WELL - 1) + [7]


def test_a_csv_of_semicolons_is_told_so(tmp_path: Path) -> None:
    """Rather than that it lacks every column."""
    path = tmp_path / "rows.csv"
    path.write_text("id;x\n1;2\n")
    with pytest.raises(InputError, match="single column"):
        planned(path, 10)
