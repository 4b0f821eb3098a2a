"""Make the data directory of a server."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from peers.embedded import binaries
from peers.embedded.errors import EmbeddedError
from peers.embedded.locks import locked
from peers.embedded.places import SUPERUSER, Area, give


def installation(area: Area, version: str | None) -> binaries.Installation:
    """Choose the programs for the area. An existing data directory decides the major version."""
    try:
        existing = (area.data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        return binaries.find(version)
    if version not in (None, existing):
        raise EmbeddedError(
            f"{area.data} was made by Postgres {existing}, but version {version} was requested. "
            f"Request {existing}, or name another data folder."
        )
    return binaries.find(existing)


def create(area: Area, version: str | None, *, durable: bool) -> None:
    """Run initdb unless the data directory exists. A half-made one never gets its final name.

    The caller holds the gate.
    """
    if area.data.exists():
        return
    account = area.account()
    found = binaries.usable_by(account, installation(area, version))
    # A process that was killed here may have left an initdb running: this lock waits for its end.
    with locked(Path(area.guarded.server)) as inherited:
        for leftover in area.root.glob("initdb-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix="initdb-", dir=area.root))
        give(unfinished, account)
        command = [str(found.bin / "initdb"), "-D", str(unfinished), f"--username={SUPERUSER}"]
        command += ["--locale=C", "--encoding=UTF8", "--auth-local=trust", "--auth-host=reject"]
        command += ["--no-instructions"] if durable else ["--no-instructions", "--no-sync"]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            pass_fds=(inherited,),
            check=False,
            **account.identity(),
        )
        if done.returncode != 0:
            raise EmbeddedError(
                f"initdb of Postgres {found.version} ({found.bin}) could not make {area.data}: "
                f"it ended with {done.returncode}.\n{(done.stdout + done.stderr).strip()}"
            )
        unfinished.rename(area.data)
