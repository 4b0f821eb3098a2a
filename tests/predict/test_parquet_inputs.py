"""Parquet as pandas reads it: whatever its files, groups and types, each chunk looks the same."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import os
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peers.predict import inputs
from peers.predict.errors import InputChanged, InputError
from peers.predict.inputs.schemas import INDEX, NULLS, READER
from peers.predict.spec import Chunk, DataFile, InputRef, parts_folder
from tests.peers.harness import Stage
from tests.predict.planned import planned
from tests.predict.runs import MODELS, predict, results

ROWS = 40


def frame(table: pa.Table) -> pd.DataFrame:
    """Return the table as pandas reads it when it reads the whole input."""
    found = table.to_pandas()
    for field in table.schema:
        name = field.name
        if name in found and NULLS in (field.metadata or {}):
            if isinstance(found[name].dtype, np.dtype) and found[name].dtype.kind in "iu":
                found[name] = found[name].astype("float64")
            elif found[name].dtype == bool:
                found[name] = found[name].astype(object)
    return found


def assert_reads_as_pandas(place: Path, size: int, truth: pd.DataFrame) -> None:
    """Every chunk has the dtypes and the values of these rows."""
    truth = truth.reset_index(drop=True)
    columns = list(map(str, truth.columns))
    source, chunks = planned(place, size, columns)
    assert source.rows == len(truth)
    for chunk in chunks:
        rows = inputs.read(source, chunk, columns)
        assert not rows.bad
        wanted = truth.iloc[chunk.first : chunk.first + chunk.rows].reset_index(drop=True)
        pd.testing.assert_frame_equal(frame(rows.table), wanted, check_exact=True)


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
        source = survey.settle(wanted, tmp_path)
    truth = pd.read_parquet(path).astype("category")
    for chunk in inputs.chunks(source, 2):
        part = truth.iloc[chunk.first : chunk.first + chunk.rows].reset_index(drop=True)
        pd.testing.assert_frame_equal(inputs.read(source, chunk, ["c"]).table.to_pandas(), part)


def write_partitions(folder: Path) -> None:
    """Parts under year=…/kind=…, so that their order is not that of their names' numbers."""
    number = 0
    for year, kind in (("2024", "b"), ("2023", "a%20b"), ("2023", "c"), ("2024", "1")):
        for part in (10, 2):
            place = folder / f"year={year}" / f"kind={kind}"
            place.mkdir(parents=True, exist_ok=True)
            rows = {"x": [number, number + 1], "c": [f"{number}", "same"]}
            table = pa.table({"x": rows["x"], "c": pa.array(rows["c"]).dictionary_encode()})
            pq.write_table(table, place / f"part-{part}.parquet")
            number += 2


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_folder_of_partitions(size: int, tmp_path: Path) -> None:
    """Rows, order, columns, types and categories are those of `pandas.read_parquet(folder)`."""
    folder = tmp_path / "data"
    write_partitions(folder)
    for name in ("_SUCCESS", ".part-1.parquet.crc", "_delta_log/0.json", "year=2023/_x/y.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    truth = pd.read_parquet(folder)
    assert str(truth["year"].dtype) == str(truth["kind"].dtype) == "category"
    assert_reads_as_pandas(folder, size, truth)
    assert_reads_as_pandas(folder / "year=2023", size, pd.read_parquet(folder / "year=2023"))
    one = folder / "year=2023" / "kind=c" / "part-2.parquet"
    assert_reads_as_pandas(one, size, pd.read_parquet(one))


def test_patterns_name_files_and_folders(tmp_path: Path) -> None:
    """Sorted by path; the keys of all folders in the pattern are columns, as for pandas' lists."""
    folder = tmp_path / "data"
    write_partitions(folder)
    files = sorted(folder.rglob("*.parquet"), key=str)
    (folder / "year=2023" / "_SUCCESS").write_text("")
    for pattern in ("year=*", "**/*.parquet", "*/*/part-*", "year=202[34]/*"):
        assert_reads_as_pandas(folder / pattern, 3, pd.read_parquet(files))
    source, _ = planned(folder / "year=2024" / "*" / "part-?.parquet", 3)
    assert [Path(file.path).name for file in source.files] == ["part-2.parquet"] * 2


def test_partitions_that_pandas_wrote(tmp_path: Path) -> None:
    """Its notes on columns are kept, those on the partition's too."""
    written = pd.DataFrame(
        {
            "kind": ["b", "a", "b", "c"],
            "n": pd.array([1, None, 3, 4], "Int64"),
            "period": pd.period_range("2024-01", periods=4, freq="M"),
            "span": pd.interval_range(0, 4),
        }
    )
    written.to_parquet(tmp_path / "data", partition_cols=["kind"])
    assert_reads_as_pandas(tmp_path / "data", 1, pd.read_parquet(tmp_path / "data"))


@pytest.mark.parametrize(
    ("place", "output", "is_refused"),
    [
        ("data", "data/out.parquet", True),
        ("data", "data/deep/out.parquet", True),
        ("data/*.parquet", "data/out.parquet", True),
        ("*/*.parquet", "data/out.parquet", True),
        ("data/part-*.parquet", "data/out.parquet", False),
        ("data", "out.parquet", False),
        ("data", "data.parquet", False),
    ],
)
def test_an_output_is_no_part_of_its_own_input(
    place: str, output: str, is_refused: bool, tmp_path: Path
) -> None:
    """The next run would read it: the same command must find the same input again."""
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "data" / "part-1.parquet")
    source, scratch = inputs.Source(str(tmp_path / place)), parts_folder(tmp_path / output)
    if is_refused:
        with pytest.raises(InputError, match="a part of the input"), inputs.survey(source, scratch):
            pass
    else:
        with inputs.survey(source, scratch) as survey:
            assert survey.rows == 1


def test_links_are_followed_once(tmp_path: Path) -> None:
    """A folder that leads back to itself is no endless one."""
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "elsewhere.parquet")
    (folder / "a.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    (folder / "again").symlink_to(folder)
    assert planned(folder, 1)[0].rows == 1


def test_what_can_be_read_once_only_is_refused(tmp_path: Path) -> None:
    """Before it is waited for; and what lies elsewhere is told so."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no file"):
        planned(tmp_path / "pipe", 1)
    with (
        pytest.raises(InputError, match="is no file on a path of this machine"),
        inputs.survey(inputs.Source("s3://bucket/rows.parquet"), tmp_path),
    ):
        pass


def test_a_partition_without_a_value_is_a_gap(tmp_path: Path) -> None:
    """Which Hive spells out, and a file beside the folders has, too."""
    folder = tmp_path / "data"
    (folder / "k=__HIVE_DEFAULT_PARTITION__").mkdir(parents=True)
    (folder / "k=007").mkdir()
    for number, name in enumerate(["k=007", "k=__HIVE_DEFAULT_PARTITION__", ""]):
        pq.write_table(pa.table({"x": [number]}), folder / name / "z.parquet")
    source, [chunk] = planned(folder, 10)
    rows = inputs.read(source, chunk, ["k", "x"]).table
    assert rows.to_pylist() == [{"k": 7, "x": 0}, {"k": None, "x": 1}, {"k": None, "x": 2}]


def test_a_plan_can_be_made_again_from_its_own_types(tmp_path: Path) -> None:
    """A run that goes on asks for what it has; its categories are not gathered again."""
    folder = tmp_path / "data"
    write_partitions(folder)
    with inputs.survey(inputs.Source(str(folder)), tmp_path) as survey:
        source = survey.settle(survey.schema, tmp_path)
        assert source.categories is not None
        before = Path(source.categories).stat()
        assert survey.settle(source.schema, tmp_path) == source
        assert Path(source.categories).stat() == before


def test_a_plan_of_partitions_goes_through_json(tmp_path: Path) -> None:
    """By a peer that knows nothing else."""
    folder = tmp_path / "data"
    write_partitions(folder)
    source, [chunk] = planned(folder, 100)
    fields = json.loads(json.dumps(asdict(source)))
    again = InputRef(**fields | {"files": tuple(DataFile(**file) for file in fields["files"])})
    assert again == source
    columns = ["x", "year", "kind", "c"]
    assert inputs.read(again, chunk, columns).table == inputs.read(source, chunk, columns).table


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


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("b.parquet", b"", "no bytes"),
        ("b.parquet", b"x,y\n1,2\n", "begins with"),
        ("b.csv", b"x\n1\n", "Parquet files alone"),
        ("README.md", b"about these", "unknown"),
        ("b.parquet", b"PAR1 and then nothing", "no Parquet file that can be read"),
    ],
)
def test_a_folder_with_something_else_in_it_is_refused(
    name: str, content: bytes, says: str, tmp_path: Path
) -> None:
    """Naming the file."""
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.table({"x": [1]}), folder / "a.parquet")
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}.*") as refused:
        planned(folder, 1)
    assert says in f"{refused.value} {getattr(refused.value, 'remedy', '')}"


@pytest.mark.parametrize("place", ["empty", "hidden", "hidden/*.parquet", "*.pq", "rows"])
def test_a_folder_without_rows_is_refused(place: str, tmp_path: Path) -> None:
    """Also one whose files are all hidden or have none, and a pattern that nothing matches."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "hidden").mkdir()
    (tmp_path / "rows").mkdir()
    (tmp_path / "hidden" / "_x.parquet").write_text("x")
    pq.write_table(pa.table({"x": pa.array([], pa.int64())}), tmp_path / "rows" / "a.parquet")
    with pytest.raises(InputError, match=r"holds no data|has no rows"):
        planned(tmp_path / place, 1)


def test_a_column_that_is_in_the_files_and_in_their_folders_names(tmp_path: Path) -> None:
    """Is refused: which of them is meant cannot be known; pandas refuses it, too."""
    (tmp_path / "data" / "x=3").mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "data" / "x=3" / "a.parquet")
    with pytest.raises(InputError, match="a column 'x', and so have the names"):
        planned(tmp_path / "data", 1)


def test_a_file_is_what_its_contents_are(tmp_path: Path) -> None:
    """Parquet may have any name but that of another format."""
    for name in ("rows", "part-00000.snappy", "rows.dat"):
        pq.write_table(pa.table({"x": [1]}), tmp_path / name)
        assert planned(tmp_path / name, 1)[0].rows == 1
    pq.write_table(pa.table({"x": [1]}), tmp_path / "rows.csv")
    with pytest.raises(InputError, match="is a Parquet file by its contents"):
        planned(tmp_path / "rows.csv", 1)
    (tmp_path / "odd.csv").write_bytes(b"PAR1,x\n1,2\n")
    assert planned(tmp_path / "odd.csv", 1)[0].rows == 1


def folder_of_three(tmp_path: Path) -> tuple[Path, InputRef, list[Chunk]]:
    """Three files of two rows, and chunks that span them."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        pq.write_table(pa.table({"x": [number, number]}), folder / f"{number}.parquet")
    return folder, *planned(folder, 4)


@pytest.mark.parametrize("how", ["gone", "rewritten", "grown"])
def test_a_file_of_several_that_changes_is_noticed(how: str, tmp_path: Path) -> None:
    """By the chunks that lie in it, and by no other."""
    folder, source, chunks = folder_of_three(tmp_path)
    assert [chunk.rows for chunk in chunks] == [4, 2]
    if how == "gone":
        (folder / "1.parquet").unlink()
    else:
        values = [8, 9] if how == "rewritten" else list(range(100))
        pq.write_table(pa.table({"x": values}), folder / "1.parquet")
    with pytest.raises(InputChanged, match=r"1\.parquet has changed"):
        inputs.read(source, chunks[0], ["x"])
    assert inputs.read(source, chunks[1], ["x"]).table.to_pylist() == [{"x": 2}, {"x": 2}]


def test_the_digest_is_of_all_contents_and_partitions(tmp_path: Path) -> None:
    """Whatever changes a row changes it; when the files were written does not."""
    folder = tmp_path / "data"
    (folder / "k=1").mkdir(parents=True)
    one = folder / "k=1" / "a.parquet"
    pq.write_table(pa.table({"x": [1.0]}), one)
    found = [planned(folder, 10)[0].digest]
    one.write_bytes(one.read_bytes())
    assert planned(folder, 10)[0].digest == found[0]
    pq.write_table(pa.table({"x": [2.0]}), one)
    found.append(planned(folder, 10)[0].digest)
    (folder / "k=1").rename(folder / "k=2")
    found.append(planned(folder, 10)[0].digest)
    pq.write_table(pa.table({"x": [3.0]}), folder / "k=2" / "b.parquet")
    found.append(planned(folder, 10)[0].digest)
    assert len(set(found)) == len(found)


def settled(path: Path, **types: pa.DataType) -> tuple[InputRef, list[Chunk]]:
    """The input with these columns in these types, in one chunk."""
    with inputs.survey(inputs.Source(str(path)), path.parent) as survey:
        source = survey.settle(pa.schema(list(types.items())), path.parent)
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


def test_a_run_over_a_folder(stage: Stage, tmp_path: Path) -> None:
    """All rows, in the order of the files."""
    folder = tmp_path / "data"
    write_partitions(folder)
    output = tmp_path / "out.parquet"
    words = ["--model", f"{MODELS}:double", "--input", folder, "--output", output]
    words += ["--workers", 1, "--batch-size", 3]
    summary, _ = predict(stage, *words)
    truth = pd.read_parquet(folder)["x"] * 2
    assert summary["predicted"] == len(truth)
    assert results(output) == list(enumerate(truth))
