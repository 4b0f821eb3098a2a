"""Links between the pages, and the names of files in them, lead somewhere."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

import peers
from tests.support.cli import PROJECT
from tests.support.server import sql_files

PAGES = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "CHANGELOG.md",
    *sorted((PROJECT / "docs").rglob("*.md")),
    *sorted((PROJECT / "examples").rglob("*.md")),
]
_LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
_FILE = re.compile(r"`((?:sql|peers|tools|tests|deploy|examples|benchmarks)/[\w./@-]*\w/?)`")
_SOURCE = re.compile(r"(?<![\w/])(?:peers/[\w/]+\.py|sql/\w+\.sql|\d\d_\w+\.sql)")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def _name(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def _anchors(page: Path) -> set[str]:
    text = _FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_to_a_page_and_a_heading(page: Path) -> None:
    """A relative link names a file that is there, and a heading of it."""
    wrong = []
    for target, anchor in _LINK.findall(_FENCE.sub("", page.read_text())):
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            wrong.append(f"{target}#{anchor}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """`sql/45_claim.sql` in a text or a picture is a file of this repository."""
    text = page.read_text()
    named = {*_FILE.findall(_FENCE.sub("", text)), *_SOURCE.findall(text)}
    places = [PROJECT / ("sql" if name[0].isdigit() else "") / name for name in sorted(named)]
    assert [place for place in places if not place.exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_functions_are_in_the_files_that_a_page_names(page: Path) -> None:
    """`peers.claim` in `sql/45_claim.sql` is defined there."""
    for function, file in re.findall(r"`peers\.(\w+)` in\s+`(sql/\w+\.sql)`", page.read_text()):
        assert f"function peers.{function}(" in (PROJECT / file).read_text(), (function, file)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_names_that_a_page_mentions_exist(page: Path) -> None:
    """`peers.claim` is a function, table, view or type of the schema, or a name of the package."""
    sql = "".join(file.read_text() for file in sql_files())
    known = {
        *re.findall(r"(?:function|table|view|type)(?: if not exists)? peers\.(\w+)", sql),
        *re.findall(r"current_setting\('peers\.(\w+)'", sql),
        *peers.__all__,
        *(module.name for module in pkgutil.iter_modules(peers.__path__)),
    }
    text = _FENCE.sub("", page.read_text())
    named = set(re.findall(r"`(?:SELECT |TABLE |FROM |await )?peers\.(\w+)(?!\w*@)", text))
    assert named - known - {"env", "service", "target", "toml"} == set()


def test_every_page_is_one_click_from_the_index() -> None:
    """docs/index.md links every other page of docs/."""
    index = PROJECT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target, _ in _LINK.findall(index.read_text())}
    pages = {page.resolve() for page in (PROJECT / "docs").rglob("*.md")} - {index}
    assert {_name(page) for page in pages - linked} == set()
