"""Sessions that claim, complete, fail, release, vanish and reclaim at random: limits hold exactly.

An observer counts what runs from the tasks' own rows, in one snapshot, again and again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.sql.limit_scenarios import Claimed, claim_limited, limit
from tests.sql.test_limits import SHARE
from tests.support.world import (
    Patch,
    Peer,
    World,
    apply_patches,
    problems,
    result,
    rows,
    run,
    value,
)

if TYPE_CHECKING:
    from tests.support.server import Connection

SESSIONS = 8
KEYS = 6
TASKS = 400
MOST = {"account": 2, "kind": 7}
MOST_STEPS = 3000

UNFINISHED = "select count(*) from peers.task where finished_at is null"
EVERY_PLACE = Patch("47_resume_limited.sql", "immutable return 64", "immutable return 1")
"""Claims use the places of all keys."""
NO_LOCK = Patch(
    SHARE, "if not pg_try_advisory_xact_lock(", "if false and not pg_try_advisory_xact_lock("
)


@dataclass
class Actor:
    """One thread that acts as peers, one after another."""

    world: World
    luck: random.Random
    db: Connection
    did: Counter[str] = field(default_factory=Counter)
    over: bool = False
    resume: str | None = None

    def work(self) -> None:
        """Until every task has ended, or it is over."""
        peer = Peer.join(self.db, lease="2 s")
        for _ in range(MOST_STEPS):
            if self.over or not value(self.db, UNFINISHED):
                return
            try:
                peer = self._step(peer)
            except psycopg.DatabaseError as refused:
                if refused.sqlstate != "PE010":
                    raise
                peer = Peer.join(self.db, lease="2 s")
                self.did["expired"] += 1
        raise AssertionError("tasks are left")

    def _step(self, peer: Peer) -> Peer:
        if not peer.heartbeat()["alive"]:
            peer = Peer.join(self.db, lease="2 s")
        self.did["reclaimed"] += len(peer.reclaim())
        if self.luck.random() < 0.03:
            return self._roll_back(peer)
        found = claim_limited(
            peer, self.luck.randint(1, 4), limited_resume=self.resume,
            a=self.luck.choice((1, 1, 3)),
        )  # fmt: skip
        self.resume = found.last["limited_resume"]
        if not found.claims:
            self.did[str(found.last["waits"])] += 1
            time.sleep(0.01)
            return peer
        return self._end(peer, found)

    def _roll_back(self, peer: Peer) -> Peer:
        self.did["rolled back"] += 1
        with self.db.transaction(force_rollback=True):
            claim_limited(peer, 3)
        return peer

    def _end(self, peer: Peer, found: Claimed) -> Peer:
        time.sleep(self.luck.choice((0, 0, 0.002, 0.01)))
        fate = self.luck.random()
        if fate < 0.05:
            self.did["vanished"] += 1
            return Peer.join(self.db, lease="2 s")
        if fate < 0.12:
            self.did["failed"] += 1
            self._record(lambda left: peer.fail(*left, retry_in=0), found)
        elif fate < 0.2:
            self.did["released"] += 1
            self._record(lambda left: peer.release(*left), found)
        else:
            self.did["completed"] += 1
            self._record(lambda left: peer.complete(*left), found)
        return peer

    def _record(self, record: object, found: Claimed) -> None:
        left = [claim.pair for claim in found.claims]
        while left:
            verdicts = record(left)  # type: ignore[operator]
            left = [pair for pair, verdict in verdicts.items() if verdict == "busy"]


def worst_moment(world: World, seed: int) -> tuple[int, int, Counter[str]]:
    """Work off the tasks; return the most of one account and the most of all that ran at once."""
    apply_patches(world.db, [EVERY_PLACE])
    limit(world.db, "account", key="account", max_running=MOST["account"])
    limit(world.db, "kind", max_running=MOST["kind"])
    run(
        world.db,
        "insert into peers.task (kind, max_attempts, args)"
        " select 'a', 1000, jsonb_build_object('account', mod(n * n, %s))"
        " from generate_series(1, %s) n",
        KEYS, TASKS,
    )  # fmt: skip
    actors = [Actor(world, random.Random(seed + n), world.connect()) for n in range(SESSIONS)]
    work = [world.background(actor.work) for actor in actors]
    of_key = of_kind = 0
    while not all(each.done() for each in work):
        # tasks of a lease that runs them one after the other do not all run
        found = rows(world.db, RUNNING_AT_ONCE)
        of_key = max([of_key, *(int(row["running"]) for row in found)])
        of_kind = max(of_kind, sum(int(row["running"]) for row in found))
        time.sleep(0.002)
        if of_key > MOST["account"] or of_kind > MOST["kind"]:
            for actor in actors:
                actor.over = True
    for each in work:
        result(each)
    return of_key, of_kind, sum((actor.did for actor in actors), Counter())


RUNNING_AT_ONCE = """
    select l.account, sum(l.running) as running
    from (
        select t.args ->> 'account' as account,
               least(count(*), l.most_running) as running
        from peers.lease l
        cross join lateral unnest(l.task_ids) i(task_id)
        join peers.task t on t.id = i.task_id and t.token = l.token and t.state = 'running'
        group by l.token, t.args ->> 'account', l.most_running
    ) l
    group by l.account
"""


@pytest.mark.parametrize("seed", [20261127])
def test_no_moment_has_too_many(world: World, seed: int) -> None:
    """Whatever eight sessions do; and the limits are reached, and nothing is left."""
    of_key, of_kind, did = worst_moment(world, seed)
    assert of_key == MOST["account"]
    assert MOST["kind"] - 1 <= of_kind <= MOST["kind"]
    assert did["completed"]
    assert did["vanished"]
    assert did["reclaimed"]
    assert did["rolled back"]
    assert problems(world.db) == []
    assert value(world.db, "select count(*) from peers.task where state <> 'completed'") == 0
    assert value(world.db, "select count(*) from peers.lease") == 0


def test_without_the_lock_there_are_too_many(world: World) -> None:
    """The same sessions go beyond the limits when claims do not exclude each other."""
    apply_patches(world.db, [NO_LOCK])
    of_key, of_kind, _ = worst_moment(world, 1)
    assert of_key > MOST["account"] or of_kind > MOST["kind"]
