"""The reference pages say what the code says."""

from __future__ import annotations

import argparse
import re

import peers
from peers import errors
from tests.support.cli import PROJECT
from tests.support.server import Connection
from tools.docs import cli_reference, events_reference, settings_reference, sql_reference

DOCS = PROJECT / "docs"
_AGAIN = "out of date: run `python -m tools.docs`"


def test_the_sql_reference_is_up_to_date(db: Connection) -> None:
    """docs/sql.md has every comment of the schema as shipped."""
    assert (DOCS / "sql.md").read_text() == sql_reference.page(db), _AGAIN


def test_the_command_line_reference_is_up_to_date() -> None:
    """docs/cli.md has every command and option."""
    assert (DOCS / "cli.md").read_text() == cli_reference.page(), _AGAIN


def test_a_switch_is_shown_with_both_of_its_forms() -> None:
    """Its text describes the form without "no"."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--fair", action=argparse.BooleanOptionalAction, help="be fair")
    parser.add_argument("-q", "--quiet", action="store_true", help="say less")
    shown = [cli_reference._options(group) for group in parser._action_groups]
    assert "| `--fair, --no-fair` | be fair |" in shown[1]
    assert "| `--quiet` | say less |" in shown[1]


def test_the_settings_reference_is_up_to_date() -> None:
    """docs/settings.md has every setting with its default."""
    assert (DOCS / "settings.md").read_text() == settings_reference.page(), _AGAIN


def test_the_events_reference_is_up_to_date() -> None:
    """docs/events.md has every event with its sentence."""
    assert (DOCS / "events.md").read_text() == events_reference.page(), _AGAIN


def test_pages_name_only_events_that_are_logged() -> None:
    """An "event `name`" of a page is in the reference."""
    known = set(re.findall(r"^\| `(\w+)`", (DOCS / "events.md").read_text(), re.MULTILINE))
    named = {
        name
        for page in DOCS.rglob("*.md")
        for name in re.findall(r"\bevent\s+`(\w+)`", page.read_text())
    }
    assert len(named) > 3
    assert named - known == set()


def test_the_python_page_names_the_whole_api() -> None:
    """What `from peers import …` offers is explained in docs/python.md, but for its other forms."""
    text = (DOCS / "python.md").read_text()
    names = {re.sub("_(async|in)$", "", name) for name in peers.__all__}
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", text)] == []


def test_the_python_page_names_every_error_of_the_database() -> None:
    """Each SQLSTATE of ours has a line with its exception."""
    text = (DOCS / "python.md").read_text()
    ours = {
        code: kind.__name__
        for code, kind in errors._BY_SQLSTATE.items()
        if code.startswith("PE")
    }  # fmt: skip
    missing = [
        code for code, name in ours.items() if not re.search(rf"\| `{code}` \| `{name}` \|", text)
    ]
    assert missing == []
