"""The state of a peer that all its parts read."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(slots=True)
class PeerState:
    """The identity of the peer, and whether it is draining. Only the main loop changes it."""

    peer_id: UUID | None = None
    """None before it has joined, and after it has lost its leases."""
    draining: bool = False
