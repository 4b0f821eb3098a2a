"""Count latencies in a fixed number of buckets, with three significant figures."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

_PRECISION_BITS: Final = 10
"""A bucket is at most 1/1024 of its values wide."""
_EXACT: Final = 2 << _PRECISION_BITS
"""Microseconds below which each value has a bucket of its own."""
_LONGEST: Final = (1 << 33) - 1
"""Microseconds (2.4 hours); longer latencies count as this one."""


def bucket(microseconds: int) -> int:
    """Return the number of the bucket that counts this latency."""
    value = min(max(microseconds, 0), _LONGEST)
    if value < _EXACT:
        return value
    shift = value.bit_length() - _PRECISION_BITS - 1
    return (shift << _PRECISION_BITS) + (value >> shift)


def lower_bound(number: int) -> int:
    """Return the smallest latency, in microseconds, that this bucket counts."""
    if number < _EXACT:
        return number
    shift = (number >> _PRECISION_BITS) - 1
    return (number - (shift << _PRECISION_BITS)) << shift


BUCKETS: Final = bucket(_LONGEST) + 1
COUNTER: Final = "I"
BYTES: Final = BUCKETS * array(COUNTER).itemsize


def add(histograms: Iterable[bytes]) -> int:
    """Return the sum of histograms, in the form that `percentiles` takes.

    A histogram is a row of 32-bit counters. Read as one large integer it is added by one machine
    instruction for each 30 bits, and no counter here comes near the overflow into its neighbour.
    """
    return sum(int.from_bytes(histogram, "little") for histogram in histograms)


def percentiles(total: int, shares: Iterable[float]) -> list[float]:
    """Return the latencies in milliseconds below which these shares of the counted ones are.

    `total` is what `add` returned, or the difference between a later and an earlier sum.
    """
    counts = array(COUNTER, total.to_bytes(BYTES, "little"))
    filled = [(number, count) for number, count in enumerate(counts) if count]
    everything = sum(count for _, count in filled)
    return [_at(filled, share * everything) / 1000 for share in shares]


def _at(filled: list[tuple[int, int]], rank: float) -> int:
    passed = 0
    for number, count in filled:
        passed += count
        if passed >= rank:
            return lower_bound(number)
    return 0
