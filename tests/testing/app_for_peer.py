"""Handlers that a real peer runs."""

from __future__ import annotations

import os

from peers import task


@task("pid")
def pid() -> int:
    """Return the process of the worker."""
    return os.getpid()


@task("crash", max_attempts=1)
def crash() -> None:
    """End the worker."""
    os._exit(3)
