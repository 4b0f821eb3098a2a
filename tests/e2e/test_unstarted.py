"""An attempt counts only if its handler was started, also when a peer dies with all its workers."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from typing import Final

import pytest

from tests.e2e import ledger
from tests.e2e.app_unstarted import BATCH_SIZE
from tests.e2e.harness import PeerProcess, Stage, workers_end

APP: Final = "tests.e2e.app_unstarted"
KINDS: Final = ("unstarted.sync", "unstarted.async", "unstarted.batch", "unstarted.batch.async")
LONG: Final = {"lease_timeout": "120s"}
"""Longer than anything is awaited: what happens does not happen because a lease has ended."""
ATTEMPTS: Final = 3
WARM_UP: Final = 20
INNOCENT: Final = 40
KILLS: Final = 8
AFTER_RECALL: Final = 0.5
"""Seconds after which a worker has given back what waits behind a slow handler."""


def kill_all(peer: PeerProcess) -> None:
    """Kill a peer and all that it has started, as the kernel does to a service without memory."""
    pids = [*peer.workers(), *peer.fork_servers(), *peer.orphan_killers()]
    peer.process.kill()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    peer.process.wait()
    workers_end(pids)


def submit(
    stage: Stage, kind: str, gate: str, tasks: int, priority: int, attempts: int = ATTEMPTS
) -> list[int]:
    """Submit tasks of one priority, in one transaction."""
    with stage.db.transaction():
        return [
            stage.submit(kind, {"gate": gate}, priority=priority, max_attempts=attempts)
            for _ in range(tasks)
        ]


def attempts(stage: Stage) -> dict[int, int]:
    """How many attempts of each task count."""
    return {row["id"]: row["attempt"] for row in stage.rows("select id, attempt from peers.task")}


@pytest.mark.parametrize("seconds", [0.0, AFTER_RECALL], ids=["at once", "after a while"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_kills_its_peer_again_and_again(
    stage: Stage, kind: str, seconds: float
) -> None:
    """It uses up its own attempts. The tasks that its peers had only claimed keep theirs, and
    complete. Each peer is the witness of the one before.
    """
    open_gate, closed = stage.gate("open"), stage.gate()
    stage.open(open_gate)
    size = BATCH_SIZE if "batch" in kind else 1
    neighbours = ATTEMPTS * (size - 1)  # those that may have started in the same batch
    quick = submit(stage, kind, open_gate, WARM_UP, priority=1, attempts=100)
    [killer] = submit(stage, kind, closed, 1, priority=2)
    innocent = submit(stage, kind, open_gate, INNOCENT, priority=3, attempts=ATTEMPTS + 1)
    claimed_unstarted = 0
    for number in range(1, ATTEMPTS + 1):
        peer = stage.peer(APP, **LONG)
        stage.until_started(killer, times=number)
        time.sleep(seconds)
        held = stage.row(
            "select count(*) from peers.task where state = 'running' and id = any (%s)", innocent
        )
        claimed_unstarted += held["count"]
        kill_all(peer)
        # a new peer claims as many tasks as it has slots, until some have ended
        quick += submit(stage, kind, open_gate, WARM_UP, priority=1, attempts=100)
    # a peer on a busy machine may take the kind for slow and claim no more than it runs
    assert claimed_unstarted > 0, "peers have claimed more than they ran"
    last = stage.peer(APP, **LONG)
    stage.until_state("dead", killer)
    stage.until_state("completed", *innocent, *quick)
    counted = attempts(stage)
    # some of the quick ones may have lost an outcome that was not recorded yet
    assert counted == {task_id: len(stage.started(task_id)) for task_id in counted}
    assert counted[killer] == ATTEMPTS
    untouched = [task_id for task_id in innocent if counted[task_id] == 1]
    assert len(untouched) >= INNOCENT - neighbours
    assert all(stage.failures(task_id) == [] for task_id in untouched)
    assert last.await_event("unstarted_tasks_released")["released"] > 0
    assert stage.rows("select * from peers.check()") == []


def test_every_attempt_that_was_started_counts(stage: Stage) -> None:
    """Peers are killed at random moments while they run tasks of all kinds: each start of a handler
    was an attempt. And nearly all attempts were started: only those of claims count as well whose
    reply the peer did not read before it was killed.
    """
    gate = stage.gate()
    stage.open(gate)
    peers = [stage.peer(APP, slots=3, **LONG) for _ in range(2)]
    chance = random.Random(1)
    many = """
        insert into peers.task (kind, args, max_attempts)
        select k.kind, jsonb_build_object('gate', %s::text, 'seconds', 0.01), 100
        from generate_series(1, 200) n, unnest(%s::text[]) k(kind) returning id, kind"""
    task_ids: list[int] = []
    for number in range(KILLS):
        new = stage.rows(many, gate, list(KINDS))
        task_ids += [row["id"] for row in new]
        of_kind = [row["id"] for row in new if row["kind"] == KINDS[number % len(KINDS)]]
        stage.until_started(chance.choice(of_kind[: len(of_kind) // 2]))
        kill_all(peers.pop(0))
        peers.append(stage.peer(APP, slots=3, **LONG))
    stage.until_state("completed", *task_ids)
    started = Counter(entry.task_id for entry in ledger.read(stage.ledger))
    counted = attempts(stage)
    assert sum(counted.values()) > len(task_ids), "some attempts were lost"
    assert [task_id for task_id in task_ids if counted[task_id] < started[task_id]] == []
    uncertain = sum(counted[task_id] > started[task_id] for task_id in task_ids)
    assert uncertain < len(task_ids) / 10
    assert sum(len(peer.events("unstarted_tasks_released")) for peer in stage.peers) > 0
    assert stage.rows("select * from peers.check()") == []
