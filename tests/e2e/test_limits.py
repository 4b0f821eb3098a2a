"""Limits with real peers. The long run is `python -m tests.e2e.limits_chaos`."""

from __future__ import annotations

import random
import signal
from typing import Any

import pytest

from tests.e2e import ledger
from tests.e2e.harness import Stage, until, workers_end
from tests.e2e.limits_chaos import most_at_once, unleash
from tests.support.world import run, value

APP = "tests.e2e.app_limits"
DONE = "select bool_and(state = 'completed') from peers.task"


def submit(stage: Stage, kind: str, count: int, args: str = "{}") -> None:
    """Submit so many tasks of a kind."""
    run(
        stage.db,
        "insert into peers.task (kind, args) select %s, %s::jsonb from generate_series(1, %s)",
        kind, args, count,
    )  # fmt: skip


def intervals(stage: Stage) -> list[tuple[int, int]]:
    """When each handler began and ended."""
    times: dict[tuple[Any, ...], list[int]] = {}
    for entry in ledger.read(stage.ledger):
        times.setdefault((*entry.lease, entry.pid), []).append(entry.at)
    return [(each[0], each[-1]) for each in times.values()]


@pytest.mark.parametrize("seed", [20261127])
def test_limits_hold_while_peers_are_killed_and_stopped(stage: Stage, seed: int) -> None:
    """By the handlers' own ledger: never more than may of any key, never more starts in a period;
    nothing lost, nothing twice.
    """
    outcome = unleash(stage, random.Random(seed), peers=4, keys=40, tasks=500)
    assert outcome.clean, outcome
    assert outcome.kills
    assert outcome.stops


@pytest.mark.parametrize("kind", ["limits.work", "limits.async"])
def test_short_tasks_run_one_after_the_other_in_each_slot(stage: Stage, kind: str) -> None:
    """Two peers with four slots each run three at once, and seldom ask the database."""
    run(stage.db, "insert into peers.limit (name, kind, max_running) values ('l', %s, 3)", kind)
    submit(stage, kind, 300, '{"account": 1, "seconds": 0.004}')
    for _ in range(2):
        stage.launch(APP, slots=4)
    stage.until_true(DONE)
    assert most_at_once(intervals(stage)) == 3
    tokens = value(stage.db, "select count(distinct token) from peers.task")
    assert tokens < 150, "most leases have several tasks"


def test_a_raised_limit_wakes_waiting_peers(stage: Stage) -> None:
    """And a limit that is added later holds for the tasks that wait already."""
    peer = stage.peer(APP, slots=4, poll_interval="60s")
    run(
        stage.db,
        "insert into peers.limit (name, kind, max_running) values ('l', 'limits.sleep', 1)",
    )
    submit(stage, "limits.sleep", 3, '{"seconds": 60}')
    running = "select count(*) from peers.task where state = 'running'"
    until(lambda: value(stage.db, running) == 1, "the first task")
    run(stage.db, "update peers.limit set max_running = 3")
    until(lambda: value(stage.db, running) == 3, "the others", 20)
    peer.kill()


def test_limited_and_unlimited_kinds_share_the_slots(stage: Stage) -> None:
    """A steady backlog of unlimited tasks does not starve limited ones that came before."""
    run(
        stage.db, "insert into peers.limit (name, kind, max_running) values ('l', 'limits.work', 1)"
    )
    stage.peer(APP, slots=2)
    submit(stage, "limits.free", 3000)
    submit(stage, "limits.work", 5, '{"account": 1, "seconds": 0.01}')
    submit(stage, "limits.free", 30_000)
    left = "select count(*) from peers.task where kind = 'limits.work' and state <> 'completed'"
    until(lambda: value(stage.db, left) == 0, "the limited tasks")
    assert value(stage.db, "select count(*) from peers.task where state = 'ready'") > 0


def test_a_stopped_peer_has_no_worker_when_its_lease_ends(stage: Stage) -> None:
    """Another process kills them: other peers will run its tasks. The attempt does not fail."""
    stopped = stage.peer(slots=1, lease_timeout="3s")
    task = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(task)
    workers = stopped.workers()
    assert workers
    stopped.send(signal.SIGSTOP)
    workers_end(workers)
    lease_left = "select heartbeat_at + lease_timeout > peers.now() from peers.peer"
    assert value(stage.db, lease_left), "the lease had ended before the workers"
    stopped.send(signal.SIGCONT)
    stage.open(stage.gate())
    stage.until_true(DONE)
    assert not any("killed" in str(each["error_message"]) for each in stage.failures(task))
