"""Commands that are suggested can be typed as they are."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from peers.cli.parser import advice
from peers.demo.database import without_password

ODD = ["/srv/with space", "/srv/it's", '/srv/"$(x)"']


@pytest.mark.parametrize("folder", ODD)
def test_the_demo_shows_no_password(folder: str) -> None:
    """What it prints for psql connects to the same place, without the password."""
    shown = without_password(make_conninfo(host=folder, user="a", password="secret"))
    assert conninfo_to_dict(shown) == {"host": folder, "user": "a"}


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
