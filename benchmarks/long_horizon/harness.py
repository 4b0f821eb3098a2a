"""Get the harness: its own code at a fixed commit, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.long_horizon.cells import COMMIT, HARNESS

FOLDER: Final = Path(__file__).parents[2] / "build" / "long_horizon"
_FILES: Final = ("bench_harness", "pyproject.toml", "uv.lock", "postgres.conf", "LICENSE")


class Harness(NamedTuple):
    """Where the harness is."""

    source: Path
    python: Path

    @property
    def postgres_conf(self) -> str:
        """The settings of its Postgres."""
        return (self.source / "postgres.conf").read_text()


def prepare(origin: str = HARNESS) -> Harness:
    """Clone the harness and install what it depends on, unless that is done.

    It runs with the Python that runs Peers. The harness asks for 3.12, but its code runs on 3.11.
    """
    harness = Harness(FOLDER / "harness", FOLDER / "venv" / "bin" / "python")
    if not (harness.source / "postgres.conf").exists():
        _run("git", "clone", "--quiet", "--no-checkout", origin, str(harness.source))
        _run("git", "-C", str(harness.source), "checkout", "--quiet", COMMIT, "--", *_FILES)
    installed = FOLDER / "installed"
    if not installed.exists():
        venv.create(FOLDER / "venv", with_pip=True, clear=True)
        requirements = FOLDER / "requirements.txt"
        # the versions of its lock, from whichever index is configured here
        exported = subprocess.run(
            [sys.executable, "-m", "uv", "export", "--quiet", "--frozen", "--no-emit-project",
             "--no-dev", "--no-hashes", "--project", str(harness.source)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        requirements.write_text(exported.stdout)
        _run(str(harness.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "--requirement", str(requirements))  # fmt: skip
        installed.touch()
    return harness


def _run(*command: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run(command, check=True)
