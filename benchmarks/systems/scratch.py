"""Install other systems into a folder that git ignores."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.systems.system import PROJECT, NotInstalledError

RIVALS: Final = PROJECT / "build" / "rivals"
_SECONDS: Final = 300.0
_ERROR_TAIL: Final = 300


def environment(name: str, requirements: Sequence[str]) -> Path:
    """Build a virtual environment with these packages if it is missing. Return its folder."""
    folder = RIVALS / name
    installed = folder / "installed.txt"
    wanted = "\n".join(requirements)
    if not installed.exists() or installed.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        install([sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        install([*pip, "--disable-pip-version-check", *requirements])
        installed.write_text(wanted)
    return folder


def install(command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
    """Run a command that installs something. Raise NotInstalledError if it fails."""
    print(f"installing: {' '.join(command[-4:])}", file=sys.stderr)
    try:
        subprocess.run(
            command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_SECONDS, env={**os.environ, **(variables or {})},
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "it said nothing").strip().splitlines()[-1]
        raise NotInstalledError(
            f"{Path(command[0]).name} ended with {error.returncode}: {said[-_ERROR_TAIL:]}"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(str(error)) from error
