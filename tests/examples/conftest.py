"""Run the applications of examples/ as their READMEs say, with real peers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import PATIENCE, PROJECT, command, environment
from tests.support.server import as_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.server import Connection

EXAMPLES = PROJECT / "examples"


class Example:
    """Programs that run in examples/ with the database of this test."""

    def __init__(self, url: str, db: Connection) -> None:
        self.url = as_url(url)
        self.db = db

    def run(
        self, *words: str | Path, code: int = 0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end and check its exit code."""
        done = subprocess.run(
            [str(word) for word in words], env={**self._environment(), **(env or {})},
            cwd=EXAMPLES, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done

    def python(self, *words: str | Path, code: int = 0) -> str:
        """Run `python -m …` and return what it printed."""
        return self.run(sys.executable, "-m", *words, code=code).stdout

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a program beside the test and end it afterwards."""
        process = subprocess.Popen(words, env=self._environment(), cwd=EXAMPLES)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)

    @contextmanager
    def peer(self, *words: str) -> Iterator[None]:
        """Run a peer beside the test; it must drain without an error."""
        with self.started(*command("run"), *words) as process:
            yield
        assert process.returncode == 0

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        more = {"PYTHONPATH": f"{PROJECT}:{EXAMPLES}", "PATH": path}
        return environment(self.url, more)


@pytest.fixture
def example(database_url: str, db: Connection) -> Example:
    """Return what runs an example on this test's database."""
    return Example(database_url, db)
