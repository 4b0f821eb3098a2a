"""Every snippet of docs/ works, or says in a comment before it why it is not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docs.snippets import run_page, snippets
from tests.support.cli import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Connection

DOCS = PROJECT / "docs"
PAGES = [
    page for page in sorted(DOCS.rglob("*.md")) if any(s.language != "text" for s in snippets(page))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_snippet_of_the_page_works(
    page: Path, db: Connection, database_url: str, tmp_path: Path
) -> None:
    """A reader who types what the page says gets what it says."""
    run_page(page, db, database_url, tmp_path)
