"""Every snippet of the README is run, or says in a comment before it why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.docs.snippets import run_page
from tests.support.cli import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Connection

README = PROJECT / "README.md"
_MOST_LINES = 130


def test_every_snippet_of_the_readme_works(
    db: Connection, database_url: str, tmp_path: Path
) -> None:
    """A reader who types what the README says gets what it says: files, Python and SQL in order."""
    assert run_page(README, db, database_url, tmp_path) >= 5

    completed = db.execute("select count(*) as n from peers.task where state = 'completed'")
    assert completed.fetchone() == {"n": 8}  # two and a graph of three from Python, 1 + 2 from SQL


def test_the_readme_is_short() -> None:
    """A newcomer reads all of it; the rest is in docs/."""
    assert len(README.read_text().splitlines()) <= _MOST_LINES
