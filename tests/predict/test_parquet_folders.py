"""Folders, patterns and partitions of Parquet: which rows there are, and in which order."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peers.predict import inputs
from peers.predict.errors import InputChanged, InputError
from peers.predict.spec import Chunk, DataFile, InputRef
from tests.e2e.harness import Stage
from tests.predict.as_pandas import assert_reads_as_pandas
from tests.predict.planned import planned
from tests.predict.runs import MODELS, predict, results


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
    with pytest.raises(InputError, match="is not a file"):
        planned(tmp_path / "pipe", 1)
    with (
        pytest.raises(InputError, match="is not a file on a path of this machine"),
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
        source = survey.with_types(survey.schema, tmp_path)
        assert source.categories is not None
        before = Path(source.categories).stat()
        assert survey.with_types(source.schema, tmp_path) == source
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


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("b.parquet", b"", "no bytes"),
        ("b.parquet", b"x,y\n1,2\n", "begins with"),
        ("b.csv", b"x\n1\n", "only Parquet files"),
        ("README.md", b"about these", "unknown"),
        ("b.parquet", b"PAR1 and then nothing", "cannot be read as a Parquet file"),
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
    with pytest.raises(InputError, match="a column 'x', which the names"):
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
