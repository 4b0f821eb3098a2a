"""Who is told what becomes of the leases that workers were given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from peers.errors import PeersError
from peers.pool.isolation import Suspects
from peers.pool.local_queue import Lease


class OutcomeListener(Protocol):
    """Who is told what becomes of leases."""

    def completed(self, lease: Lease, result: bytes) -> None:
        """The handler returned; `result` is JSON."""

    def failed(self, lease: Lease, failure: dict[str, object]) -> None:
        """The attempt failed; `failure` has the fields that peers.fail takes."""

    def divided(self, parts: list[list[Lease]]) -> None:
        """Parts of a batch that killed its worker: call each again, under the same leases."""

    def suspected(self, parts: list[Suspects]) -> None:
        """Calls one of which spoilt a worker: each part is to run in a fresh one, apart."""

    def unstarted(self, leases: list[Lease]) -> None:
        """They were not started: they can be handed out again under the same lease."""

    def aborted(self, leases: list[Lease]) -> None:
        """They may have been started, and were stopped without a fault of theirs."""

    def asked(
        self, lease: Lease, verb: str, body: bytes, reply: Callable[[bytes | PeersError], None]
    ) -> None:
        """A handler asks the scheduler; `reply` is called later, in the main loop."""
