"""Tell which leases of a queue can be assigned together."""

from __future__ import annotations

from typing import NamedTuple

from peers.database.rows import Claimed
from peers.protocol.messages import KindDeclared


class BatchKey(NamedTuple):
    """Which leases can be assigned together: sync ones, async ones, or those of a batch handler.

    Batches are of one `kind` and `timeout`, have up to `size` tasks, and wait up to `wait` seconds
    to be full.
    """

    asynchronous: bool
    kind: str | None = None
    timeout: float | None = None
    size: int = 0
    wait: float = 0.0

    @classmethod
    def of(cls, task: Claimed, declared: KindDeclared | None) -> BatchKey:
        """Return the key of a task, whose kind the app has declared like this."""
        if declared is None:
            return cls(False)
        if declared.batch_size is None:
            return cls(declared.asynchronous)
        return cls(
            declared.asynchronous, task.kind, task.timeout,
            declared.batch_size, declared.batch_wait,
        )  # fmt: skip
