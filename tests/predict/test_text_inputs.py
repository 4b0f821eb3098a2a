"""Text inputs as people have them: options, headers, compression, documents, notes."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peers.predict.errors import InputError
from peers.predict.inputs import text_blocks
from peers.predict.inputs.column_options import ColumnOptions
from peers.predict.inputs.column_types import decide
from peers.predict.inputs.text_options import NA_VALUES, TextOptions
from peers.predict.inputs.text_pandas import PandasReader
from peers.predict.inputs.text_survey import TextSurvey
from peers.predict.models.plain_rows import plain_rows
from peers.predict.signature import Feature, Signature


def looked_through(path: Path, **options: Any) -> TextSurvey:
    """The survey of a file without ids."""
    return TextSurvey(path, None, path.parent / "scratch", TextOptions(**options))


def settled(survey: TextSurvey, **types: pa.DataType) -> pa.Table:
    """All rows, with the reasons of the bad ones; `types` are asked for."""
    folder = survey._path.parent / "run"
    folder.mkdir(exist_ok=True)
    fields = [
        pa.field(field.name, types[field.name]) if field.name in types else field
        for field in survey.schema
    ]
    (file,) = survey.with_types(pa.schema(fields), folder).files
    return pq.read_table(file.path)


def good(survey: TextSurvey, **types: pa.DataType) -> list[dict[str, Any]]:
    """All rows, none of which is bad."""
    table = settled(survey, **types)
    assert table.column("peers.problem").null_count == table.num_rows
    rows: list[dict[str, Any]] = table.drop_columns(["peers.problem"]).to_pylist()
    return rows


def test_the_gaps_are_those_of_pandas() -> None:
    """Of the installed version."""
    from pandas._libs.parsers import STR_NA_VALUES

    assert NA_VALUES == STR_NA_VALUES


OPTIONS: list[tuple[str, bytes, dict[str, Any], dict[str, Any]]] = [
    ("semicolons", b"a;b\n1,5;x\n2;y\n", {"separator": ";", "decimal": ","},
     {"sep": ";", "decimal": ","}),
    ("thousands", b'a,b\n"1,000",1\n"20",2\n', {"thousands": ","}, {"thousands": ","}),
    ("quote", b"a,b\n'1,5',2\n'it''s',3\n", {"quote": "'"}, {"quotechar": "'"}),
    ("tab", b"a\tb\n1\t2\n", {"separator": "\\t"}, {"sep": "\t"}),
    ("latin-1", "a,é\n1,ü\n".encode("latin-1"), {"encoding": "latin-1"}, {"encoding": "latin-1"}),
    ("utf-8 mark", b"\xef\xbb\xbfa,b\r\n1,x\r\n", {}, {}),
    ("utf-16 mark", "a,b\n1,ü\n".encode("utf-16"), {}, {"encoding": "utf-16"}),
    ("na values", b"a,b\n-,x\n1,NA\n", {"na_values": ("-",)}, {"na_values": ["-"]}),
    ("numeric na", b"a,b\n-999,x\n1.5,y\n", {"na_values": ("-999",)}, {"na_values": ["-999"]}),
    ("no default na", b"a,b\nNA,\nDE,x\n", {"default_na": False}, {"keep_default_na": False}),
    ("line break in the header", b'"a\nb",c\n1,2\n', {}, {}),
    ("names that come twice", b"x,x,,y,\n1,2,3,4,5\n", {}, {}),
    ("index", b",a\n0,1.5\n1,2.5\n", {}, {}),
    ("blank lines at the end", b"a,b\n1,2\n\n\r\n\n", {}, {}),
    ("no last line end", b"a,b\n1,2\n3,4", {}, {}),
    ("one column with blanks", b"a\n1\n\n \n2\n", {}, {}),
    ("line breaks in quotes", b'a,b\n"x\r\ny",1\n"z ""q""",2\n', {}, {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "ours", "theirs"), OPTIONS, ids=[o[0] for o in OPTIONS]
)
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_a_csv_is_what_pandas_makes_of_it(
    name: str, content: bytes, ours: dict[str, Any], theirs: dict[str, Any], block: int,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Columns, types and values, with the same options."""
    monkeypatch.setattr(text_blocks, "BLOCK", block)
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    frame = pd.read_csv(path, **theirs)
    rows = [
        {key: None if pd.isna(value) else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]
    survey = looked_through(path, **ours)
    assert good(survey) == rows
    assert survey.digest != looked_through(path, **ours | {"na_values": ("?",)}).digest
    assert (survey.schema.field(0).metadata.get(b"peers.index") == b"1") == (name == "index")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a;b\n1,5;2\n", r"--csv-separator ';'.*--csv-decimal ','"),
        (b"a\tb\n1\t2\n", "--csv-separator tab"),
        ("a,é\n1,2\n".encode("latin-1"), "--encoding latin-1"),
        ("a,b\n1,2\n".encode("utf-16-le"), "--encoding utf-16-le"),
        (b"a,b\n0,1,2\n1,3,4\n", "3 fields, but its header has 2"),
        (b"a\r1\r2\r", "carriage return"),
        (b"\n\n", "is empty"),
    ],
)
def test_a_csv_that_needs_an_option_says_which(content: bytes, says: str, tmp_path: Path) -> None:
    """Rather than to read it wrongly."""
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        looked_through(path)
    assert re.search(says, str(refused.value))


def test_options_are_checked() -> None:
    """Each by name."""
    for options in ({"separator": "::"}, {"decimal": "·"}, {"separator": '"'}, {"encoding": "x"}):
        with pytest.raises(InputError):
            TextOptions(**options)  # type: ignore[arg-type]  # one of each


PACKED: list[tuple[str, Callable[[bytes], bytes]]] = [
    (".gz", gzip.compress),
    (".bz2", bz2.compress),
    (".xz", lzma.compress),
    (".zst", lambda raw: pa.compress(raw, codec="zstd", asbytes=True)),
]


@pytest.mark.parametrize(("suffix", "packed"), PACKED)
def test_a_compressed_file_is_read_as_what_is_in_it(
    suffix: str, packed: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    """Also of several members, as parallel packers write them; one that is cut off is refused."""
    halves = [b"a,b\n" + b"1,x\n" * 5000, b"2,y\n" * 5000]
    path = tmp_path / f"rows.csv{suffix}"
    path.write_bytes(b"".join(map(packed, halves)))
    rows = good(looked_through(path))
    assert rows == [{"a": 1, "b": "x"}] * 5000 + [{"a": 2, "b": "y"}] * 5000
    path.write_bytes(packed(b"".join(halves))[:-5])
    with pytest.raises(InputError, match="cannot be decompressed"):
        looked_through(path)
    lines = tmp_path / f"rows.jsonl{suffix}"
    lines.write_bytes(packed(b'{"a": 1}\n{"a": 2}\n'))
    assert good(looked_through(lines)) == [{"a": 1}, {"a": 2}]


def test_a_value_that_is_not_of_the_type_asked_for_is_a_bad_row(tmp_path: Path) -> None:
    """With its reason; the others are what they would be without it."""
    path = tmp_path / "rows.csv"
    path.write_text("x\n" + "".join(f"{n / 10}\n" for n in range(2000)) + "V0001\nNA\n7.25\n")
    survey = looked_through(path)
    assert survey.schema.field("x").type == pa.string()
    assert survey.notes["x"] == (
        "text, because 1 of 2,002 values is not of the type number; the first is row 2000: "
        "'V0001'; --types x=number makes these rows dead"
    )
    table = settled(survey, x=pa.float64())
    assert table.column("x").to_pylist() == [n / 10 for n in range(2000)] + [None, None, 7.25]
    whys = table.column("peers.problem").to_pylist()
    assert [(row, why) for row, why in enumerate(whys) if why] == [
        (2000, "the column 'x' holds 'V0001', which is not a number")
    ]


ASKED: list[tuple[pa.DataType, list[str], list[Any]]] = [
    (pa.string(), ["01067", "1", "NA"], ["01067", "1", None]),
    (pa.int64(), ["0042", "+7", "3.0", "-9223372036854775808"], [42, 7, 3, -(1 << 63)]),
    (pa.int8(), ["1", "300", "x"], [1, ..., ...]),
    (pa.float32(), ["0.5", "inf", "1_0"], [0.5, float("inf"), ...]),
    (pa.bool_(), ["TRUE", "0", "yes"], [True, False, ...]),
    (pa.dictionary(pa.int32(), pa.string()), ["a", "NA", "a"], ["a", None, "a"]),
    (pa.dictionary(pa.int32(), pa.int64()), ["1", "x", "1"], [1, ..., 1]),
    (pa.date32(), ["2026-01-31", "2026-02-30"], ["2026-01-31", ...]),
    (pa.timestamp("us"), ["2026-01-31 12:00", "2026-01-31T12:00Z"],
     ["2026-01-31 12:00:00", ...]),
    (pa.timestamp("us", "UTC"), ["2026-01-31T12:00+01:00", "?"],
     ["2026-01-31 11:00:00+00:00", ...]),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "texts", "values"), ASKED)
@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_texts_become_what_is_asked_for(
    asked: pa.DataType, texts: list[str], values: list[Any], format_: str, tmp_path: Path
) -> None:
    """Or bad rows (...), whatever the file says of itself."""
    path = tmp_path / f"rows.{format_}"
    if format_ == "csv":
        path.write_text("n,x\n" + "".join(f"1,{text}\n" for text in texts))
    else:
        records = [{"n": 1, "x": None if text == "NA" else text} for text in texts]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    table = settled(looked_through(path), x=asked)
    is_kept = not pa.types.is_dictionary(asked)  # Parquet keeps the values of categories
    assert table.schema.field("x").type == asked or not is_kept
    whys = table.column("peers.problem").to_pylist()
    assert [index for index, why in enumerate(whys) if why] == [
        index for index, value in enumerate(values) if value is ...
    ]
    found = [None if value is None else value for value in table.column("x").to_pylist()]
    wanted = [None if value is ... else value for value in values]
    is_time = pa.types.is_temporal(asked)
    assert [str(one) if is_time and one else one for one in found] == wanted


JSONS: list[tuple[str, list[Any], pa.DataType, bytes | None]] = [
    ("texts of digits", ["01067", "1"], pa.string(), None),
    ("large whole", [(1 << 53) + 1, 7], pa.int64(), None),
    ("gaps and large whole", [None, (1 << 53) + 1], pa.int64(), None),
    ("unsigned", [(1 << 64) - 1, 0], pa.uint64(), None),
    ("beyond 64 bits", [1 << 70, -1], pa.string(), b"json"),
    ("booleans", [True, None, False], pa.bool_(), None),
    ("numbers", [1, 2.5, None], pa.float64(), None),
    ("late texts", [None] * 3000 + ["a"], pa.string(), None),
    ("empty texts", ["", None, "x"], pa.string(), None),
    ("a boolean among numbers", [1, True, 0.5], pa.string(), b"json"),
    ("a number among texts", ["a", 5], pa.string(), b"json"),
    ("lists", [[1, {"a": None}], None, "x"], pa.string(), b"json"),
]


@pytest.mark.parametrize(("name", "values", "kind", "is_json"), JSONS, ids=[j[0] for j in JSONS])
def test_json_stays_what_it_is(
    name: str, values: list[Any], kind: pa.DataType, is_json: bytes | None, tmp_path: Path
) -> None:
    """Each value comes back exactly, whatever else its column holds; what mixes kinds is said."""
    path = tmp_path / "rows.jsonl"
    rows = [{"n": index, "x": value} for index, value in enumerate(values)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    survey = looked_through(path)
    field = survey.schema.field("x")
    assert (field.type, (field.metadata or {}).get(b"peers.type")) == (kind, is_json)
    table = settled(survey).select(["n", "x"]).cast(survey.schema.remove_metadata())
    found = plain_rows(pa.table(table.columns, schema=survey.schema))
    assert [(type(row["x"]), row["x"]) for row in found] == [
        (float if kind == pa.float64() and value is not None else type(value), value)
        for value in values
    ]
    assert ("x" in survey.notes) == (is_json is not None or name == "gaps and large whole")


def test_a_key_that_comes_late_is_a_column(tmp_path: Path) -> None:
    """In the order of pandas' DataFrame, whose gaps are those of the rows before."""
    path = tmp_path / "rows.jsonl"
    rows = [{"a": 1}] * 20_000 + [{"b": "x", "a": 2}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) * 1)
    survey = looked_through(path)
    assert survey.schema.names == list(pd.DataFrame(rows).columns) == ["a", "b"]
    assert good(survey)[-2:] == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]


ROWS = [{"a": n, "b": "é\n[{" * (n % 3)} for n in range(25_000)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_an_array_of_objects_is_rows(indent: int | None, suffix: str, tmp_path: Path) -> None:
    """Under either suffix, also when it is printed over many lines."""
    path = tmp_path / f"rows{suffix}"
    path.write_text(json.dumps(ROWS, indent=indent))
    assert good(looked_through(path)) == ROWS


def test_objects_printed_over_many_lines_are_rows(tmp_path: Path) -> None:
    """One after the other, as jq writes them."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row, indent=2) for row in ROWS[:500]))
    assert good(looked_through(path)) == ROWS[:500]
    path.write_text(json.dumps({"a": 1, "b": "x"}, indent=2))
    assert good(looked_through(path)) == [{"a": 1, "b": "x"}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[{"a": 1}, {"a": 2', "beyond character"),
        ('[{"a": 1} {"a": 2}]', "expected"),
        ('[{"a": 1}] 7', "something follows"),
        ("[]", "no rows"),
        (json.dumps({"x": {"0": 1}, "y": {"0": 2}}), "single JSON object"),
        (json.dumps({"columns": ["x"], "data": [[1]]}, indent=1), "single JSON object"),
    ],
)
def test_a_document_that_is_no_rows_is_refused(content: str, says: str, tmp_path: Path) -> None:
    """Before anything is submitted."""
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(InputError, match=says):
        looked_through(path)


def test_elements_that_are_no_objects_are_bad_rows(tmp_path: Path) -> None:
    """They take no other along."""
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1}, 7, {"a": 2}, null]')
    table = settled(looked_through(path))
    assert table.column("a").to_pylist() == [1, None, 2, None]
    whys = table.column("peers.problem").to_pylist()
    assert [why is None for why in whys] == [True, False, True, False]


def test_a_file_is_read_once_unless_a_type_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot is made while the file is looked through."""
    monkeypatch.setattr(text_blocks, "BLOCK", 1000)
    conversions: list[str] = []
    convert = TextSurvey._convert

    def counted(self: TextSurvey, *arguments: Any) -> None:
        conversions.append(self._path.name)
        convert(self, *arguments)

    monkeypatch.setattr(TextSurvey, "_convert", counted)
    plain, late = tmp_path / "plain.csv", tmp_path / "late.csv"
    body = "".join(f"{n},{n / 4},w{n}\n" for n in range(2000))
    plain.write_text("a,b,c\n" + body)
    late.write_text("a,b,c\n" + body + "x,1,2\n")
    assert len(good(looked_through(plain))) == 2000
    assert conversions == []
    assert good(looked_through(late))[0] == {"a": "0", "b": 0.0, "c": "w0"}
    assert conversions == ["late.csv"]


@pytest.mark.parametrize("harm", ["none", "cut", "types", "input"])
def test_a_snapshot_is_used_again_only_if_it_is_the_same(harm: str, tmp_path: Path) -> None:
    """It must be whole, of this input and in these types."""
    path, target = tmp_path / "rows.csv", tmp_path / "run" / "input.parquet"
    path.write_text("x\n1\n2\n")
    good(looked_through(path))
    before = target.stat().st_ino
    if harm == "cut":
        target.write_bytes(target.read_bytes()[:-20])
    elif harm == "input":
        path.write_text("x\n1\n3\n")
    asked = {"x": pa.float64()} if harm == "types" else {}
    survey = looked_through(path)
    assert [row["x"] for row in good(survey, **asked)] == [1, 3 if harm == "input" else 2]
    assert (target.stat().st_ino == before) == (harm == "none")
    survey.close()
    assert not list(tmp_path.glob("scratch/*"))


def test_zeros_that_are_lost_are_said(tmp_path: Path) -> None:
    """As pandas reads them, unless a text is asked for."""
    path = tmp_path / "rows.csv"
    path.write_text("zip,n\n10115,1\n01067,2\n")
    survey = looked_through(path)
    assert "row 1 holds 01067; --types zip=text" in survey.notes["zip"]
    assert [row["zip"] for row in good(survey)] == [10115, 1067]
    assert [row["zip"] for row in good(survey, zip=pa.string())] == ["10115", "01067"]


def test_a_carried_column_keeps_its_zeros(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wherever in the file they come; other carried numbers, and features, stay numbers."""
    monkeypatch.setattr(text_blocks, "BLOCK", 10)
    path = tmp_path / "rows.csv"
    path.write_text("zip,n,x\n10115,1,7\n,2,8\n01067,3,09\n")
    survey = TextSurvey(path, None, tmp_path / "scratch", carry=["zip", "n"])
    signature = Signature(features=(Feature("x"),))
    options = ColumnOptions("m", carry=["zip", "n"])
    decision = decide(signature, survey.schema, options, survey.notes)
    assert decision.schema.types == [pa.int64(), pa.string(), pa.int64()]
    assert decision.columns[1].note == "not a feature; text, because a value is 01067"
    (file,) = survey.with_types(decision.schema, tmp_path).files
    table = pq.read_table(file.path)
    assert table.column("zip").to_pylist() == ["10115", None, "01067"]
    assert table.column("x").to_pylist() == [7, 8, 9]
    whole = decide(signature, survey.schema, replace(options, types={"zip": "integer"}), {})
    assert whole.schema.field("zip").type == pa.int64()


@pytest.mark.parametrize("of_bad", [2, 1])
def test_many_misfits_are_not_looked_for_one_by_one(
    of_bad: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the values, or all of them: what is plainly no number is not tried."""
    reads: list[int] = []
    doubles = PandasReader.doubles

    def counted(self: PandasReader, texts: pa.Array) -> pa.Array:
        reads.append(len(texts))
        return doubles(self, texts)

    monkeypatch.setattr(PandasReader, "doubles", counted)
    path = tmp_path / "rows.csv"
    path.write_text("x\n" + "".join("a\n" if n % of_bad == 0 else f"{n}\n" for n in range(1000)))
    table = settled(looked_through(path), x=pa.float64())
    assert table.column("x").null_count == 1000 // of_bad
    assert len(reads) <= 2


def test_bytes_that_are_not_utf8_are_said(tmp_path: Path) -> None:
    """With the remedy; a column that is well is read as if they were not there."""
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n1,caf\xe9\n2,x\n")
    survey = looked_through(path)
    assert "1 value not in UTF-8" in survey.notes["b"]
    assert "--encoding latin-1" in survey.notes["b"]
    assert survey.schema.field("a").type == pa.int64()


def test_a_short_record_beside_a_long_one_is_found(tmp_path: Path) -> None:
    """Though together they have as many separators as they should; gaps at the end are none."""
    path = tmp_path / "rows.csv"
    variants: list[dict[str, Any]] = [{}, {"default_na": False}]
    for options in variants:
        path.write_text("a,b,c\n1,2,\n1,2\n1,2,3,4\n5,6,7\n")
        table = settled(looked_through(path, **options))
        whys = table.column("peers.problem").to_pylist()
        assert [why is None for why in whys] == [True, False, False, True]
        assert [str(one) for one in table.column("a").to_pylist()] == ["1", "None", "None", "5"]
