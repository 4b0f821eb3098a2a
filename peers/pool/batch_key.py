"""Tell which tasks of a queue can be assigned together."""

from __future__ import annotations

from typing import NamedTuple

from peers.protocol.messages import KindDeclared


class BatchKey(NamedTuple):
    """Which tasks can be assigned together: sync ones, async ones, or those of a batch handler.

    Batches are of one `kind` and `timeout`, have up to `size` tasks, and wait up to `wait` seconds
    to be full.
    """

    asynchronous: bool
    kind: str | None = None
    timeout: float | None = None
    size: int = 0
    wait: float = 0.0

    @classmethod
    def of(cls, declared: KindDeclared | None, timeout: float | None) -> BatchKey:
        """Return the key of a task with this timeout, whose kind the app has declared like this."""
        if declared is None:
            return cls(False)
        if declared.batch_size is None:
            return cls(declared.asynchronous)
        return cls(
            declared.asynchronous, declared.kind, timeout, declared.batch_size, declared.batch_wait
        )
