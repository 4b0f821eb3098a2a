"""Decide how many tasks of a queue to claim with the next statement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING

from peers.pool.batch_key import BatchKey
from peers.pool.durations import (
    ARGS_MAX_BYTES,
    CLAIM_MAX_TASKS,
    HELD_MAX_TASKS,
    DurationEstimate,
    claim_size,
)
from peers.protocol.messages import KindDeclared

if TYPE_CHECKING:
    from peers.pool.claim import Claim


class ClaimSizer:
    """Derives the size of a queue's next claim from its last one."""

    def __init__(
        self, slots: int, durations: DurationEstimate, kinds: Mapping[str, KindDeclared]
    ) -> None:
        self._slots = slots
        self._durations = durations
        self._kinds = kinds
        self._mix: Mapping[str, int] = {}
        """How many tasks of each kind the last claim brought."""
        self._has_batches = False
        """Whether the last claim brought tasks of batch kinds."""
        self._most_held = max(slots, HELD_MAX_TASKS)
        """How many tasks the peer may hold, judged by the size of their args."""
        self._most_at_once = CLAIM_MAX_TASKS
        """How many to claim in one statement. While slots are free, another claim follows."""

    def learn(self, claim: Claim) -> None:
        """Learn from the tasks that a claim brought."""
        if len(claim.kinds) == 1:
            self._mix = {claim.kinds[0]: claim.count}
        else:
            self._mix = Counter(claim.kinds)
        self._has_batches = any(map(self._batch_size, self._mix))
        size = claim.args_size(0, claim.count)
        fitting = claim.count * ARGS_MAX_BYTES // max(size, 1)
        self._most_held = max(self._slots, fitting)
        self._most_at_once = max(1, min(CLAIM_MAX_TASKS, fitting))

    def wanted(self, backlog: Mapping[BatchKey, Sized], in_workers: int, running: int) -> int:
        """Return how many tasks to claim; 0: the peer holds enough.

        `in_workers`: how many tasks the workers have; `running`: how many slots they occupy.
        """
        waiting = sum(map(len, backlog.values())) if backlog else 0
        usual = claim_size(self._slots, self._seconds())
        has_batches = self._has_batches or any(key.size for key in backlog)
        full_batches = self._full_batches(usual) if has_batches else 0
        size = min(max(usual, full_batches), self._most_held)
        missing = size - waiting - in_workers
        # claiming a few at a time would cost a round trip each, but no slot should be idle
        has_idle_slot = waiting < self._slots - running
        # where tasks are so slow that each worker has one, the next should be here when it is done
        has_no_next = not waiting and in_workers <= self._slots
        enough = missing if missing * 2 >= size or has_idle_slot or has_no_next else 0
        batched = 0
        if has_batches:
            fitting = self._most_held - waiting - in_workers  # by the bytes of their args
            batched = min(fitting, self._missing_for_batches(backlog, usual))
        return min(max(0, enough, batched), self._most_at_once)

    def _seconds(self) -> float:
        """Return how long a task takes on average, judged by the last claim."""
        if len(self._mix) <= 1:
            return self._durations.seconds(next(iter(self._mix), ""))
        total = sum(count * self._durations.seconds(kind) for kind, count in self._mix.items())
        return total / sum(self._mix.values())

    def _full_batches(self, usual: int) -> int:
        """Return how many tasks fill a batch for each slot, if the last claim had batch kinds."""
        size = max(map(self._batch_size, self._mix), default=0)
        return self._with_others(self._slots * size, usual)

    def _missing_for_batches(self, backlog: Mapping[BatchKey, Sized], usual: int) -> int:
        """Return how many tasks to claim for the batches that wait to be full."""
        missing = sum(max(0, key.size - len(tasks)) for key, tasks in backlog.items())
        single = sum(len(tasks) for key, tasks in backlog.items() if not key.size)
        return self._with_others(missing, usual - single)

    def _with_others(self, batched: int, single: int) -> int:
        """Return how many tasks to claim to get `batched` tasks of batch kinds.

        Tasks of other kinds come along, in the mix of the last claim. There should be no more than
        `single` of them.
        """
        others = sum(count for kind, count in self._mix.items() if not self._batch_size(kind))
        share = others / max(1, sum(self._mix.values()))
        return batched if not others else max(0, min(batched, int(single / share)))

    def _batch_size(self, kind: str) -> int:
        declared = self._kinds.get(kind)
        return (declared.batch_size or 0) if declared is not None else 0
