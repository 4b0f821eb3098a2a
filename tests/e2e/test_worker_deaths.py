"""Handlers that take their process along: they fail at once, alone, and the peer lives on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.harness import Stage, until

DEATHS = [("segfault", "SIGSEGV", None), ("exit", None, 7), ("killed", "SIGKILL", None)]


@pytest.fixture(scope="module")
def peer_id(shared: Stage) -> str:
    """The identity of the shared peer, which no death of a worker may change."""
    return str(shared.peers[0].joined())


@pytest.mark.parametrize(("how", "exit_signal", "exit_code"), DEATHS)
def test_a_worker_that_dies_is_a_failure_at_once(
    shared: Stage, peer_id: str, how: str, exit_signal: str | None, exit_code: int | None
) -> None:
    """A segfault, os._exit and a kill for memory fail the task that ran with the signal or the exit
    code, long before the lease of 30 s could end; the peer keeps its identity and goes on.
    """
    task_id = shared.submit("dies", {"how": how})
    shared.until_state("dead", task_id)
    [failure] = shared.failures(task_id)
    assert failure["error_type"] == "crash"
    assert (failure["exit_signal"], failure["exit_code"]) == (exit_signal, exit_code)
    assert str(failure["peer_id"]) == peer_id
    took = (failure["failed_at"] - failure["started_at"]).total_seconds()
    assert took < 30, "that was the lease, not the death"
    after = shared.submit("noop")
    shared.until_state("completed", after)
    assert len(shared.peers[0].events("peer_joined")) == 1


@pytest.mark.parametrize("how", ["segfault", "exit", "killed"])
def test_a_task_whose_worker_died_is_tried_again(shared: Stage, how: str) -> None:
    """The next attempt runs in a fresh worker and completes."""
    task_id = shared.submit("dies.once", {"how": how})
    shared.until_state("completed", task_id)
    assert shared.task(task_id)["attempt"] == 2
    assert [failure["error_type"] for failure in shared.failures(task_id)] == ["crash"]


def test_tasks_of_the_same_assignment_neither_fail_nor_count(stage: Stage) -> None:
    """Of quick tasks with a killer in the middle, only the killer fails; every other one
    completes, and none has an attempt that counts against it.
    """
    stage.peer(slots=1)
    warm_up = [stage.submit("noop", {"n": n}) for n in range(50)]
    stage.until_state("completed", *warm_up)
    stage.db.execute("select peers.pause('default')")
    with stage.db.transaction():
        before = [stage.submit("noop", {"n": n}) for n in range(100)]
        killer = stage.submit("dies", {"how": "killed"})
        behind = [stage.submit("noop", {"n": n}) for n in range(100)]
    stage.db.execute("select peers.resume('default')")
    stage.until_state("dead", killer)
    stage.until_state("completed", *before, *behind)
    assert stage.rows("select id from peers.task where attempt <> 1") == []
    assert stage.rows("select task_id from peers.failure where task_id <> %s", killer) == []
    stage.assert_clean()


def test_the_siblings_on_the_loop_of_a_dead_worker_do_not_count(stage: Stage) -> None:
    """When an async handler takes the loop's process along, it alone fails; its siblings, which had
    to die with it, run again without an attempt counted.
    """
    stage.peer(slots=3)
    siblings = [stage.submit("async.held", {"gate": stage.gate("siblings")}) for _ in range(2)]
    killer = stage.submit(
        "async.dies", {"how": "segfault", "gate": stage.gate("killer")}, max_attempts=1
    )
    stage.until_started(*siblings, killer)
    stage.open(stage.gate("killer"))
    stage.until_state("dead", killer)
    assert stage.failures(killer)[0]["exit_signal"] == "SIGSEGV"
    stage.until_started(*siblings, times=2)
    stage.open(stage.gate("siblings"))
    stage.until_state("completed", *siblings)
    assert [stage.task(task_id)["attempt"] for task_id in siblings] == [1, 1]
    stage.assert_clean()


def test_a_loop_that_dies_by_a_thread_of_a_handler_does_not_die_for_ever(shared: Stage) -> None:
    """A crash in a thread, while the loop itself is idle, is somebody's fault too: the task that
    takes its worker along every time comes to an end.
    """
    task_id = shared.submit("async.thread.dies", {"how": "segfault"})
    shared.until_state("dead", task_id)


def test_a_worker_killed_from_outside_is_replaced(shared: Stage) -> None:
    """Every worker of an idle peer is killed: the peer starts new ones and works on."""
    peer = shared.peers[0]
    killed = peer.workers()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not set(killed) & set(peer.workers()), "the end of the killed workers")
    after = [shared.submit("noop"), shared.submit("async.rollup")]
    shared.until_state("completed", *after)
    assert len(peer.events("peer_joined")) == 1


def test_what_a_handler_started_dies_with_its_worker(shared: Stage, tmp_path: Path) -> None:
    """A program that a handler started does not outlive the death of its worker."""
    report = tmp_path / "pid"
    task_id = shared.submit("leaves.a.child", {"report": str(report)})
    shared.until_state("dead", task_id)
    stat = Path(f"/proc/{report.read_text()}/stat")
    until(
        lambda: not stat.exists() or ") Z " in stat.read_text(), "the end of what a handler started"
    )


def test_all_of_this_has_left_the_books_in_order(shared: Stage) -> None:
    """After all the deaths above: nothing lost, nothing twice."""
    shared.until_ended()
    shared.assert_clean()
