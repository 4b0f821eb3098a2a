"""Handlers that start other programs."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from peers import task
from tests.e2e.ledger import recorded


@task("waits.for.programs", max_attempts=1)
def waits_for_programs() -> dict[str, Any]:
    """Waits for a program, for one behind a shell, and leaves one that its child has started."""
    with recorded():
        subprocess.Popen("sleep 1000 & sleep 1000; true", shell=True)  # noqa: S602 - the point of it
        subprocess.Popen(["sh", "-c", "sh -c 'sleep 1000' & exit 0"])
        subprocess.run(["sleep", "1000"], check=True)
        return {"pid": os.getpid()}
