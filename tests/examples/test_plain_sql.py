"""The script of examples/plain_sql/."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.examples.conftest import Example

pytestmark = pytest.mark.skipif(shutil.which("psql") is None, reason="there is no psql")


def test_bash_counts_words(example: Example, tmp_path: Path) -> None:
    """A script that knows only SQL submits a graph and reads its result."""
    odd = tmp_path / "it's odd.txt"
    odd.write_text("three more words\n")
    plain = tmp_path / "plain.txt"
    plain.write_text("two words")
    with example.peer("--app", "plain_sql.tasks"):
        assert example.run("plain_sql/count.sh", odd, plain).stdout == "5 words\n"


def test_bash_learns_of_a_failure(example: Example, tmp_path: Path) -> None:
    """When a file is missing, the script ends with exit code 1 and the reason."""
    with example.peer("--app", "plain_sql.tasks"):
        done = example.run("plain_sql/count.sh", tmp_path / "missing.txt", code=1)
    assert "words.count" in done.stderr
    assert "dead" in done.stderr
