"""Run the command line as users do: a process with arguments, an environment and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.forked_commands import needs_its_own_start, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

    from tests.support.server import Connection

PROJECT = Path(__file__).parents[2]
PATIENCE = 60.0


class Answer(NamedTuple):
    """The output of a command, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Return stdout, which is one JSON document."""
        return json.loads(self.out)


def environment(url: str | None = None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of the tests without settings for Peers or libpq, plus `more`."""
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith(("PEERS_", "PG"))
    }
    plain["PYTHONPATH"] = str(PROJECT)
    if url is not None:
        plain["PEERS_DATABASE_URL"] = url
    return {**plain, **(more or {})}


def command(*words: str) -> list[str]:
    """Return the command line for `peers WORDS`."""
    return [sys.executable, "-m", "peers", *words]


def peers(
    *words: str,
    url: str | None = None,
    stdin: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Answer:
    """Run `peers WORDS` to its end, in a process of its own."""
    whole = environment(url, env)
    if not needs_its_own_start(whole):
        return Answer(*shared().run(words, whole, stdin=stdin, cwd=cwd or Path.cwd()))
    done = subprocess.run(
        command(*words), input=stdin, capture_output=True, text=True, timeout=PATIENCE, env=whole,
        cwd=cwd, check=False,
    )  # fmt: skip
    return Answer(done.returncode, done.stdout, done.stderr)


class Here:
    """Run commands in the process of the test: ten times as fast as `peers`.

    Not for `run` and `migrate`, which configure the log of their process.
    """

    def __init__(
        self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._capsys = capsys
        for name in set(os.environ) - set(environment()):
            monkeypatch.delenv(name)
        monkeypatch.setenv("PEERS_DATABASE_URL", url)

    def __call__(self, *words: str) -> Answer:
        """Run `peers WORDS`."""
        from peers.cli import main

        self._capsys.readouterr()
        code = main(words)
        return Answer(code, *self._capsys.readouterr())


def until(true: Callable[[], object], what: str) -> None:
    """Wait until it is true, for at most a minute."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"still not so: {what}"
        time.sleep(0.05)


def join(db: Connection, *kinds: str, queue: str = "default") -> str:
    """Join as a peer, and return its id."""
    [row] = db.execute(
        "select peers.join('web1', 42, %s::jsonb, %s::jsonb, '30 s', 1) as peer",
        (json.dumps({queue: 4}), json.dumps([{"kind": kind} for kind in kinds])),
    )
    return str(row["peer"])


def submit(db: Connection, kind: str, after: tuple[int, ...] = ()) -> int:
    """Submit a task of this kind, a child of `after`, and return its id."""
    [row] = db.execute(
        "select peers.submit(%s, depends_on => %s::bigint[]) as id", (kind, list(after))
    )
    return int(row["id"])


def bury(db: Connection, peer: str, error: str = "no such file") -> list[int]:
    """Claim and reject all ready tasks, which makes them dead letters."""
    claimed = db.execute(
        "select token, unnest(task_ids) as task_id from peers.claim(%s, 'default', 100)", (peer,)
    ).fetchall()
    failures = [
        {
            "task_id": task["task_id"],
            "token": str(task["token"]),
            "error_type": "OSError",
            "error_message": error,
            "traceback": f"Traceback (most recent call last):\n  in make\nOSError: {error}\n",
            "reject": True,
        }
        for task in claimed
    ]
    db.execute("select * from peers.fail(%s, %s::jsonb)", (peer, json.dumps(failures)))
    return [task["task_id"] for task in claimed]


def state(db: Connection, id: int) -> str:
    """Return the task's state."""
    [row] = db.execute("select state::text from peers.task where id = %s", (id,))
    return str(row["state"])
