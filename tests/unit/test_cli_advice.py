"""Commands that are suggested can be typed as they are."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest

from peers.cli.parser import advice

ODD = ["/srv/with space", "/srv/it's", '/srv/"$(x)"']


def given(**flags: Any) -> argparse.Namespace:
    """The flags that every command has."""
    return argparse.Namespace(**{"embedded": None, "database_url": None, "config": None, **flags})


@pytest.mark.parametrize("folder", ODD)
def test_advice_is_about_the_same_database(folder: str) -> None:
    """The flags that chose it are there again, quoted, without its password."""
    assert advice(given(), "dead list") == "peers dead list"
    assert advice(given(embedded=True), "dead list") == "peers dead list --embedded"
    flags = given(database_url=f"host={folder}", config=Path(folder, "peers.toml"))
    assert shlex.split(advice(flags, "dead list")) == [
        "peers", "dead", "list", "--database-url", f"host={folder}",
        "--config", f"{folder}/peers.toml",
    ]  # fmt: skip
    assert "secret" not in advice(given(database_url="postgresql://a:secret@h/b"), "status")


def test_advice_names_the_program_as_it_can_be_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path, unless `peers` finds the same program; `peers` for `python -m peers`."""
    ours, other = tmp_path / "a b" / "peers", tmp_path / "other" / "peers"
    for file in (ours, other):
        file.parent.mkdir()
        file.touch(mode=0o755)
    for path, typed, said in (
        (tmp_path, ours, f"'{ours}'"),
        (other.parent, ours, f"'{ours}'"),
        (ours.parent, ours, "peers"),
        (tmp_path, tmp_path / "peers" / "__main__.py", "peers"),
    ):
        monkeypatch.setenv("PATH", str(path))
        monkeypatch.setattr("sys.argv", [str(typed)])
        assert advice(given(), "db psql") == f"{said} db psql"
