"""Sixteen sessions that submit a few keys as fast as they can, while peers work."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.support.unique import Answer, submit_batch, submit_unique
from tests.support.world import Patch, apply_patches, column, problems, promote, result, run, value

if TYPE_CHECKING:
    from tests.support.server import Connection
    from tests.support.world import Peer, World

SESSIONS: Final = 16
CALLS: Final = 40
PATIENCE: Final = 5.0
"""Seconds without a claim, after which the tasks that are left count as lost."""
KEYS: Final = ("w", "x", "y", "z")
CHOICES: Final = (
    {"on_duplicate": "keep"},
    {"on_duplicate": "replace"},
    {"on_duplicate": "debounce", "wait": "5 ms", "max_wait": "20 ms"},
)


@dataclass
class Call:
    """One committed submission."""

    number: int
    key: str
    began: float
    ended: float
    answer: Answer
    has_args: bool
    """Its args were taken: the task is new, or was replaced."""


class Ledger:
    """What the sessions were told, and what the peers claimed."""

    def __init__(self, calls_each: int) -> None:
        self.calls_each = calls_each
        self.calls: list[Call] = []
        self.claims: dict[int, tuple[float, int]] = {}
        self.numbers = itertools.count(1)

    def submit(self, db: Connection, seed: int) -> None:
        luck = random.Random(seed)
        for _ in range(self.calls_each):
            key, number = luck.choice(KEYS), next(self.numbers)
            began = time.monotonic()
            answer = submit_unique(db, key, args={"n": number}, **luck.choice(CHOICES))
            taken = answer.is_new or answer.replaced
            self.calls.append(Call(number, key, began, time.monotonic(), answer, taken))

    def work(self, peer: Peer, finished: threading.Event) -> list[str]:
        found: list[str] = []
        idle_since = None
        while True:
            is_last = finished.is_set()
            promote(peer.db)
            began = time.monotonic()
            claims = peer.claim(3)
            for claim in claims:
                if claim.task_id in self.claims:
                    found.append(f"task {claim.task_id} was claimed twice")
                self.claims[claim.task_id] = (time.monotonic(), claim.args["n"])
            left = [claim.pair for claim in claims]
            while left:
                verdicts = peer.complete(*left)
                found += [verdict for verdict in verdicts.values() if verdict != "busy"]
                left = [pair for pair, verdict in verdicts.items() if verdict == "busy"]
            open_tasks = "select count(*) from peers.task where state <> 'completed'"
            if claims or not is_last:
                idle_since = None
            elif not value(peer.db, open_tasks):
                return found
            elif began - (idle_since := idle_since or began) > PATIENCE:
                return [*found, "tasks are left that no peer can claim"]
            run(peer.db, "select pg_sleep(%s)", max(0.0, 0.002 - (time.monotonic() - began)))


def violations(ledger: Ledger) -> list[str]:
    """Compare what the sessions were told with what the peers claimed."""
    found = []
    calls_of = defaultdict(list)
    for call in ledger.calls:
        calls_of[call.answer.id].append(call)
    for task_id, calls in calls_of.items():
        claimed_at, args = ledger.claims.get(task_id, (0.0, 0))
        if sum(call.answer.is_new for call in calls) != 1:
            found.append(f"task {task_id} was made by {calls}")
        found += [
            f"task {task_id} had started before submission {call.number}, which stands for it"
            for call in calls
            if claimed_at < call.began
        ]
        writers = [call for call in calls if call.has_args]
        winner = next((call for call in writers if call.number == args), None)
        if winner is None:
            found.append(f"task {task_id} ran with args {args}, which nobody gave it")
            continue
        found += [
            f"task {task_id} ran with args {args}, and submission {call.number} came later"
            for call in writers
            if call.began > winner.ended
        ]
    return found


def play(world: World, calls: int) -> tuple[Ledger, list[str]]:
    """Let the sessions submit and two peers work; what was told, and what is wrong with it."""
    ledger, finished = Ledger(calls), threading.Event()
    found: list[str] = []
    waiting = "select count(*) from peers.task where state in ('scheduled', 'ready')"
    with ThreadPoolExecutor(2) as pool:
        peers = [world.peer(lease="1 hour") for _ in range(2)]
        work = [pool.submit(ledger.work, peer, finished) for peer in peers]
        try:
            crew = [
                world.background(ledger.submit, world.connect(), seed) for seed in range(SESSIONS)
            ]
            while not all(each.done() for each in crew):
                if (count := value(world.db, waiting)) > len(KEYS):
                    found.append(f"{count} tasks wait, with {len(KEYS)} keys")
            for each in crew:
                result(each)
        finally:
            finished.set()
        for worker in work:
            found += worker.result(timeout=60)
    return ledger, found + violations(ledger) + [str(each) for each in problems(world.db)]


def test_nothing_is_lost_and_nothing_is_there_twice(world: World) -> None:
    """Each submission stands for a task that starts after it, with the newest args."""
    ledger, found = play(world, CALLS)
    assert found == []
    assert len(ledger.calls) == SESSIONS * CALLS
    made = value(world.db, "select count(*) from peers.task")
    assert len(KEYS) <= made < SESSIONS * CALLS


def test_without_the_lock_on_the_task_it_is_noticed(world: World) -> None:
    """A submission that only looks at the task is overtaken by a claim sooner or later."""
    lock = Patch(
        "23_unique_key.sql", "        order by t.id for no key update\n", "        order by t.id\n"
    )
    apply_patches(world.db, [lock])
    _, found = play(world, 5 * CALLS)
    assert found != []


def test_batches_in_any_order_do_not_deadlock(world: World) -> None:
    """Sixteen sessions submit the same keys, each in an order of its own, again and again."""

    def submit(db: Connection, seed: int) -> int:
        luck = random.Random(seed)
        keys = [f"key {n}" for n in range(40)]
        new = 0
        for _ in range(8):
            batch: list[str | None] = [*luck.sample(keys, k=30)]
            how = luck.choice(["keep", "replace"])
            new += sum(answer.is_new for answer in submit_batch(db, batch, on_duplicate=how))
        return new

    crew = [world.background(submit, world.connect(), seed) for seed in range(SESSIONS)]
    assert sum(result(each) for each in crew) == 40
    assert len(column(world.db, "select id from peers.task")) == 40
