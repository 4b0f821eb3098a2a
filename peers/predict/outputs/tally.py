"""Count a run's rows in its folder, where every worker sees them, also when no command watches.

Handlers cannot query the database. Each count has a place of its own in a file, so that a repeated
attempt counts nothing twice, and workers on several hosts need no lock.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator
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
            file = os.open(self._dead, os.O_RDONLY)
        except FileNotFoundError:
            return 0
        try:
            return sum(_ones(file, first, stop) for first, stop in _written(file))
        finally:
            os.close(file)

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


def _written(file: int) -> Iterator[tuple[int, int]]:
    """Yield where the file holds something: it has room for every row, and few are dead."""
    size, place = os.fstat(file).st_size, 0
    while place < size:
        try:
            first = os.lseek(file, place, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing follows
            return
        place = os.lseek(file, first, os.SEEK_HOLE)
        yield first, place


def _ones(file: int, first: int, stop: int) -> int:
    found = 0
    for place in range(first, stop, _PIECE):
        found += os.pread(file, min(_PIECE, stop - place), place).count(1)
    return found


def _put(path: Path, pieces: Iterable[tuple[int, bytes]]) -> None:
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            for place, piece in pieces:
                os.pwrite(file, piece, place)
        finally:
            os.close(file)
