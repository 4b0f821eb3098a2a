"""The interface that the worker pool reports to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from peers.errors import PeersError
from peers.pool.claim import TaskRun
from peers.pool.isolation import IsolatedGroup
from peers.pool.lease import Lease
from peers.pool.log_tail import KeptText


class OutcomeListener(Protocol):
    """Receives the outcomes of the tasks that workers were assigned."""

    def completed_run(self, run: TaskRun, results: bytes) -> None:
        """Take the results of some tasks of one kind: a JSON array with one for each."""

    def ran(self, queue: str, kind: str, seconds: float, tasks: int) -> None:
        """Take how long each of some attempts ran that their handlers have ended."""

    def failed(self, lease: Lease, failure: dict[str, object]) -> None:
        """Take the failure of an attempt, with the fields that peers.fail takes."""

    def logged(self, lease: Lease, outcome: str | None, log: KeptText | None) -> None:
        """Take the log of an attempt: "failed", "completed", or None if it runs.

        `log` None: forget what was stored while it ran.
        """

    def bisected(self, parts: list[list[Lease]]) -> None:
        """Take the parts of a batch that crashed its worker: each is to be called again."""

    def isolated(self, groups: list[IsolatedGroup]) -> None:
        """Take groups that are to run again, each in a fresh worker of its own."""

    def requeued(self, leases: list[Lease]) -> None:
        """Take back leases that did not start: they can be assigned again."""

    def released(self, leases: list[Lease]) -> None:
        """Take back leases that may have started, and were stopped through no fault of theirs."""

    def requested(
        self, lease: Lease, verb: str, body: bytes, reply: Callable[[bytes | PeersError], None]
    ) -> None:
        """Take a handler's request; `reply` is called later, in the main loop."""
