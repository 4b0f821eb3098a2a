"""The state of a peer that all its parts read."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from peers.metrics.counts import Counts


@dataclass(slots=True)
class PeerState:
    """The identity of the peer, what it counts, and whether it is draining.

    Only the main loop changes it.
    """

    peer_id: UUID | None = None
    """None before it has joined, and after it has lost its leases."""
    draining: bool = False
    counts: Counts = field(default_factory=Counts)
