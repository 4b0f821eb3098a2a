"""Decide how many rows a chunk has, by the time and memory that they take."""

from __future__ import annotations

import math
from typing import Final

from peers.predict.tasks.measure import Measurement

REMOTE_BATCH_SIZE: Final = 256
"""Rows in a request to a remote model, whose memory and time are unknown."""

_CHUNK_SECONDS: Final = 1.0
_LONG_CHUNK_SECONDS: Final = 10.0
"""For chunks of few rows, so that the fixed cost of a chunk stays small beside them."""
_CHUNK_BYTES: Final = 1 << 25
_CHUNK_ROWS: Final = 2048
"""A small input is not cut into smaller chunks only so that workers end together."""
_MIN_ROWS: Final = 256
_MIN_CHUNKS: Final = 16
"""Of a large input: several for each worker, so that all workers end at about the same time."""
_MAX_CHUNKS: Final = 4000
_MAX_ROWS: Final = 125_000
"""Of a large input: it bounds the memory. Larger chunks are no faster: 2 million rows of 8 doubles
take 0.44 s of CPU time with 125,000 or 250,000.
"""
_MIN_BATCHES: Final = 8
_MAX_BATCHES: Final = 64
_CHUNKS_OF_BATCHES: Final = 1000


def chunk_rows(rows: int, measured: Measurement | None, batch_size: int | None) -> int:
    """Return how many rows a chunk has: about a second of work that fits into memory.

    `batch_size`: the user's limit for a batch, which bounds the chunk in proportion.
    """
    most = float(_CHUNK_ROWS)
    if measured is not None:
        even = math.ceil(rows / _MIN_CHUNKS)
        rate = measured.rows_per_second
        least = min(_MIN_ROWS, even, rate * _LONG_CHUNK_SECONDS)
        most = max(least, min(rate * _CHUNK_SECONDS, max(even, _CHUNK_ROWS), _MAX_ROWS))
        most = min(most, _CHUNK_BYTES / measured.row_bytes)
    if batch_size is not None:
        most = min(most, _rows_of_batches(rows, batch_size, _MIN_BATCHES))
    return max(1, int(most), math.ceil(rows / _MAX_CHUNKS))


def remote_chunk_rows(rows: int, batch_size: int) -> int:
    """Return the same for a remote model: a chunk makes one request at a time."""
    return _rows_of_batches(rows, batch_size, 1)


def _rows_of_batches(rows: int, batch_size: int, min_batches: int) -> int:
    batches = math.ceil(rows / (_CHUNKS_OF_BATCHES * batch_size))
    return batch_size * min(max(batches, min_batches), _MAX_BATCHES)
