"""Count how often each isolated row was submitted: a cancelled row gets a new task.

The number is part of the task's idempotency key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from peers.predict.atomic_files import atomic_write

_FILE: Final = "row-submissions.json"


def row_submissions(folder: Path) -> dict[int, int]:
    """Return the submission number of each row that is past its first. Raises OSError."""
    try:
        text = (folder / _FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return {int(row): number for row, number in json.loads(text).items()}


def begin_submission(folder: Path, rows: Iterable[int]) -> None:
    """Give each of these rows its next submission number. Raises StorageFailed."""
    numbers = row_submissions(folder)
    numbers |= {row: numbers.get(row, 1) + 1 for row in rows}
    with atomic_write(folder / _FILE) as temporary:
        temporary.write_text(json.dumps(numbers), encoding="utf-8")
