"""The tasks that one claim brought, as their peer keeps them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from uuid import UUID

import msgspec

from peers.database.binary import id_at, read_ids, read_small, slice_ids
from peers.database.rows import Claimed, ClaimReply
from peers.pool.batch_key import BatchKey
from peers.pool.lease import Lease
from peers.protocol.messages import AssignedRun

if TYPE_CHECKING:
    from peers.pool.local_queue import LocalQueue

T = TypeVar("T")

START_WITHIN: Final = 0.13
"""Seconds after its claim was sent. A task under a rate that cannot start so soon is given back.

The database counts on it: see peers._start_hold and peers._start_slack."""

_split: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Claim:
    """One lease of this peer: the tasks of a claim, which have the same token.

    The columns stay as they came. A `Lease`, the object for one task, exists only for a task that
    is handled by itself: because it failed, was cancelled, or is part of a batch. Tasks are known
    by their index in the claim.
    """

    def __init__(self, reply: ClaimReply, local_queue: LocalQueue, claimed_at: float) -> None:
        self.token = reply.token
        self.count = reply.count
        self.open = reply.count
        """How many tasks have no recorded outcome yet."""
        self.local_queue = local_queue
        self.claimed_at = claimed_at
        """When (monotonic) it was claimed."""
        self.rerun: set[int] = set()
        """Tasks that run again under the same lease, or may do so: they may have started before."""
        self.kinds = reply.kinds
        """One if all tasks have the same, else one for each. The following are the same."""
        self.priorities = reply.priorities
        self.attempts = read_small(reply.attempts)
        self.timeouts = self._timeouts(reply)
        self.most_running = reply.most_running
        """How many of its tasks may run at once; None: all of them."""
        self.is_limited, self.key = reply.is_limited, reply.key
        """Whether its tasks are under a limit, and the hash of their limits and keys."""
        self.start_at = 0.0 if reply.start_in is None else claimed_at + reply.start_in
        """When (monotonic) its tasks may start."""
        self.start_by = float("inf")
        """When (monotonic) it is too late to start them."""
        self.in_workers: defaultdict[int, int] = defaultdict(int)
        """How many of its tasks each worker has, by the worker's process id."""
        self._task_ids = reply.task_ids
        self._args = reply.args
        self._split_args: list[msgspec.Raw] | None = None
        self._leases: dict[int, Lease] = {}
        self._index_of: dict[int, int] | None = None

    def _timeouts(self, reply: ClaimReply) -> tuple[float | None, ...]:
        """Return the timeouts; of a task without its own one, that of its handler."""
        declared = tuple(self.local_queue.timeout_of(kind) for kind in reply.kinds)
        if reply.timeouts is None:
            return declared
        return tuple(
            each(declared, index) if own is None else own
            for index, own in enumerate(reply.timeouts)
        )

    @property
    def counts_each_task(self) -> bool:
        """Return whether a worker runs several of its tasks at once: async ones and batches."""
        key = self.local_queue.key_of(self, 0)
        return key.asynchronous or key.kind is not None

    def running_in_workers(self) -> int:
        """Return how many of its tasks may be running in the workers that have them."""
        return sum(self.in_workers.values()) if self.counts_each_task else len(self.in_workers)

    def left_worker(self, worker: int, tasks: int) -> None:
        """Count limited tasks that a worker has no more."""
        self.in_workers[worker] -= tasks
        if not self.in_workers[worker]:
            del self.in_workers[worker]
        self.local_queue.limited_ended = True
        if self.key is not None:
            self.local_queue.freed_keys.add(self.key)

    # --------------------------------------------------------------------------------- one task

    def task_id(self, index: int) -> int:
        """Return the id of a task."""
        return id_at(self._task_ids, index)

    def kind(self, index: int) -> str:
        """Return the kind of a task."""
        return each(self.kinds, index)

    def priority(self, index: int) -> int:
        """Return the priority of a task."""
        return each(self.priorities, index)

    def attempt(self, index: int) -> int:
        """Return which attempt of a task this is."""
        return each(self.attempts, index)

    def timeout(self, index: int) -> float | None:
        """Return how long the handler of a task may take; None: as long as it likes."""
        return each(self.timeouts, index)

    def lease(self, index: int) -> Lease:
        """Return the lease of a task: always the same object, made at the first call."""
        lease = self._leases.get(index)
        if lease is None:
            task = Claimed(
                self.task_id(index), UUID(bytes=self.token), self.attempt(index), self.kind(index),
                bytes(self._args_of_each()[index]), self.timeout(index), self.priority(index),
            )  # fmt: skip
            lease = self._leases[index] = Lease(self, index, task, self.claimed_at)
        return lease

    def find(self, task_id: int) -> int | None:
        """Return the index of a task; None: this claim did not bring it."""
        if self._index_of is None:
            self._index_of = {number: index for index, number in enumerate(self._read_ids())}
        return self._index_of.get(task_id)

    # ------------------------------------------------------------------------------- many tasks

    def runs(self) -> list[TaskRun]:
        """Return all tasks, as runs with the same BatchKey and the same priority."""
        key_of = self.local_queue.key_of
        if len(self.kinds) == len(self.priorities) == len(self.timeouts) == 1:
            return [TaskRun(self, 0, self.count)]
        runs, first = [], 0
        for _, group in groupby(
            range(self.count), lambda index: (key_of(self, index), self.priority(index))
        ):
            count = len(list(group))
            runs.append(TaskRun(self, first, count))
            first += count
        return runs

    def args_size(self, first: int, count: int) -> int:
        """Return how many bytes the args of some tasks have."""
        if count == self.count:
            return len(self._args)
        return sum(map(len, self._args_of_each()[first : first + count]))

    def to_message(self, first: int, count: int, execution_id: int) -> AssignedRun:
        """Return some tasks as they are sent to a worker, with these execution ids."""
        if count == self.count:  # as nearly always when tasks are quick
            task_ids, args = self._task_ids, self._args
        else:
            task_ids = slice_ids(self._task_ids, first, count)
            args = b"[%b]" % b",".join(self._args_of_each()[first : first + count])
        return AssignedRun(
            execution_id, count, self.token, task_ids, part(self.attempts, first, count),
            part(self.kinds, first, count), part(self.timeouts, first, count), args,
        )  # fmt: skip

    def task_ids(self, first: int, count: int) -> bytes:
        """Return the ids of some tasks as a bigint[] in Postgres's binary format."""
        return self._task_ids if count == self.count else slice_ids(self._task_ids, first, count)

    def leases_made(self, first: int, count: int) -> list[Lease]:
        """Return the leases of some tasks, as far as there are any."""
        last = first + count
        return [lease for index, lease in self._leases.items() if first <= index < last]

    def _args_of_each(self) -> list[msgspec.Raw]:
        if self._split_args is None:
            self._split_args = _split(self._args)
        return self._split_args

    def _read_ids(self) -> tuple[int, ...]:
        return read_ids(self._task_ids)


class TaskRun(NamedTuple):
    """Consecutive tasks of one claim, with the same BatchKey and the same priority."""

    claim: Claim
    first: int
    count: int  # type: ignore[assignment]  # nobody counts the fields of a run

    @property
    def key(self) -> BatchKey:
        """Return with which other tasks these can be assigned."""
        return self.claim.local_queue.key_of(self.claim, self.first)

    @property
    def priority(self) -> int:
        """Return the priority that all of them have."""
        return self.claim.priority(self.first)

    def part(self, offset: int, count: int) -> TaskRun:
        """Return `count` of these tasks, from the one at `offset` on."""
        return TaskRun(self.claim, self.first + offset, count)

    def split(self, count: int) -> tuple[TaskRun, TaskRun]:
        """Return the first `count` tasks and the others."""
        return self.part(0, count), self.part(count, self.count - count)

    def leases(self) -> list[Lease]:
        """Return a lease for each task."""
        return [self.claim.lease(index) for index in range(self.first, self.first + self.count)]

    def leases_made(self) -> list[Lease]:
        """Return the leases that exist already."""
        return self.claim.leases_made(self.first, self.count)

    def args_size(self) -> int:
        """Return how many bytes the args have."""
        return self.claim.args_size(self.first, self.count)

    def task_ids(self) -> bytes:
        """Return the ids as a bigint[] in Postgres's binary format."""
        return self.claim.task_ids(self.first, self.count)


def runs_of(leases: Sequence[Lease]) -> list[TaskRun]:
    """Return the leases as runs, in the same order."""
    runs: list[TaskRun] = []
    for lease in leases:
        last = runs[-1] if runs else None
        new = TaskRun(lease.claim, lease.index, 1)
        if last is None or not _continues(last, new):
            runs.append(new)
        else:
            runs[-1] = last._replace(count=last.count + 1)
    return runs


def _continues(run: TaskRun, new: TaskRun) -> bool:
    return (
        new.claim is run.claim
        and new.first == run.first + run.count
        and new.priority == run.priority
        and new.key == run.key
    )


def each(column: Sequence[T], index: int) -> T:
    """Return one value of a column that holds one value if all are the same."""
    return column[index] if len(column) > 1 else column[0]


def part(column: tuple[T, ...], first: int, count: int) -> tuple[T, ...]:
    """Return some values of a column, which may be one value for all."""
    return column[first : first + count] if len(column) > 1 else column


def without(run: TaskRun, indexes: set[int] | None) -> Iterator[TaskRun]:
    """Yield what is left of a run without these tasks of its claim."""
    first, stop = run.first, run.first + run.count
    for index in sorted(number for number in indexes or () if first <= number < stop):
        if index > first:
            yield TaskRun(run.claim, first, index - first)
        first = index + 1
    if first < stop:
        yield TaskRun(run.claim, first, stop - first)
