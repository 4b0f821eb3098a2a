"""A random graph, several peers that do everything a peer can do, and what must hold in the end."""

from __future__ import annotations

import random
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.sql.test_broken_variants import VARIANTS
from tests.support import journal
from tests.support.server import open_connection
from tests.support.world import (
    Claim,
    Peer,
    World,
    advance,
    apply_patches,
    column,
    problems,
    promote,
    result,
    run,
    value,
)

if TYPE_CHECKING:
    from tests.support.server import Connection, Databases

TASKS = 300
GRAPHS = 8
SHARE_OF_FAULTS = 0.4
FAULTS = ["fail", "reject", "release", "vanish", "zombie", "leave", "late", "theft"]
BATCH = 7
MOST_STEPS = 4000
RUNS_WITHOUT_FENCE = 5


@dataclass
class Actor:
    """One thread that acts as peers, one after another, and keeps a ledger of what it was told."""

    db: Connection
    luck: random.Random
    deck: deque[str]
    ledger: list[journal.Outcome] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    zombies: list[tuple[Peer, Claim]] = field(default_factory=list)

    def work(self) -> None:
        """Until every task has ended."""
        peer = Peer.join(self.db)
        for _ in range(MOST_STEPS):
            if not value(self.db, UNFINISHED):
                return
            try:
                peer = self._step(peer)
            except psycopg.errors.DeadlockDetected:
                self.faults["deadlock"] += 1  # anybody may meet one, and asks again
            except psycopg.DatabaseError as refused:
                if refused.sqlstate != "PE010":
                    raise
                peer = Peer.join(self.db)  # another actor has moved the clock on
                self.faults["expired"] += 1
        raise AssertionError(f"{value(self.db, UNFINISHED)} tasks have not ended")

    def _step(self, peer: Peer) -> Peer:
        promote(self.db)
        if not peer.heartbeat()["alive"]:
            peer = Peer.join(self.db)
        for found in peer.reclaim():
            self.faults["reclaimed"] += 1
            assert found["lost_peer_id"] != peer.id
        claims = peer.claim(self.luck.randint(1, BATCH))
        if not claims:
            advance(self.db, "2 s")
            self._operate()
            return peer
        if self.luck.random() < SHARE_OF_FAULTS:
            return self._go_wrong(peer, claims)
        self._complete(peer, claims)
        return peer

    def _complete(self, peer: Peer, claims: list[Claim]) -> None:
        left = [claim.pair for claim in claims]
        while left:
            verdicts = peer.complete(*left)
            self.ledger += [(*pair, peer.id) for pair in left if pair not in verdicts]
            left = [pair for pair, verdict in verdicts.items() if verdict == "busy"]

    def _go_wrong(self, peer: Peer, claims: list[Claim]) -> Peer:
        fault = self.deck.popleft()
        self.faults[fault] += 1
        if fault in ("fail", "reject"):
            left = [claim.pair for claim in claims]
            while left:
                verdicts = peer.fail(*left, reject=fault == "reject")
                left = [pair for pair, verdict in verdicts.items() if verdict == "busy"]
        elif fault == "release":
            peer.release(*claims[::2])  # the others keep the lease alive
            again = peer.claim(BATCH)
            self._complete(peer, claims)  # void, even for a task that it holds again
            self._complete(peer, again)
        elif fault == "theft":
            self._complete(Peer.join(self.db), claims)  # void: the lease is another peer's
            self._complete(peer, claims)
        elif fault == "leave":
            peer.leave()
            return Peer.join(self.db)
        elif fault == "late":
            self._outlive(peer)
            self._complete(peer, claims)
        else:  # the process stops; as a zombie it wakes up later and reports under its old lease
            if fault == "zombie":
                self.zombies += [(peer, claim) for claim in claims]
            self._outlive(Peer.join(self.db))
            return self._wake_zombies()
        return peer

    def _outlive(self, watcher: Peer) -> None:
        """Time in which the silent are lost."""
        for _ in range(4):
            advance(self.db, "10 s")
            watcher.heartbeat()
        self.faults["reclaimed"] += len(watcher.reclaim())

    def _wake_zombies(self) -> Peer:
        awake, self.zombies = self.zombies, []
        fresh = Peer.join(self.db)
        for peer, claim in awake:
            self._complete(peer, [claim])
            self._complete(fresh, [claim])
        return fresh

    def _operate(self) -> None:
        for graph in column(self.db, "select id from peers.graph where paused_at is not null"):
            run(self.db, "select peers.resume_graph(%s)", graph)
        paused = self.faults["pause graph"] > 0
        if not paused or self.luck.random() < 0.3:
            verb = self.luck.choice(["pause", "pause", "retry", "cancel"]) if paused else "pause"
            run(self.db, f"select peers.{verb}_graph(%s)", self.luck.randint(1, GRAPHS))
            self.faults[f"{verb} graph"] += 1
        for task_id in column(self.db, "select task_id from peers.dead_letter"):
            verb = self.luck.choice(["retry", "retry", "discard"])
            try:
                run(self.db, f"select peers.{verb}(%s)", task_id)
                self.faults[verb] += 1
            except psycopg.DatabaseError as refused:
                if refused.sqlstate != "PE004":  # another operator was faster
                    raise
        if self.luck.random() < 0.02:
            run(
                self.db,
                "select peers.cancel(id) from peers.task"
                " where state in ('ready', 'blocked', 'running') order by id desc limit 1",
            )
            self.faults["cancel"] += 1


UNFINISHED = "select count(*) from peers.task where state not in ('completed', 'cancelled')"


def submit_random_graph(db: Connection, luck: random.Random) -> None:
    """Tasks with up to three older parents each, under random policies and times."""
    with db.transaction():
        run(db, "insert into peers.graph (name) select 'g' from generate_series(1, %s)", GRAPHS)
        for number in range(1, TASKS + 1):
            parents = luck.sample(
                range(max(1, number - 40), number), k=min(number - 1, luck.randint(0, 3))
            )
            run(
                db,
                "insert into peers.task (kind, priority, max_attempts, scheduled_at, graph_id)"
                " values ('a', %s, 3, now() + %s * interval '1 s', %s)",
                luck.randint(90, 110),
                luck.choice([0, 0, 0, 30]),
                luck.choice([None, luck.randint(1, GRAPHS)]),
            )
            for parent in parents:
                run(
                    db,
                    "insert into peers.dependency (parent_id, child_id, on_parent_failure)"
                    " values (%s, %s, %s)",
                    parent,
                    number,
                    luck.choice(["hold", "hold", "run", "run", "cancel"]),
                )


def act(world: World, seed: int, actors: int) -> tuple[list[str], Counter[str]]:
    """Runs a random graph to its end; what was violated, and the faults on the way."""
    luck = random.Random(seed)
    journal.install(world.db)
    submit_random_graph(world.db, luck)
    # dealt from one deck, so that every run has every fault
    deck = deque(fault for _ in range(TASKS) for fault in luck.sample(FAULTS, k=len(FAULTS)))
    crew = [Actor(world.connect(), random.Random(luck.random()), deck) for _ in range(actors)]
    for done in [world.background(each.work) for each in crew]:
        result(done)
    ledger = [entry for each in crew for entry in each.ledger]
    faults = sum((each.faults for each in crew), Counter[str]())
    found = journal.violations(world.db, ledger)
    found += [str(each) for each in problems(world.db)]
    return found, faults


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_task_ends_once_and_none_before_its_parents(world: World, seed: int) -> None:
    """Whatever peers and operators do: no loss, no outcome twice, no early start, right counts."""
    violations, faults = act(world, seed, actors=3)
    assert violations == []
    assert value(world.db, "select count(*) from peers.task") == TASKS
    assert value(world.db, "select count(*) from peers.task where state = 'completed'") > 0
    assert value(world.db, "select count(*) from peers.lease") == 0
    assert {*FAULTS, "reclaimed"} <= faults.keys()
    assert faults["retry"] + faults["discard"] > 0
    assert faults["pause graph"] > 0


@pytest.mark.parametrize("fence", ["the token is not compared", "the peer is not compared"])
def test_without_the_fence_it_is_noticed(databases: Databases, fence: str) -> None:
    """With half of the fence taken out, the same run finds outcomes that must not be.

    How the actors meet is left to chance. So a run may end well, but several do not.
    """
    assert any(violated(databases, fence, seed) for seed in range(1, RUNS_WITHOUT_FENCE + 1))


def violated(databases: Databases, fence: str, seed: int) -> bool:
    """Run in a database of its own without this fence, and return whether that was noticed."""
    with (
        databases.clone() as url,
        ExitStack() as sessions,
        ThreadPoolExecutor(max_workers=16) as pool,
    ):

        def connect() -> Connection:
            return sessions.enter_context(open_connection(url))

        world = World(connect(), connect, pool)
        apply_patches(world.db, VARIANTS[fence].patches)
        try:
            violations, _ = act(world, seed, actors=3)
        except psycopg.errors.CheckViolation:  # more outcomes than the lease has tasks
            return True
        return violations != []
