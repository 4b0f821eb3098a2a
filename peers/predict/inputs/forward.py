"""Parquet can only be read forward: chunk after chunk, from where the one before ended."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator
from itertools import accumulate
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.errors import InputError

_BUFFER: Final = 1 << 18
"""Bytes that are read at once of each column; else its share of the row group would be held."""


def streaming(path: str, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Open a file of which only what is being decoded is held in memory.

    By default pyarrow reads ahead, and keeps all that it has read until the file is closed: of 20
    million rows of eight doubles 1.2 GB.
    """
    return pq.ParquetFile(path, metadata=metadata, buffer_size=_BUFFER, pre_buffer=False)


class ForwardReader:
    """Rows of a Parquet file, a piece at a time in memory; each is decoded once going forward.

    A worker's chunks come in the order of the input, nearly always. One that lies before the last
    one, or beyond the row groups that come next, costs a new start from the head of its group.
    """

    def __init__(self, path: str, columns: Collection[str]) -> None:
        """Open the file, and read those of the columns that it has."""
        self._path = path
        file = streaming(path)
        self._metadata = file.metadata
        names = set(file.schema_arrow.names)
        self.columns = [name for name in columns if name in names]
        groups = range(self._metadata.num_row_groups)
        sizes = (self._metadata.row_group(group).num_rows for group in groups)
        self._heads = list(accumulate(sizes, initial=0))[:-1]
        """The first row of each group."""
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None
        self._begin = 0
        """The first row of the batch."""

    def rows(self, first: int, count: int) -> pa.Table:
        """Return these rows, counted from the head of the file.

        Raises InputError if the file has fewer, pyarrow's errors if it cannot be decoded; what is
        known of the place in the file is lost then.
        """
        batch = self._batch
        if batch is None or not self._is_ahead(first, batch):
            batch = self._start(first, count)
        pieces: list[pa.RecordBatch] = []
        while True:
            piece = batch.slice(min(max(0, first - self._begin), batch.num_rows), count)
            pieces.append(piece)
            first, count = first + piece.num_rows, count - piece.num_rows
            if not count:
                return pa.Table.from_batches(pieces).select(self.columns)
            batch = self._next()

    def _is_ahead(self, first: int, batch: pa.RecordBatch) -> bool:
        """Return whether this row comes soonest by reading on."""
        head = self._heads[bisect_right(self._heads, first) - 1]
        return self._begin <= first and head <= self._begin + batch.num_rows

    def _start(self, first: int, piece: int) -> pa.RecordBatch:
        file = streaming(self._path, self._metadata)
        group = bisect_right(self._heads, first) - 1
        self._batches = file.iter_batches(
            batch_size=piece,
            row_groups=range(len(self._heads))[group:],
            columns=self.columns,
            use_threads=False,
        )
        self._batch, self._begin = None, self._heads[group]
        return self._next()

    def _next(self) -> pa.RecordBatch:
        behind, self._batch = self._batch, None
        batch = next(self._batches, None)
        if batch is None:
            raise InputError(f"{self._path} has fewer rows than were planned")
        self._begin += 0 if behind is None else behind.num_rows
        self._batch = batch
        return batch
