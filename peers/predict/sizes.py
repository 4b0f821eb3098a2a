"""How many rows a chunk and a call of the model should have, by the time and memory they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from peers.predict.models import stopwatch

SAMPLE_ROWS: Final = 16_384
REMOTE_BATCH_SIZE: Final = 256
"""Rows in a request to a model that is waited for: it says nothing of its memory or its time."""
MOST_DEATHS: Final = 130
"""Of workers in one chunk, if every batch of it kills its worker: see most_after."""

_SAMPLE_BYTES: Final = 1 << 23
_CALL_SECONDS: Final = 0.05
"""Of a call of the model: one that takes twice as long as expected harms nobody."""
_LONGEST_CALL_SECONDS: Final = 0.5
_CALLS_OVERHEAD: Final = 1 / 50
"""What a call costs whatever its rows, by what it costs with them: a forest of 200 trees needs 8 ms
for one row."""
_TOLERANCE: Final = 2.0
_GROWTH: Final = 4.0
_LONG_ENOUGH: Final = 0.02
_CLEARLY_LONG: Final = 0.5
_TRIES: Final = 3
_FIRST_ROWS: Final = 32
"""Of the first call, where nothing was measured."""
_BATCH_BYTES: Final = 1 << 25
_CHUNK_SECONDS: Final = 1.0
_LONG_CHUNK_SECONDS: Final = 10.0
"""If it has few rows: what a chunk costs by itself is not worth less."""
_CHUNK_BYTES: Final = 1 << 25
_CHUNK_ROWS: Final = 2048
"""A small input is not cut smaller for the sake of an even end."""
_FEWEST_ROWS: Final = 256
_FEWEST_CHUNKS: Final = 16
"""Of a large input: some for each worker, so that all end at about the same time."""
_MOST_CHUNKS: Final = 4000
_MOST_ROWS: Final = 125_000
"""Of a large input, so that it takes no more memory than 2 million rows. Larger chunks are no
faster: 2 million rows of 8 doubles take 0.44 s of CPU time with 125,000 or 250,000.
"""
_SMALL: Final = 64
_MEDIUM: Final = 4096
_MANY_DEATHS: Final = 64
_BATCHES_BY_SIZE: Final = 8
_MOST_BATCHES_BY_SIZE: Final = 64
_CHUNKS_BY_SIZE: Final = 1000


@dataclass(frozen=True, slots=True)
class Measured:
    """What a few calls of the model showed.

    `row_bytes`: of its features in memory. `row_seconds`: of a call with one row.
    """

    rows_per_second: float
    row_bytes: float
    row_seconds: float = 0.0

    @property
    def call_seconds(self) -> float:
        """How long a call should take, so that what each costs by itself is lost in it."""
        wanted = self.row_seconds / _CALLS_OVERHEAD
        return min(max(_CALL_SECONDS, wanted), _LONGEST_CALL_SECONDS)


def sample_rows(columns: int) -> int:
    """Return how many rows of so many columns to try the model with."""
    return max(_FIRST_ROWS, min(SAMPLE_ROWS, _SAMPLE_BYTES // (8 * max(1, columns))))


def measure(call: Callable[[pa.Table], object], sample: pa.Table) -> Measured:
    """Call the model with ever more rows of the sample, until a call takes long enough to tell.

    What a call costs by itself must not count for much then.
    """
    rows, seconds = min(1, sample.num_rows), 0.0
    seconds = row_seconds = _shortest(call, sample.slice(0, rows))
    while rows < sample.num_rows and seconds < _CLEARLY_LONG:
        if seconds >= _LONG_ENOUGH and seconds >= _GROWTH / 2 * row_seconds and rows > 1:
            break
        rows = min(int(rows * _GROWTH), sample.num_rows)
        seconds = _shortest(call, sample.slice(0, rows))
    row_bytes = sample.nbytes / max(1, sample.num_rows)
    return Measured(rows / max(seconds, 1e-6), max(1.0, row_bytes), row_seconds)


def _shortest(call: Callable[[pa.Table], object], rows: pa.Table) -> float:
    """Return how long the call takes; one that is short may be delayed now and then."""
    seconds = math.inf
    for _ in range(_TRIES):
        began = stopwatch.seconds()
        call(rows)
        seconds = min(seconds, stopwatch.seconds() - began)
        if not _LONG_ENOUGH <= seconds < _CLEARLY_LONG:
            break
    return seconds


def chunk_rows(rows: int, measured: Measured | None, batch_size: int | None) -> int:
    """Return how many rows a chunk should have: about a second of work, small enough for memory.

    `batch_size`: what the user bounds a batch to; a chunk is bounded in proportion.
    """
    most = float(_CHUNK_ROWS)
    if measured is not None:
        even = math.ceil(rows / _FEWEST_CHUNKS)
        rate = measured.rows_per_second
        least = min(_FEWEST_ROWS, even, rate * _LONG_CHUNK_SECONDS)
        most = max(least, min(rate * _CHUNK_SECONDS, max(even, _CHUNK_ROWS), _MOST_ROWS))
        most = min(most, _CHUNK_BYTES / measured.row_bytes)
    if batch_size is not None:
        most = min(most, _chunk_of_batches(rows, batch_size, _BATCHES_BY_SIZE))
    return max(1, int(most), math.ceil(rows / _MOST_CHUNKS))


def remote_chunk_rows(rows: int, batch_size: int) -> int:
    """Return the same for a model that is waited for: a chunk makes one request at a time."""
    return _chunk_of_batches(rows, batch_size, 1)


def _chunk_of_batches(rows: int, batch_size: int, fewest: int) -> int:
    batches = math.ceil(rows / (_CHUNKS_BY_SIZE * batch_size))
    return batch_size * min(max(batches, fewest), _MOST_BATCHES_BY_SIZE)


def batch_rows(measured: Measured | None, batch_size: int | None) -> int:
    """Return the most rows that a call of the model may have, for the sake of memory."""
    if batch_size is not None:
        return batch_size
    return _MEDIUM if measured is None else max(1, int(_BATCH_BYTES / measured.row_bytes))


def most_after(killers: Sequence[int], batch_size: int) -> int:
    """Return the most rows in a call of a chunk; `killers`: sizes of batches its workers died of.

    Rows of a batch that killed the worker become tasks of their own, so it must not be large; but a
    chunk has so many attempts only, so the batches are larger again where many of them do that.
    Each time they are smaller than those of the batches that are gone through again.
    """
    if not killers:
        return batch_size
    is_first = len(killers) == 1 and killers[0] > _MEDIUM
    return min(batch_size, _MEDIUM if is_first or len(killers) > _MANY_DEATHS else _SMALL)


def most_alone(deaths: int) -> int:
    """Return how many rows of a batch that killed the worker may become tasks of their own."""
    return _SMALL if deaths <= _MANY_DEATHS else _MEDIUM


class Pace:
    """How many rows the next call of the model should have, by how long the last ones took."""

    def __init__(
        self, rows_per_second: float | None, call_seconds: float | None, timeout: float | None
    ) -> None:
        """`call_seconds`: as measured; `timeout`: seconds of a call that may not be reached."""
        seconds = call_seconds or _CALL_SECONDS
        self._seconds = seconds if timeout is None else min(seconds, timeout / 10)
        rows = _FIRST_ROWS if rows_per_second is None else rows_per_second * self._seconds
        self.rows = max(1, int(rows))

    def took(self, rows: int, seconds: float) -> None:
        """Learn from a call."""
        factor = self._seconds / max(seconds, 1e-6)
        is_short = factor > 1 and rows < self.rows  # as the last one of a chunk is
        if not is_short and not 1 / _TOLERANCE < factor < _TOLERANCE:
            self.rows = max(1, int(rows * min(max(factor, 1 / _GROWTH), _GROWTH)))
