"""Decide how many rows a call of the model has, by the time that calls take and what crashed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from peers.predict.tasks.measure import CALL_SECONDS, FIRST_ROWS, Measurement

MAX_CRASHES: Final = 130
"""Worker deaths in one chunk, if every batch of it kills its worker: see max_batch_rows_after."""

_TOLERANCE: Final = 2.0
_MAX_GROWTH: Final = 4.0
_BATCH_BYTES: Final = 1 << 25
_SMALL: Final = 64
_MEDIUM: Final = 4096
_MANY_CRASHES: Final = 64


def max_batch_rows(measured: Measurement | None, batch_size: int | None) -> int:
    """Return the most rows that a call of the model may have; memory sets the limit."""
    if batch_size is not None:
        return batch_size
    return _MEDIUM if measured is None else max(1, int(_BATCH_BYTES / measured.row_bytes))


def max_batch_rows_after(crashed: Sequence[int], batch_size: int) -> int:
    """Return the most rows in a call of a chunk; `crashed`: sizes of batches that killed workers.

    Rows of a batch that killed its worker become tasks of their own, so the batch must not be
    large. But a chunk has a limited number of attempts, so batches grow again where many of them
    crash. A batch whose rows are tried again is cut into smaller ones each time.
    """
    if not crashed:
        return batch_size
    is_first = len(crashed) == 1 and crashed[0] > _MEDIUM
    return min(batch_size, _MEDIUM if is_first or len(crashed) > _MANY_CRASHES else _SMALL)


def max_isolated_rows(crashes: int) -> int:
    """Return how many rows of a batch that killed its worker may become tasks of their own."""
    return _SMALL if crashes <= _MANY_CRASHES else _MEDIUM


class BatchSizer:
    """Decide how many rows the next call of the model has, by how long the last ones took."""

    def __init__(
        self, rows_per_second: float | None, call_seconds: float | None, timeout: float | None
    ) -> None:
        """Start from the measurement; stay far below `timeout`, the limit of a call in seconds."""
        seconds = call_seconds or CALL_SECONDS
        self._seconds = seconds if timeout is None else min(seconds, timeout / 10)
        rows = FIRST_ROWS if rows_per_second is None else rows_per_second * self._seconds
        self.rows = max(1, int(rows))

    def record_call(self, rows: int, seconds: float) -> None:
        """Adjust the size by the time that a call took."""
        factor = self._seconds / max(seconds, 1e-6)
        is_short = factor > 1 and rows < self.rows  # such as the last batch of a chunk
        if not is_short and not 1 / _TOLERANCE < factor < _TOLERANCE:
            self.rows = max(1, int(rows * min(max(factor, 1 / _MAX_GROWTH), _MAX_GROWTH)))
