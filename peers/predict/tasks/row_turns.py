"""Which rows that stand alone need another task, because theirs was cancelled with the run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from peers.predict.outputs import replaced

_FILE: Final = "row-turns.json"


def row_turns(folder: Path) -> dict[int, int]:
    """Return the turn of each row that is not in its first one. Raises OSError."""
    try:
        text = (folder / _FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return {int(row): turn for row, turn in json.loads(text).items()}


def begin_turn(folder: Path, rows: Iterable[int]) -> None:
    """Give these rows another turn. Raises StorageFailed."""
    turns = row_turns(folder)
    turns |= {row: turns.get(row, 1) + 1 for row in rows}
    with replaced(folder / _FILE) as temporary:
        temporary.write_text(json.dumps(turns), encoding="utf-8")
