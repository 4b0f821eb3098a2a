"""Count how long things take, by the same bounds as the database."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

BOUNDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0,
)  # fmt: skip
"""Seconds: the upper bounds of the buckets, the same as peers.metric_bounds() in SQL."""


class Histogram:
    """How many durations fell into each bucket, and their sum.

    The main loop counts while other threads read. A reader may see a duration in a bucket before it
    is in the sum.
    """

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        """The last one counts durations beyond all bounds."""
        self.seconds = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a duration, or several that are equal."""
        self.buckets[bisect_left(BOUNDS, seconds)] += times
        self.seconds += seconds * times
