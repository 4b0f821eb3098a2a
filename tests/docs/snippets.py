"""Run the snippets of a Markdown page as a reader would: in order, on a database of their own.

- `python title="NAME"` writes the file; `python` runs a program beside these files.
- `sh` runs in bash, with `peers` on the path and the database configured.
- `sql` runs on the database.
- `text`, `console`, `toml`, `json` and `ini` are only shown.

A comment `<!-- not run: why -->` above a block leaves it out. `<!-- peer: --app … -->` starts a
peer, which runs until the end of the page, or until the same comment comes again: it is then
restarted. `<!-- output -->` above a block of `text` says that the last program has printed this;
… stands for any text in a line, and alone in a line for any lines.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.support.cli import PATIENCE, PROJECT, environment, until
from tests.support.forked_commands import shared
from tests.support.server import as_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Connection

_PART: Final = re.compile(
    r"(?:<!-- peer: (?P<peer>[^>]+) -->)|"
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?"
    r"(?P<output><!-- output -->\n)?"
    r"^```(?P<language>\w+)(?: title=\"(?P<file>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_SHOWN: Final = frozenset({"text", "console", "toml", "json", "ini"})
_OUTPUT: Final = "output"
_ANY: Final = "…"
_MAY_DIE: Final = "broken."
"""Tasks of kinds that begin like this may become dead letters."""


class Snippet(NamedTuple):
    """A fenced block of a page, or the peer that it needs."""

    language: str
    text: str
    file: str | None = None
    reason: str | None = None
    """Why it is not run."""


def snippets(page: Path) -> list[Snippet]:
    """Return the snippets of a page in their order. Fails on a block that it cannot read."""
    text = page.read_text()
    found = [
        Snippet("peer", m["peer"])
        if m["peer"]
        else Snippet(_OUTPUT if m["output"] else m["language"], m["text"], m["file"], m["reason"])
        for m in _PART.finditer(text)
    ]
    blocks = sum(snippet.language != "peer" for snippet in found)
    assert blocks == len(re.findall(r"^\s*```", text, re.MULTILINE)) / 2, f"{page}: odd fences"
    return found


def run_page(page: Path, db: Connection, url: str, folder: Path) -> int:
    """Run the page's snippets, end every task, and return how many snippets were run."""
    url, ran, printed = as_url(url), 0, ""
    with ExitStack() as stack:
        peers: dict[str, ExitStack] = {}
        for snippet in snippets(page):
            if snippet.reason is not None or snippet.language in _SHOWN:
                continue
            if snippet.language == "peer":
                peer = peers.setdefault(snippet.text, stack.enter_context(ExitStack()))
                peer.close()
                peer.enter_context(running_peer(shlex.split(snippet.text), url, folder))
            elif snippet.language == _OUTPUT:
                require_output(snippet.text, printed)
            else:
                printed = run(snippet, db, url, folder)
                ran += 1
        if peers:
            await_ended(db)
    return ran


def require_output(shown: str, printed: str) -> None:
    """Fail unless a program has printed what the page shows."""
    lines = [
        r"(?:.*\n)*?" if line.strip() == _ANY
        else ".*".join(map(re.escape, line.rstrip().split(_ANY))) + r"[ ]*\n"
        for line in shown.splitlines()
    ]  # fmt: skip
    assert re.fullmatch("".join(lines), printed), f"shown:\n{shown}\nprinted:\n{printed}"


def run(snippet: Snippet, db: Connection, url: str, folder: Path) -> str:
    """Run one snippet, and return what it has printed. Fails when it fails."""
    if snippet.file is not None:
        file = folder / snippet.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(snippet.text)
    elif snippet.language == "python":
        return _call(
            [sys.executable, "-W", "error::SyntaxWarning", "-c", snippet.text], url, folder
        )
    elif snippet.language == "sh":
        return _call(["bash", "-euo", "pipefail", "-c", snippet.text], url, folder)
    else:
        assert snippet.language == "sql", f"nothing here can run {snippet.language}"
        db.execute(snippet.text.encode())
    return ""


@contextmanager
def running_peer(words: list[str], url: str, folder: Path) -> Iterator[None]:
    """Run a peer beside the snippets, and drain it at the end."""
    peer = shared().start(["run", *words], _environment(url, folder), cwd=folder)
    try:
        yield
    finally:
        peer.send_signal(signal.SIGTERM)
        code = peer.wait(PATIENCE)
    assert code == 0


def await_ended(db: Connection) -> None:
    """Wait until nothing waits for a peer; only tasks that may die are dead."""

    def no_work_left() -> bool:
        query = "select 1 from peers.task where state in ('ready', 'running') limit 1"
        return db.execute(query).fetchone() is None

    until(no_work_left, "all tasks have ended")
    dead = db.execute("select kind, error_message from peers.dead_letter").fetchall()
    assert all(row["kind"].startswith(_MAY_DIE) for row in dead), dead


def _environment(url: str, folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return environment(url, {"PYTHONPATH": f"{PROJECT}:{folder}", "PATH": path})


def _call(words: list[str], url: str, folder: Path) -> str:
    done = subprocess.run(
        words, env=_environment(url, folder), cwd=folder, timeout=PATIENCE,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{words[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout
