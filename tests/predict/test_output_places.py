"""Where an output may be written: never over its own sources, and through links, not over them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from peers.predict import outputs
from peers.predict.atomic_files import atomic_write, remove_leftovers
from peers.predict.errors import OutputError, StorageFailed
from tests.e2e.harness import Stage
from tests.predict.runs import MODELS, numbers, predict

CONTENT = b"the only copy"


def _link(source: Path, output: Path) -> None:
    output.symlink_to(source)


def _relative_link(source: Path, output: Path) -> None:
    output.symlink_to(os.path.relpath(source, output.parent))


def _chain(source: Path, output: Path) -> None:
    middle = output.with_name("middle")
    middle.symlink_to(source)
    output.symlink_to(middle)


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "symbolic link": _link,
    "relative link": _relative_link,
    "chain of links": _chain,
    "hard link": lambda source, output: output.hardlink_to(source),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["input", "model"])
def test_an_output_that_leads_to_its_source_is_refused(way: str, what: str, tmp_path: Path) -> None:
    """By whatever links."""
    source, output = tmp_path / "rows.parquet", tmp_path / "out.parquet"
    source.write_bytes(CONTENT)
    WAYS[way](source, output)
    named = {"input": "other.csv", "model": "module:callable", what: str(source)}
    with pytest.raises(OutputError, match=f"the {what} .*rows.parquet"):
        outputs.refuse_sources(output, **named)


@pytest.mark.parametrize("spelling", ["./rows.parquet", "../{name}/rows.parquet", "*.parquet"])
def test_an_output_is_recognised_in_any_spelling(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative, with dots, or by a pattern."""
    monkeypatch.chdir(tmp_path)
    Path("rows.parquet").write_bytes(CONTENT)
    named = spelling.format(name=tmp_path.name)
    with pytest.raises(OutputError, match="would destroy the input"):
        outputs.refuse_sources(Path("rows.parquet"), input=named, model="module:callable")


@pytest.mark.parametrize("inside", ["out.parquet", "year=2026/out.parquet"])
def test_an_output_in_an_input_folder_is_refused(inside: str, tmp_path: Path) -> None:
    """At any depth, also by an alias of the folder."""
    folder = tmp_path / "rows"
    (folder / inside).parent.mkdir(parents=True)
    alias = tmp_path / "alias"
    alias.symlink_to(folder)
    for output in (folder / inside, alias / inside):
        with pytest.raises(OutputError, match="would become part of the input"):
            outputs.refuse_sources(output, input=str(folder), model="module:callable")
    outputs.refuse_sources(tmp_path / "out.parquet", input=str(folder), model="module:callable")


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
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "part-1.parquet").write_bytes(CONTENT)
    refusal = pytest.raises(OutputError, match="would become part of the input")
    with refusal if is_refused else nullcontext():
        outputs.refuse_sources(tmp_path / output, input=str(tmp_path / place), model="m:f")


def test_an_output_among_the_parts_of_a_run_is_refused(tmp_path: Path) -> None:
    """It could replace a snapshot or a part."""
    folder = tmp_path / "out.parquet.parts" / "abc"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(OutputError, match="keeps its parts"):
        outputs.refuse_sources(folder / "input.parquet", input="x.csv", model="m:f")


@pytest.mark.parametrize(
    "name", ["postgresql://me@host/shop", "http://host/predict", "module:callable", "x" * 5000]
)
def test_what_is_no_path_is_in_nobodys_way(name: str, tmp_path: Path) -> None:
    """URLs, callables, and texts that no file could be called."""
    outputs.refuse_sources(tmp_path / "out.parquet", input=name, model=name)


@pytest.mark.parametrize("is_dangling", [False, True])
@pytest.mark.parametrize("place", ["beside", "in another folder", "on another file system"])
def test_a_symbolic_link_stays_one(is_dangling: bool, place: str, tmp_path: Path) -> None:
    """What it leads to is replaced, in one step, and nothing is left beside either of them."""
    folder = tmp_path if place == "beside" else tmp_path / "elsewhere"
    if place == "on another file system":
        folder = Path("/dev/shm") / f"peers-{os.getpid()}-{tmp_path.name}"  # noqa: S108
    folder.mkdir(exist_ok=True)
    target, link = folder / "target.parquet", tmp_path / "link.parquet"
    if not is_dangling:
        target.write_bytes(b"before")
    link.symlink_to(target)
    try:
        outputs.check_output(link)
        left = target.with_name(f".{target.name}.{'0' * 16}")
        left.write_bytes(b"of a writer that was killed")
        remove_leftovers(link)
        with atomic_write(link) as temporary:
            temporary.write_bytes(b"after")
            assert temporary.stat().st_dev == folder.stat().st_dev
        assert link.is_symlink()
        assert target.read_bytes() == b"after" == link.read_bytes()
        assert set(folder.iterdir()) - {link} == {target}
    finally:
        target.unlink(missing_ok=True)
        if place == "on another file system":
            folder.rmdir()


@pytest.mark.parametrize(
    ("leads_to", "says"),
    [("nowhere/out.parquet", "nowhere of the output is missing"), ("link.parquet", "to itself")],
)
def test_a_link_that_leads_nowhere_is_refused(leads_to: str, says: str, tmp_path: Path) -> None:
    """Before anything is submitted."""
    link = tmp_path / "link.parquet"
    link.symlink_to(tmp_path / leads_to)
    with pytest.raises(OutputError, match=says):
        outputs.check_output(link)


def test_a_folder_that_vanishes_is_a_failure_of_storage(tmp_path: Path) -> None:
    """The error names the file, the reason and the folder to look after."""
    expected = pytest.raises(StorageFailed, match=r"gone/x cannot be written: No such .*/gone w")
    with expected, atomic_write(tmp_path / "gone" / "x") as temporary:
        temporary.write_bytes(b"")


def test_the_input_survives_a_command_that_names_it_as_the_output(
    stage: Stage, tmp_path: Path
) -> None:
    """Also with --overwrite; nothing is submitted, and no folder is left behind."""
    source = numbers(tmp_path, rows=10)
    before, link = source.read_bytes(), tmp_path / "link.parquet"
    link.symlink_to(source)
    words = ["--model", f"{MODELS}:double", "--input", source, "--overwrite", "--output"]
    for output in (source, link):
        _, said = predict(stage, *words, output, code=1)
        assert "would destroy the input" in said
    assert source.read_bytes() == before
    assert stage.rows("select * from peers.task") == []
    assert {path.name for path in tmp_path.iterdir()} == {"numbers.parquet", "link.parquet"}
