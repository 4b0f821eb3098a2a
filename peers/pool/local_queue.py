"""One queue on this peer: what it has claimed and not started, and how much to claim."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from peers.database.rows import Claimed
from peers.pool.durations import (
    FIRST_CLAIMED,
    MOST_BYTES,
    MOST_CLAIMED,
    DurationEstimate,
    claim_size,
)
from peers.pool.isolation import Suspects
from peers.protocol.messages import KindDeclared


@dataclass(slots=True, eq=False)
class Lease:
    """A claimed task, as its peer keeps it until it is settled."""

    task: Claimed
    token: bytes
    """The text of task.token."""
    queue: str
    claimed_at: float
    """On the scale of `time.monotonic()`."""
    priority: int
    cancelled: bool = False
    ticket: int = 0
    """Under which a worker was last given it."""
    stopped_because: str | None = None
    """Why its handler was stopped by this peer itself."""


class BatchKey(NamedTuple):
    """What may share a frame: sync handlers, async ones, or the tasks of one batch handler.

    Batches are of one `kind` and `timeout`, up to `size` tasks, and wait to be full for `wait` s.
    """

    asynchronous: bool
    kind: str | None = None
    timeout: float | None = None
    size: int = 0
    wait: float = 0.0


class LocalQueue:
    """The backlog of a queue, smallest priority first, and its slots.

    `running` is kept by whoever hands out: the handlers (or the workers busy with a frame) of this
    queue. `in_workers` counts the tasks that are out.
    """

    def __init__(
        self, queue: str, slots: int, durations: DurationEstimate, kinds: Mapping[str, KindDeclared]
    ) -> None:
        self.queue = queue
        self.slots = slots
        self.running = 0
        self.reserved = 0
        """Slots that are kept free for more urgent batches, while these wait to be full."""
        self.in_workers = 0
        self.ask_at = 0.0
        """Not before this time (monotonic) is it worth asking for more: the queue was empty."""
        self.parts: dict[bool, deque[list[Lease]]] = {False: deque(), True: deque()}
        """Of batches that killed their worker: each is a call of its own."""
        self.suspects: deque[Suspects] = deque()
        """They wait for a worker of their own, and keep their slots meanwhile."""
        self._durations = durations
        self._kinds = kinds
        self._mix: Counter[str] = Counter()
        self._most = max(slots, MOST_CLAIMED)
        """How many tasks may be at hand, judged by their args."""
        self._most_at_once = FIRST_CLAIMED
        """How many to claim in one statement; while slots are free the next one follows."""
        self._backlog: dict[BatchKey, list[Lease]] = {}
        self._overdue: set[str] = set()
        """Batch kinds that have waited long enough, if only for a worker."""

    def __len__(self) -> int:
        return sum(map(len, self._backlog.values()))

    def __iter__(self) -> Iterator[Lease]:
        for backlog in self._backlog.values():
            yield from backlog

    @property
    def free_slots(self) -> int:
        """How many more handlers may run at once."""
        suspects = sum(part.slots for part in self.suspects) if self.suspects else 0
        return self.slots - self.running - self.reserved - suspects

    # ------------------------------------------------------------------------------------ coming in

    def wanted(self) -> int:
        """How many tasks to claim with the next statement; 0: there is enough at hand."""
        usual = claim_size(self.slots, self._seconds())
        size = min(max(usual, self._full_batches(usual)), self._most)
        missing = size - len(self) - self.in_workers
        # a few at a time would cost a round trip each, but no slot shall stand idle for want of it
        idle = len(self) < self.slots - self.running
        # where tasks are so slow that each worker has one, the next shall be here when it is done
        bare = not len(self) and self.in_workers <= self.slots
        enough = missing if missing * 2 >= size or idle or bare else 0
        room = self._most - len(self) - self.in_workers  # for the bytes of their args
        return min(max(0, enough, min(room, self._unfilled(usual))), self._most_at_once)

    def claimed(self, leases: list[Lease]) -> None:
        """Take in a new claim."""
        if not leases:
            return  # it says nothing of those that may come
        self._mix = Counter(lease.task.kind for lease in leases)
        size = sum(len(lease.task.args) for lease in leases)
        fitting = len(leases) * MOST_BYTES // max(size, 1)
        self._most = max(self.slots, fitting)
        self._most_at_once = max(1, min(MOST_CLAIMED, fitting))
        self.put_back(leases)

    def put_back(self, leases: Iterable[Lease]) -> None:
        """Line leases up by their priority, behind those of the same one."""
        new: dict[BatchKey, list[Lease]] = {}
        for lease in leases:
            new.setdefault(self._bin(lease.task), []).append(lease)
        for where, more in new.items():
            backlog = self._backlog.setdefault(where, [])
            backlog.extend(more)
            backlog.sort(key=attrgetter("priority"))  # nearly sorted: a pass over it

    def divide(self, parts: Iterable[list[Lease]], now: float) -> None:
        """Take in parts of a batch, to be called again one by one under the same leases."""
        for part in parts:
            for lease in part:
                lease.claimed_at = now
            self.parts[self._bin(part[0].task).asynchronous].append(part)

    def suspect(self, part: Suspects, now: float) -> None:
        """Take in calls that are to run in isolation, under the same leases."""
        for lease in part.leases:
            lease.claimed_at = now
        self.suspects.append(part)

    # ------------------------------------------------------------------------------------ going out

    def next_bin(self, without: set[BatchKey]) -> BatchKey | None:
        """Where the most urgent lease lies; None: nowhere."""
        heads = [
            (backlog[0].priority, backlog[0].claimed_at, where)
            for where, backlog in self._backlog.items()
            if backlog and where not in without
        ]
        return min(heads, key=lambda head: head[:2])[2] if heads else None

    def urgency(self, where: BatchKey) -> int:
        """The smallest priority in there."""
        return self._backlog[where][0].priority

    def next_part(self, without: set[bool]) -> tuple[bool, int] | None:
        """Which part of a divided batch is most urgent: its mode and its priority; None: none."""
        heads = [
            (min(lease.priority for lease in parts[0]), mode)
            for mode, parts in self.parts.items()
            if parts and mode not in without
        ]
        return min(heads)[::-1] if heads else None

    def bins(self, asynchronous: bool) -> list[BatchKey]:
        """Those that this kind of worker runs."""
        return [where for where in self._backlog if where.asynchronous is asynchronous]

    def overdue(self, where: BatchKey) -> None:
        """What is in there is ripe, and no worker is free: what comes next need not wait again."""
        if where.kind is not None:
            self._overdue.add(where.kind)

    def ripe_at(self, where: BatchKey) -> float:
        """When (monotonic) this bin may be handed out: batches wait to be full."""
        backlog = self._backlog[where]
        if len(backlog) >= where.size or where.kind in self._overdue:
            return 0.0
        return min(lease.claimed_at for lease in backlog) + where.wait

    def next_ripe(self, now: float) -> float:
        """When the next batch has waited long enough."""
        times = [self.ripe_at(where) for where, backlog in self._backlog.items() if backlog]
        return min((at for at in times if at > now), default=float("inf"))

    def take(self, where: BatchKey, budget: float, most: int) -> list[Lease]:
        """The next leases that take about `budget` seconds together, up to `most`.

        And no more than what a frame should carry.
        """
        backlog = self._backlog[where]
        count, room = 0, MOST_BYTES
        for lease in backlog[:most]:
            budget -= self._durations.seconds(lease.task.kind)
            room -= len(lease.task.args)
            if budget < 0 or (room < 0 and count):
                break
            count += 1
        return self._take(where, count)

    def take_batch(self, where: BatchKey, budget: float) -> list[Lease]:
        """The next batch; empty if it takes longer than `budget` seconds."""
        assert where.kind is not None
        count = min(where.size, len(self._backlog[where]))
        if count * self._durations.seconds(where.kind) > budget:
            return []
        self._overdue.discard(where.kind)
        return self._take(where, count)

    def drop(self, unwanted: Iterable[Lease]) -> None:
        """Forget these leases."""
        gone = set(map(id, unwanted))
        for where, backlog in list(self._backlog.items()):
            self._backlog[where] = [lease for lease in backlog if id(lease) not in gone]
            self._forget_empty(where)
        for mode, parts in self.parts.items():
            left = ([lease for lease in part if id(lease) not in gone] for part in parts)
            self.parts[mode] = deque(part for part in left if part)
        for suspects in self.suspects:
            left = ([lease for lease in call if id(lease) not in gone] for call in suspects.calls)
            suspects.calls = [call for call in left if call]
        self.suspects = deque(suspects for suspects in self.suspects if suspects.calls)

    def divided(self) -> list[Lease]:
        """Return the leases of the parts that wait for their call, and those of suspects."""
        parts = [lease for parts in self.parts.values() for part in parts for lease in part]
        return parts + self.suspected()

    def suspected(self) -> list[Lease]:
        """Return the leases that wait to run in isolation."""
        return [lease for suspects in self.suspects for lease in suspects.leases]

    def is_batch(self, lease: Lease) -> bool:
        """Return whether its handler takes a list of tasks."""
        return self._bin(lease.task).kind is not None

    # -------------------------------------------------------------------------------------- inside

    def _take(self, where: BatchKey, count: int) -> list[Lease]:
        backlog = self._backlog[where]
        taken = backlog[:count]
        del backlog[:count]
        self._forget_empty(where)
        return taken

    def _forget_empty(self, where: BatchKey) -> None:
        """There may be a bin for each timeout that a task ever had."""
        if not self._backlog[where]:
            del self._backlog[where]

    def _bin(self, task: Claimed) -> BatchKey:
        declared = self._kinds.get(task.kind)
        if declared is None:
            return BatchKey(False)
        if declared.batch_size is None:
            return BatchKey(declared.asynchronous)
        return BatchKey(
            declared.asynchronous, task.kind, task.timeout,
            declared.batch_size, declared.batch_wait,
        )  # fmt: skip

    def _seconds(self) -> float:
        """What a task of this queue takes on average, judged by the last claim."""
        if not self._mix:
            return self._durations.seconds("")
        total = sum(count * self._durations.seconds(kind) for kind, count in self._mix.items())
        return total / self._mix.total()

    def _full_batches(self, usual: int) -> int:
        """How many tasks to have for a full batch for each slot, if the last claim was of such."""
        size = max(map(self._batch_size, self._mix), default=0)
        return self._mixed(self.slots * size, usual)

    def _unfilled(self, usual: int) -> int:
        """How many tasks to claim for batches that wait to be full."""
        missing = sum(max(0, where.size - len(backlog)) for where, backlog in self._backlog.items())
        single = sum(len(backlog) for where, backlog in self._backlog.items() if not where.size)
        return self._mixed(missing, usual - single)

    def _mixed(self, batched: int, single: int) -> int:
        """How many tasks to claim for so many of batch kinds, judged by the mix of the last claim.

        With them come others, of which there shall be no more than `single`.
        """
        others = sum(count for kind, count in self._mix.items() if not self._batch_size(kind))
        share = others / max(1, self._mix.total())
        return batched if not others else max(0, min(batched, int(single / share)))

    def _batch_size(self, kind: str) -> int:
        declared = self._kinds.get(kind)
        return (declared.batch_size or 0) if declared is not None else 0
