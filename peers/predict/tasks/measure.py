"""Measure how fast a model is, with a few calls before the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from peers.predict.tasks import cpu_clock

CALL_SECONDS: Final = 0.05
"""The time that a call should take. A call may take twice as long without harm."""
FIRST_ROWS: Final = 32
"""Rows of the first call of a model that was not measured."""

_SAMPLE_ROWS: Final = 16_384
_SAMPLE_BYTES: Final = 1 << 23
_MAX_CALL_SECONDS: Final = 0.5
_OVERHEAD_SHARE: Final = 1 / 50
"""The fixed cost of a call, as a share of its time: a forest of 200 trees needs 8 ms for one row.
"""
_GROWTH: Final = 4.0
_LONG_ENOUGH: Final = 0.02
_CLEARLY_LONG: Final = 0.5
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of a few calls of the model.

    `row_bytes`: the size of a row's features in memory. `row_seconds`: the time of a call with one
    row.
    """

    rows_per_second: float
    row_bytes: float
    row_seconds: float = 0.0

    @property
    def call_seconds(self) -> float:
        """How long a call should take, so that its fixed cost hardly counts."""
        wanted = self.row_seconds / _OVERHEAD_SHARE
        return min(max(CALL_SECONDS, wanted), _MAX_CALL_SECONDS)


def sample_rows(columns: int) -> int:
    """Return how many rows of so many columns the smoke test uses."""
    return max(FIRST_ROWS, min(_SAMPLE_ROWS, _SAMPLE_BYTES // (8 * max(1, columns))))


def measure(call: Callable[[pa.Table], object], sample: pa.Table) -> Measurement:
    """Call the model with more and more rows of the sample, until a call takes long enough.

    The fixed cost of a call must be a small part of the time that is measured.
    """
    rows, seconds = min(1, sample.num_rows), 0.0
    seconds = row_seconds = _shortest(call, sample.slice(0, rows))
    while rows < sample.num_rows and seconds < _CLEARLY_LONG:
        if seconds >= _LONG_ENOUGH and seconds >= _GROWTH / 2 * row_seconds and rows > 1:
            break
        rows = min(int(rows * _GROWTH), sample.num_rows)
        seconds = _shortest(call, sample.slice(0, rows))
    row_bytes = sample.nbytes / max(1, sample.num_rows)
    return Measurement(rows / max(seconds, 1e-6), max(1.0, row_bytes), row_seconds)


def _shortest(call: Callable[[pa.Table], object], rows: pa.Table) -> float:
    """Return how long the call takes; repeat a short one, which the system may have delayed."""
    seconds = math.inf
    for _ in range(_TRIES):
        began = cpu_clock.seconds()
        call(rows)
        seconds = min(seconds, cpu_clock.seconds() - began)
        if not _LONG_ENOUGH <= seconds < _CLEARLY_LONG:
            break
    return seconds
