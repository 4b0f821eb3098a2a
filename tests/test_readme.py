"""Every snippet of the README is run, or says in a comment before it why not."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.support.cli import PATIENCE, PROJECT, command, environment
from tests.support.server import Connection

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?```(?P<language>\w+)(?: file=(?P<file>\S+))?\n"
    r"(?P<text>.*?)```",
    re.DOTALL,
)


class Snippet(NamedTuple):
    """A fenced block of the README."""

    language: str
    file: str | None
    text: str
    reason: str | None
    """Why it is not run."""


def snippets() -> list[Snippet]:
    """All of them, in their order."""
    readme = (PROJECT / "README.md").read_text()
    found = [
        Snippet(m["language"], m["file"], m["text"], m["reason"]) for m in _BLOCK.finditer(readme)
    ]
    assert len(found) == readme.count("\n```") / 2
    return found


def test_every_snippet_of_the_readme_works(
    db: Connection, database_url: str, tmp_path: Path
) -> None:
    """A reader who types what the README says gets what it says: files, Python and SQL in order."""
    database_url = as_url(database_url)
    ran = 0
    for snippet in snippets():
        if snippet.reason is not None:
            continue
        if snippet.file is not None:
            file = tmp_path / snippet.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(snippet.text)
        elif snippet.language == "python":
            run_python(snippet.text, database_url, tmp_path)
        else:
            assert snippet.language == "sql", f"nothing here can run {snippet.language}"
            db.execute(snippet.text.encode())
        ran += 1
    assert ran >= 5

    peer = subprocess.Popen(
        [*command("run"), "--app", "shop.tasks", "--queues", "default=1,media=1"],
        env=environment(database_url, {"PYTHONPATH": f"{PROJECT}:{tmp_path}"}), cwd=tmp_path,
    )  # fmt: skip
    try:
        await_all_completed(db)
    finally:
        peer.send_signal(signal.SIGTERM)
        assert peer.wait(PATIENCE) == 0
    submitted = db.execute("select count(*) as n from peers.task").fetchone()
    assert submitted is not None
    assert submitted["n"] == 8  # three from Python, one INSERT, and two graphs of two


def as_url(conninfo: str) -> str:
    """The URL form, which SQLAlchemy needs, of what may be libpq's own form."""
    parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    return f"postgresql:///?{urlencode(parts)}"


def run_python(text: str, url: str, folder: Path) -> None:
    """Run a program as a reader would, beside the files of the earlier snippets."""
    env = environment(url, {"PYTHONPATH": f"{PROJECT}:{folder}"})
    subprocess.run([sys.executable, "-c", text], env=env, cwd=folder, check=True, timeout=PATIENCE)


def await_all_completed(db: psycopg.Connection[dict[str, object]]) -> None:
    """Every task ends well."""
    give_up = time.monotonic() + PATIENCE
    while db.execute("select 1 from peers.task where state <> 'completed' limit 1").fetchone():
        assert time.monotonic() < give_up, db.execute("select * from peers.task").fetchall()
        time.sleep(0.02)
