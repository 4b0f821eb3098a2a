"""Parquet can only be read forward: chunk after chunk, from where the one before ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.errors import InputError

_BUFFER: Final = 1 << 18
"""Bytes that are read at once of each column; else its share of the row group would be held."""


class RowGroup:
    """One row group of a file, a piece at a time in memory; each row is decoded once going forward.

    A worker's chunks come in the order of the input, nearly always. One that lies before the last
    one costs a new start from the head of the group.
    """

    def __init__(self, path: str, group: int, columns: Sequence[str]) -> None:
        self._path = path
        self._group = group
        self._columns = list(columns)
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None
        self._begin = 0

    def rows(self, first: int, count: int) -> pa.Table:
        """These rows, counted from the head of the group, the columns in the order asked for.

        Raises InputError if the group has fewer, pyarrow's errors if it cannot be decoded; what
        is known of the place in the file is lost then.
        """
        batch = self._batch
        if batch is None or first < self._begin:
            batch = self._start(count)
        pieces: list[pa.RecordBatch] = []
        while True:
            piece = batch.slice(min(max(0, first - self._begin), batch.num_rows), count)
            pieces.append(piece)
            first, count = first + piece.num_rows, count - piece.num_rows
            if not count:
                return pa.Table.from_batches(pieces).select(self._columns)
            batch = self._next()

    def _start(self, piece: int) -> pa.RecordBatch:
        file = pq.ParquetFile(self._path, buffer_size=_BUFFER)
        self._batches = file.iter_batches(
            batch_size=piece, row_groups=[self._group], columns=self._columns, use_threads=False
        )
        self._batch, self._begin = None, 0
        return self._next()

    def _next(self) -> pa.RecordBatch:
        behind, self._batch = self._batch, None
        batch = next(self._batches, None)
        if batch is None:
            raise InputError(
                f"row group {self._group} of {self._path} has fewer rows than were planned"
            )
        self._begin += 0 if behind is None else behind.num_rows
        self._batch = batch
        return batch
