"""One queue on this peer: what it has claimed and not started, and how much to claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter

from peers.model import Claimed
from peers.pace import MOST_BYTES, MOST_CLAIMED, Pace, claim_size


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


class Lane:
    """The backlog of a queue, smallest priority first, and its slots.

    `running` is kept by whoever hands out: the handlers (or the workers busy with a frame) of this
    queue. `in_workers` counts the tasks that are out.
    """

    def __init__(self, queue: str, slots: int, pace: Pace) -> None:
        self.queue = queue
        self.slots = slots
        self.running = 0
        self.in_workers = 0
        self.ask_at = 0.0
        """Not before this time (monotonic) is it worth asking for more: the queue was empty."""
        self._pace = pace
        self._mix: Counter[str] = Counter()
        self._most = MOST_CLAIMED
        self._backlog: dict[bool, list[Lease]] = {False: [], True: []}

    def __len__(self) -> int:
        return len(self._backlog[False]) + len(self._backlog[True])

    @property
    def free_slots(self) -> int:
        """How many more handlers may run at once."""
        return self.slots - self.running

    def wanted(self) -> int:
        """How many tasks to claim now; 0: there is enough at hand."""
        size = min(claim_size(self.slots, self._seconds()), self._most)
        missing = size - len(self) - self.in_workers
        # a few at a time would cost a round trip each, but no slot shall stand idle for want of it
        if missing * 2 >= size or len(self) < self.free_slots:
            return max(0, missing)
        return 0

    def claimed(self, leases: list[Lease], asynchronous: frozenset[str]) -> None:
        """Take in a new claim."""
        self._mix = Counter(lease.task.kind for lease in leases)
        size = sum(len(lease.task.args) for lease in leases)
        self._most = max(self.slots, len(leases) * MOST_BYTES // max(size, 1))
        self.put_back(leases, asynchronous)

    def put_back(self, leases: list[Lease], asynchronous: frozenset[str]) -> None:
        """Line leases up by their priority, behind those of the same one."""
        for mode, backlog in self._backlog.items():
            new = [lease for lease in leases if (lease.task.kind in asynchronous) is mode]
            if new:
                backlog.extend(new)
                backlog.sort(key=attrgetter("priority"))  # nearly sorted: a pass over it

    def head(self, asynchronous: bool) -> Lease | None:
        """The next one to be started."""
        backlog = self._backlog[asynchronous]
        return backlog[0] if backlog else None

    def take(self, asynchronous: bool, budget: float, most: int) -> list[Lease]:
        """The next leases that take about `budget` seconds together, up to `most`."""
        backlog = self._backlog[asynchronous]
        count = 0
        for lease in backlog[:most]:
            budget -= self._pace.seconds(lease.task.kind)
            if budget < 0:
                break
            count += 1
        taken = backlog[:count]
        del backlog[:count]
        return taken

    def drop(self, unwanted: Iterable[Lease]) -> None:
        """Forget these leases."""
        gone = set(map(id, unwanted))
        for mode, backlog in self._backlog.items():
            self._backlog[mode] = [lease for lease in backlog if id(lease) not in gone]

    def __iter__(self) -> Iterator[Lease]:
        yield from self._backlog[False]
        yield from self._backlog[True]

    def _seconds(self) -> float:
        """What a task of this queue takes on average, judged by the last claim."""
        if not self._mix:
            return self._pace.seconds("")
        total = sum(count * self._pace.seconds(kind) for kind, count in self._mix.items())
        return total / self._mix.total()
