"""Run tasks again in workers of their own, to find the one that crashed or exhausted its worker."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from peers.bisect import halves
from peers.pool.lease import Lease


class WorkerRole(Enum):
    """What a worker is started for."""

    ORDINARY = "whatever comes"
    ISOLATED_SYNC = "one isolated group, of sync handlers"
    ISOLATED_ASYNC = "one isolated group, of async handlers"


@dataclass(slots=True, eq=False)
class IsolatedGroup:
    """Batches one of which crashed or exhausted its worker; it is not known which.

    They keep their leases and run again in a fresh worker that gets nothing else. If that worker
    ends the same way, the group is bisected. So the other tasks complete, and the one that ends its
    worker is isolated in the end. A task of an ordinary handler is a batch of one.
    """

    batches: list[list[Lease]]
    asynchronous: bool

    @property
    def role(self) -> WorkerRole:
        """Return the role of the workers that can run it."""
        return WorkerRole.ISOLATED_ASYNC if self.asynchronous else WorkerRole.ISOLATED_SYNC

    @property
    def leases(self) -> list[Lease]:
        """Return the leases of all batches."""
        return [lease for batch in self.batches for lease in batch]

    @property
    def slots(self) -> int:
        """Return how many slots the group takes while it runs."""
        return len(self.batches) if self.asynchronous else 1

    def halves(self) -> list[IsolatedGroup]:
        """Return two groups of half the batches, or of half the tasks of the only batch."""
        if len(self.batches) > 1:
            parts = halves(self.batches)
        else:
            parts = [[half] for half in halves(self.batches[0])]
        return [IsolatedGroup(batches, self.asynchronous) for batches in parts]
