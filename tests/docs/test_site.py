"""The site that `make docs` builds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.cli import PATIENCE, PROJECT

if TYPE_CHECKING:
    from pathlib import Path

_LOADED = re.compile(
    r"<(?:script|img|iframe)[^>]* src=\"(?P<src>[^\"]+)|<link[^>]* href=\"(?P<href>[^\"]+)"
)


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """No link of a page is broken, and a reader without a network sees all of it."""
    shutil.copytree(PROJECT / "docs", tmp_path / "docs")  # follows the link to CONTRIBUTING.md
    shutil.copy(PROJECT / "zensical.toml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(list((PROJECT / "docs").glob("*.md")))
    foreign = {
        url
        for page in pages
        for url in (m["src"] or m["href"] for m in _LOADED.finditer(page.read_text()))
        if url.startswith(("http:", "https:", "//"))
    }
    assert foreign == set()
