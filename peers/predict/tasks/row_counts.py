"""Count a run's rows in its folder, where every worker can read them.

Handlers cannot query the database. Each count has a fixed place in a file, so a repeated attempt
counts nothing twice, and workers on several hosts need no lock.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_DEAD: Final = "dead.rows"
"""A sparse file with a byte for each row, which is 1 if the row is dead."""
_PREDICTED: Final = "predicted.chunks"
"""Eight bytes for each chunk: how many of its rows were predicted in batches."""
_COUNT: Final = struct.Struct("<q")
_READ_BYTES: Final = 1 << 20


class RowCounts:
    """The counts of the run in this folder.

    In a folder that cannot be written to they stay too small. The tasks fail there anyway.
    """

    def __init__(self, folder: Path) -> None:
        self._dead = folder / _DEAD
        self._predicted = folder / _PREDICTED

    def mark_dead(self, rows: Iterable[int]) -> None:
        """Count these rows as dead."""
        _write(self._dead, [(row, b"\1") for row in rows])

    def mark_alive(self, rows: Iterable[int]) -> None:
        """Stop counting these rows as dead."""
        if self._dead.exists():
            _write(self._dead, [(row, b"\0") for row in rows])

    def record_chunk(self, number: int, predicted: int) -> None:
        """Record how many rows of a chunk were predicted in batches."""
        _write(self._predicted, [(number * _COUNT.size, _COUNT.pack(predicted))])

    def dead(self) -> int:
        """Return how many rows are dead."""
        try:
            file = os.open(self._dead, os.O_RDONLY)
        except FileNotFoundError:
            return 0
        try:
            return sum(_ones(file, first, stop) for first, stop in _data_ranges(file))
        finally:
            os.close(file)

    def predicted(self) -> int:
        """Return how many rows were predicted in batches."""
        try:
            content = self._predicted.read_bytes()
        except FileNotFoundError:
            return 0
        whole = len(content) - len(content) % _COUNT.size
        return sum(count for (count,) in _COUNT.iter_unpack(content[:whole]))

    def forget_dead(self) -> None:
        """Count no row as dead: all of them are retried."""
        self._dead.unlink(missing_ok=True)


def _data_ranges(file: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a sparse file that hold data: it has room for every row."""
    size, place = os.fstat(file).st_size, 0
    while place < size:
        try:
            first = os.lseek(file, place, os.SEEK_DATA)
        except OSError:  # ENXIO: there is no more data
            return
        place = os.lseek(file, first, os.SEEK_HOLE)
        yield first, place


def _ones(file: int, first: int, stop: int) -> int:
    found = 0
    for place in range(first, stop, _READ_BYTES):
        found += os.pread(file, min(_READ_BYTES, stop - place), place).count(1)
    return found


def _write(path: Path, pieces: Iterable[tuple[int, bytes]]) -> None:
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            for place, piece in pieces:
                os.pwrite(file, piece, place)
        finally:
            os.close(file)
