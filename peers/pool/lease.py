"""A claimed task that is handled by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peers.database.rows import Claimed

if TYPE_CHECKING:
    from peers.pool.claim import Claim
    from peers.pool.local_queue import LocalQueue


@dataclass(slots=True, eq=False)
class Lease:
    """One task of a claim, made when this task is handled by itself: see `Claim.lease`."""

    claim: Claim
    index: int
    """Its place in the claim."""
    task: Claimed
    claimed_at: float
    """When (monotonic) it was claimed, or began to wait for another run in isolation."""
    cancelled: bool = False
    stopped_because: str | None = None
    """Why this peer itself stopped its handler."""

    @property
    def local_queue(self) -> LocalQueue:
        """Return the queue that it was claimed from."""
        return self.claim.local_queue

    def run_again(self, now: float) -> None:
        """Wait from now on for another run: the first one may have started the handler."""
        self.claimed_at = now
        self.claim.rerun.add(self.index)

    @property
    def token(self) -> bytes:
        """Return the 16 bytes of its token."""
        return self.claim.token
