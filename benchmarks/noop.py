"""A handler that does nothing, for measuring all the rest."""

from __future__ import annotations

from peers import task


@task("bench.noop")
def noop() -> int:
    """One call and one result."""
    return 1
