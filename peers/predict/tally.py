"""Count a run's rows in its folder, where every worker sees them, also when no command watches.

Handlers cannot query the database. Each count has a place of its own in a file, so that a repeated
attempt counts nothing twice, and workers on several hosts need no lock.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_DEAD: Final = "dead.rows"
"""A byte for each row, which is 1 if the row is dead; sparse."""
_PREDICTED: Final = "predicted.chunks"
"""Eight bytes for each chunk: how many of its rows were predicted together."""
_COUNT: Final = struct.Struct("<q")
_PIECE: Final = 1 << 20


class Tally:
    """The counts of the run in this folder.

    A folder that cannot be written to makes them too small; who must write there fails anyway.
    """

    def __init__(self, folder: Path) -> None:
        self._dead = folder / _DEAD
        self._predicted = folder / _PREDICTED

    def mark_dead(self, rows: Iterable[int]) -> None:
        """Count these rows as dead."""
        _put(self._dead, [(row, b"\1") for row in rows])

    def mark_alive(self, rows: Iterable[int]) -> None:
        """Count them as dead no longer."""
        if self._dead.exists():
            _put(self._dead, [(row, b"\0") for row in rows])

    def note_chunk(self, number: int, predicted: int) -> None:
        """Remember how many rows of a chunk were predicted together."""
        _put(self._predicted, [(number * _COUNT.size, _COUNT.pack(predicted))])

    def dead(self) -> int:
        """Return how many rows are dead."""
        try:
            with self._dead.open("rb") as file:
                return sum(piece.count(1) for piece in iter(lambda: file.read(_PIECE), b""))
        except FileNotFoundError:
            return 0

    def predicted(self) -> int:
        """Return how many rows were predicted together with others."""
        try:
            content = self._predicted.read_bytes()
        except FileNotFoundError:
            return 0
        whole = len(content) - len(content) % _COUNT.size
        return sum(count for (count,) in _COUNT.iter_unpack(content[:whole]))

    def forget_dead(self) -> None:
        """Start over: all dead rows get another chance."""
        self._dead.unlink(missing_ok=True)


def _put(path: Path, pieces: Iterable[tuple[int, bytes]]) -> None:
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            for place, piece in pieces:
                os.pwrite(file, piece, place)
        finally:
            os.close(file)
