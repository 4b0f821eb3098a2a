"""Calls one of which did something to its worker, and how the culprit is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from peers.pool.local_queue import Lease

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Suspects:
    """Calls one of which did something to its worker, and nobody knows which.

    They run again under their leases, apart from all others, in a worker of their own. If that
    goes wrong again, in halves: so innocent ones complete, and the culprit is alone in the end.
    """

    calls: list[list[Lease]]
    asynchronous: bool

    @property
    def leases(self) -> list[Lease]:
        """Return those of all calls."""
        return [lease for call in self.calls for lease in call]

    @property
    def slots(self) -> int:
        """Return how many slots they take while they run."""
        return len(self.calls) if self.asynchronous else 1

    def halves(self) -> list[Suspects]:
        """Divide the calls, or the tasks of the only one."""
        if len(self.calls) > 1:
            halves = half(self.calls)
        else:
            halves = [[part] for part in half(self.calls[0])]
        return [Suspects(calls, self.asynchronous) for calls in halves]


def half(whole: list[T]) -> list[list[T]]:
    """Return the first half and the rest."""
    middle = (len(whole) + 1) // 2
    return [part for part in (whole[:middle], whole[middle:]) if part]
