"""Divide a batch that failed, to find the items that make it fail.

Three places bisect: a worker whose batch handler raised, the worker pool when a batch crashed or
exhausted its worker, and a prediction whose model raised. Each tries a part again, and divides a
part that fails again. One bad item among n costs about 2·log₂(n) further tries.
"""

from __future__ import annotations

from typing import Protocol, TypeVar


class Sliceable(Protocol):
    """A list, a range, or another sequence whose slices have its own type."""

    def __len__(self) -> int:
        """Return the number of items."""

    def __getitem__(self: S, index: slice, /) -> S:
        """Return a slice."""


S = TypeVar("S", bound=Sliceable)


def halves(items: S) -> list[S]:
    """Return the first half and the rest, without empty ones.

    The first half is the larger one. The halves of a range are ranges, so nothing is copied.
    """
    middle = (len(items) + 1) // 2
    return [half for half in (items[:middle], items[middle:]) if len(half)]
