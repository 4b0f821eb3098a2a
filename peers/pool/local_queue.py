"""One queue on this peer: its slots, and the tasks that are claimed and not yet assigned."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from peers.pool.backlog import Backlog
from peers.pool.batch_key import BatchKey
from peers.pool.claim import Claim, TaskRun, runs_of
from peers.pool.claim_sizer import ClaimSizer
from peers.pool.durations import CLAIM_MAX_TASKS, CLAIM_SECONDS, DurationEstimate
from peers.pool.isolation import IsolatedGroup
from peers.pool.lease import Lease
from peers.pool.limited_runs import LimitedRuns
from peers.pool.liveness import own_log
from peers.protocol.messages import KindDeclared


class LocalQueue:
    """The backlog of a queue, smallest priority first, and its slots.

    It keeps its own counters: workers report what they `started` and `finished`, dispatch
    `reserve`s slots, and the peer says when the next claim is worth a query.
    """

    def __init__(
        self, queue: str, slots: int, durations: DurationEstimate, kinds: Mapping[str, KindDeclared]
    ) -> None:
        self.queue = queue
        self.slots = slots
        self._durations = durations
        self._kinds = kinds
        self._sizer = ClaimSizer(slots, durations, kinds)
        self._log = own_log()
        self._running = 0
        """How many slots are occupied: by async handlers, and by workers that run sync ones."""
        self._in_workers = 0
        self._reserved = 0
        self._next_claim_at = 0.0
        self._needs_slot = False
        """Tasks had to be released: none are claimed before a slot is free."""
        self.limited_ended = False
        """A limited task has left its worker: there may be room for another."""
        self.freed_keys: set[int] = set()
        """The keys of such tasks. The next claim looks there first."""
        self._backlog: dict[BatchKey, Backlog] = {}
        self._limited = LimitedRuns(durations)
        """Tasks that may not start yet, because of the limits that they are under."""
        self._any_timed = False
        self._overdue: set[str] = set()
        """Batch kinds that have waited to be full long enough, and now wait only for a worker."""
        self._parts: dict[bool, deque[list[Lease]]] = {False: deque(), True: deque()}
        """Parts of bisected batches, sync and async: each is called on its own."""
        self._isolated: deque[IsolatedGroup] = deque()
        """They wait for a worker of their own, and occupy their slots meanwhile."""

    def __len__(self) -> int:
        return sum(map(len, self._backlog.values()))

    @property
    def has_waiting(self) -> bool:
        """Return whether a task waits for a worker, in the backlog or to run again."""
        return bool(self._backlog or self._isolated or any(self._parts.values()))

    def waiting(self) -> list[Lease]:
        """Return a lease for each task of the backlog."""
        return [lease for run in self._runs() for lease in run.leases()]

    def claimed_before(self, when: float) -> list[Lease]:
        """Return the leases of the backlog that were claimed before this time (monotonic)."""
        late = (run for run in self._runs() if run.claim.claimed_at < when)
        return [lease for run in late for lease in run.leases()]

    def holds(self, lease: Lease) -> bool:
        """Return whether a task waits here, in the backlog or to run again."""
        return any(
            run.claim is lease.claim and run.first <= lease.index < run.first + run.count
            for run in self._runs()
        ) or any(other is lease for other in self.leases_to_rerun())

    def _runs(self) -> Iterator[TaskRun]:
        for backlog in self._backlog.values():
            yield from backlog
        yield from self._limited

    # ----------------------------------------------------------------------- what handlers declare

    def timeout_of(self, kind: str) -> float | None:
        """Return the timeout that the handler of a kind declares."""
        declared = self._kinds.get(kind)
        return None if declared is None else declared.timeout

    def key_of(self, claim: Claim, index: int) -> BatchKey:
        """Return with which other tasks a task can be assigned."""
        return BatchKey.of(self._kinds.get(claim.kind(index)), claim.timeout(index))

    # --------------------------------------------------------------------------------------- slots

    @property
    def in_workers(self) -> int:
        """Return how many tasks the workers have."""
        return self._in_workers

    @property
    def free_slots(self) -> int:
        """Return how many more handlers may run at once."""
        isolated = sum(group.slots for group in self._isolated) if self._isolated else 0
        return self.slots - self._running - self._reserved - isolated

    def started(self, tasks: int, slots: int) -> None:
        """Count tasks that a worker was assigned, and the slots that they occupy from now on."""
        self._in_workers += tasks
        self._running += slots

    def finished(self, tasks: int, slots: int) -> None:
        """Count tasks that a worker has no more, and the slots that are free again."""
        self._in_workers -= tasks
        self._running -= slots

    def reserve(self, slots: int) -> None:
        """Keep these slots free for urgent batches that wait to be full."""
        self._reserved = slots

    # -------------------------------------------------------------------------------------- claims

    @property
    def next_claim_at(self) -> float:
        """Return when (monotonic) a claim may bring something again."""
        return self._next_claim_at

    def postpone_claim(self, until: float) -> None:
        """Do not claim before this time (monotonic): the queue is empty."""
        self._next_claim_at = until

    def claim_now(self) -> None:
        """Let the next claim happen at once: there may be new tasks."""
        self._next_claim_at = 0.0

    def take_freed_keys(self) -> set[int]:
        """Remove the freed keys and return them: a claim that is sent now looks there first."""
        freed, self.freed_keys = self.freed_keys, set()
        return freed

    def needs_slot(self) -> None:
        """Claim nothing before a slot is free: tasks had to be released because none was.

        The peer would claim the same tasks again before others can.
        """
        self._needs_slot = True

    def wanted(self) -> int:
        """Return how many tasks to claim with the next statement; 0: the peer holds enough."""
        self._needs_slot = self._needs_slot and self.free_slots <= 0
        if self._needs_slot:
            return 0
        return self._sizer.wanted(self._backlog, self._in_workers, self._running)

    def claimed(self, claim: Claim) -> None:
        """Add the tasks of a new claim."""
        self._log.queued(TaskRun(claim, 0, claim.count))
        self._sizer.learn(claim)
        self._add(claim.runs())

    # ------------------------------------------------------------------------------------- backlog

    def admit(self, now: float) -> list[Lease]:
        """Let tasks into the backlog that may start now. Return those to give back."""
        if not self._limited and not self._any_timed:
            return []
        for run in list(self._limited.admit(now, self._count_out)):
            self._backlog.setdefault(run.key, Backlog()).add(run)
        slow = self._limited.waited_too_long(now)
        if not self._any_timed:
            return slow
        timed = [run for run in self._runs() if run.claim.start_at]
        self._any_timed = bool(timed)
        late = (run for run in timed if run.claim.start_by < now)
        return slow + [lease for run in late for lease in run.leases()]

    def _count_out(self, claim: Claim) -> int:
        """Return how many runs of a claim may be running, or will without being admitted again."""
        in_backlog = sum(
            run.claim is claim for backlog in self._backlog.values() for run in backlog
        )
        to_rerun = sum(lease.claim is claim for lease in self.leases_to_rerun())
        return in_backlog + to_rerun + claim.running_in_workers()

    def free_for_limited(self, now: float) -> int:
        """Return how many limited tasks could start now if they were claimed."""
        return max(0, self.free_slots - len(self) - self._limited.waiting_for_time(now))

    def tasks_per_slot(self) -> dict[str, int]:
        """Return how many tasks to claim for each slot, of the kinds whose tasks are short."""
        return {
            kind: min(CLAIM_MAX_TASKS, int(CLAIM_SECONDS / seconds))
            for kind, declared in self._kinds.items()
            if declared.batch_size is None
            and (seconds := max(self._durations.seconds(kind), 1e-6)) <= CLAIM_SECONDS / 2
        }

    def requeue(self, leases: Sequence[Lease]) -> None:
        """Put leases into the backlog, behind those of the same priority."""
        runs = runs_of(leases)
        for run in runs:
            self._log.queued(run)
        self._add(runs)

    def _add(self, runs: Iterable[TaskRun]) -> None:
        for run in runs:
            if run.claim.most_running is not None or run.claim.start_at:
                self._any_timed |= bool(run.claim.start_at)
                self._limited.add(run)
            else:
                self._backlog.setdefault(run.key, Backlog()).add(run)

    def next_key(self, without: set[BatchKey]) -> BatchKey | None:
        """Return the key of the most urgent task; None: there is none."""
        if len(self._backlog) == 1 and not without:  # as nearly always
            return next(iter(self._backlog))
        heads = [
            (backlog.head.priority, backlog.head.claim.claimed_at, key)
            for key, backlog in self._backlog.items()
            if key not in without
        ]
        return min(heads, key=lambda head: head[:2])[2] if heads else None

    def keys(self, asynchronous: bool) -> list[BatchKey]:
        """Return the keys whose tasks async workers (or sync ones) can run."""
        return [key for key in self._backlog if key.asynchronous is asynchronous]

    def priority(self, key: BatchKey) -> int:
        """Return the smallest priority of the tasks with this key."""
        return self._backlog[key].head.priority

    def first_kind(self, key: BatchKey) -> str:
        """Return the kind of the most urgent task with this key."""
        head = self._backlog[key].head
        return head.claim.kind(head.first)

    def due_at(self, key: BatchKey) -> float:
        """Return when (monotonic) these tasks may be assigned: batches wait to be full."""
        backlog = self._backlog[key]
        if len(backlog) >= key.size or key.kind in self._overdue:
            return 0.0
        return backlog.oldest_at + key.wait

    def next_due(self, now: float) -> float:
        """Return when the next batch has waited long enough, or the next limited task may start."""
        times = [self.due_at(key) for key in self._backlog]
        batch = min((at for at in times if at > now), default=float("inf"))
        return min(batch, self._limited.next_start(now))

    def mark_overdue(self, key: BatchKey) -> None:
        """Note that this batch is due and has no free worker: it need not wait to be full again."""
        if key.kind is not None:
            self._overdue.add(key.kind)

    def take(self, key: BatchKey, budget: float, most: int) -> list[TaskRun]:
        """Take the next tasks, up to `most`, that take about `budget` seconds together.

        Their args fit in one assignment.
        """
        return self._take(key, self._backlog[key].fitting(budget, most, self._durations))

    def take_batch(self, key: BatchKey, budget: float) -> list[TaskRun]:
        """Take the next batch; none if it takes longer than `budget` seconds."""
        assert key.kind is not None
        count = min(key.size, len(self._backlog[key]))
        if count * self._durations.seconds(key.kind) > budget:
            return []
        self._overdue.discard(key.kind)
        return self._take(key, count)

    # ------------------------------------------------------------- bisected and isolated tasks

    @property
    def isolated(self) -> tuple[IsolatedGroup, ...]:
        """Return the groups that wait for a worker of their own."""
        return tuple(self._isolated)

    def add_parts(self, parts: Iterable[list[Lease]], now: float) -> None:
        """Add parts of a batch that crashed: each is called again, under the same leases."""
        for part in parts:
            for lease in part:
                lease.run_again(now)
            self._parts[self._key(part[0]).asynchronous].append(part)

    def next_part(self, without: set[bool]) -> tuple[bool, int] | None:
        """Return whether the most urgent part is async, and its priority; None: there is none."""
        if not any(self._parts.values()):
            return None
        heads = [
            (min(lease.task.priority for lease in parts[0]), asynchronous)
            for asynchronous, parts in self._parts.items()
            if parts and asynchronous not in without
        ]
        return min(heads)[::-1] if heads else None

    def take_part(self, asynchronous: bool) -> list[Lease]:
        """Take the next part."""
        return self._parts[asynchronous].popleft()

    def isolate(self, group: IsolatedGroup, now: float) -> None:
        """Add a group to run again in a worker of its own, under the same leases."""
        for lease in group.leases:
            lease.run_again(now)
        self._isolated.append(group)

    def take_isolated(self, group: IsolatedGroup) -> list[list[Lease]]:
        """Take a group out, and return its batches."""
        self._isolated.remove(group)
        return group.batches

    def isolated_leases(self) -> list[Lease]:
        """Return the leases that wait to run in isolation."""
        return [lease for group in self._isolated for lease in group.leases]

    def leases_to_rerun(self) -> list[Lease]:
        """Return the leases that wait to run again, as parts of a batch or in isolation."""
        parts = [lease for parts in self._parts.values() for part in parts for lease in part]
        return parts + self.isolated_leases()

    def drop(self, unwanted: Collection[Lease]) -> None:
        """Forget these leases, wherever they wait."""
        for key, backlog in list(self._backlog.items()):
            backlog.drop(unwanted)
            self._forget_if_empty(key)
        self._limited.drop(unwanted)
        gone = set(map(id, unwanted))
        for asynchronous, parts in self._parts.items():
            left = ([lease for lease in part if id(lease) not in gone] for part in parts)
            self._parts[asynchronous] = deque(part for part in left if part)
        for group in self._isolated:
            left = ([lease for lease in batch if id(lease) not in gone] for batch in group.batches)
            group.batches = [batch for batch in left if batch]
        self._isolated = deque(group for group in self._isolated if group.batches)

    def is_batch(self, lease: Lease) -> bool:
        """Return whether the lease's handler takes a list of tasks."""
        return self._key(lease).kind is not None

    def _take(self, key: BatchKey, count: int) -> list[TaskRun]:
        taken = self._backlog[key].take(count)
        self._forget_if_empty(key)
        return taken

    def _forget_if_empty(self, key: BatchKey) -> None:
        # there may be a key for each timeout that a task ever had
        if not self._backlog[key]:
            del self._backlog[key]

    def _key(self, lease: Lease) -> BatchKey:
        return self.key_of(lease.claim, lease.index)
