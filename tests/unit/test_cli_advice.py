"""Commands that are suggested can be typed as they are."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from psycopg.conninfo import make_conninfo

from peers.cli.parser import advice
from peers.demo.database import Database

if TYPE_CHECKING:
    from peers.embedded import EmbeddedPostgres

ODD = ["/srv/with space", "/srv/it's", '/srv/"$(x)"']


@pytest.mark.parametrize("folder", ODD)
def test_the_demo_quotes_whatever_it_suggests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    """A shell reads programs and URLs in odd folders as one word each."""
    monkeypatch.delenv("PEERS_DATABASE_URL", raising=False)
    monkeypatch.setattr(sys, "executable", f"{folder}/python")
    embedded: EmbeddedPostgres = Mock(psql=lambda: Path(folder, "psql"))
    private = Database("postgresql://postgres@/peers", Mock(), embedded)
    assert shlex.split(private.psql()) == [f"{folder}/psql", "postgresql://postgres@/peers"]
    assert shlex.split(private.peers("status")) == [
        f"{folder}/python", "-m", "peers", "status", "--embedded",
    ]  # fmt: skip
    named = Database(make_conninfo(host=folder, password="secret"), Mock(), None)
    assert shlex.split(named.psql())[0] == "psql"
    words = shlex.split(named.peers("status"))
    assert words[1:] == [f"{folder}/python", "-m", "peers", "status"]
    assert words[0].startswith("PEERS_DATABASE_URL=host=")
    assert "secret" not in named.psql() + named.peers("status")
    (tmp_path / "bin dir").mkdir()
    (tmp_path / "bin dir" / "peers").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin dir" / "python"))
    assert shlex.split(private.peers("db psql")) == [
        str(tmp_path / "bin dir" / "peers"), "db", "psql",
    ]  # fmt: skip


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
