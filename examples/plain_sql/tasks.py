"""What peers run: `peers run --app plain_sql.tasks`."""

from __future__ import annotations

from pathlib import Path

from peers import current_task, task


@task("words.count", max_attempts=2)
def count(path: Path) -> int:
    """Return how many words the file has."""
    return len(path.read_text().split())


@task("words.total")
def total() -> int:
    """Return the sum of what the parents returned."""
    return sum(parent.result for parent in current_task().parents())
