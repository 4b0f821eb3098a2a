"""Calls one of which did something to its worker, and how the culprit is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peers.bisect import halves

if TYPE_CHECKING:
    from peers.pool.local_queue import Lease


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
            parts = halves(self.calls)
        else:
            parts = [[part] for part in halves(self.calls[0])]
        return [Suspects(calls, self.asynchronous) for calls in parts]
