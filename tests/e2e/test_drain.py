"""Stopping: what runs finishes, what waits goes back, and the peer leaves."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.e2e.harness import Stage, until


def test_sigterm_lets_finish_what_runs_and_gives_back_what_waits(stage: Stage) -> None:
    """After SIGTERM the running handler completes, the backlog is released without an attempt
    counted, nothing new is claimed, the peer's row goes, and the exit code is 0.
    """
    peer = stage.peer(slots=1)
    quick = [stage.submit("nap", {"seconds": 0.002}) for _ in range(20)]
    stage.until_state("completed", *quick)  # so that it claims many at once
    with stage.db.transaction():
        running = stage.submit("held", {"gate": stage.gate()})
        waiting = [stage.submit("nap", {"seconds": 0.002}) for _ in range(20)]
    stage.until_started(running)
    peer.process.terminate()
    peer.await_event("peer_draining")
    stage.until_true("select not exists (select from peers.running where task_id <> %s)", running)
    late = stage.submit("noop")
    stage.open(stage.gate())
    assert peer.wait() == 0
    assert stage.task(running)["state"] == "completed"
    for task_id in [*waiting, late]:
        task = stage.task(task_id)
        assert (task["state"], task["attempt"]) == ("ready", 0)
        assert stage.started(task_id) == []
    assert stage.rows("select id from peers.peer") == []
    assert stage.audit(ended=False).clean
    stage.peer()
    stage.until_state("completed", *waiting, late)
    stage.assert_clean()


@pytest.mark.parametrize("kind", ["held", "async.held"])
def test_a_second_sigterm_gives_everything_back_now(stage: Stage, kind: str) -> None:
    """The running handler is killed, its task is ready again and the attempt does not count; exit
    0.
    """
    peer = stage.peer()
    task_id = stage.submit(kind, {"gate": stage.gate()})
    stage.until_started(task_id)
    peer.process.terminate()
    peer.await_event("peer_draining")
    peer.process.terminate()
    assert peer.wait() == 0
    task = stage.task(task_id)
    assert (task["state"], task["attempt"]) == ("ready", 0)
    assert stage.rows("select id from peers.peer") == []
    assert stage.failures(task_id) == []
    assert stage.audit(ended=False).clean


@pytest.mark.parametrize("how", ["timeout", "second signal"])
def test_a_drain_that_had_to_stop_a_task_says_which(stage: Stage, how: str) -> None:
    """When the timeout of the drain is over, or at a second SIGTERM, what still runs is killed and
    given back, uncounted. The log names it, and so does the task's row; what had not been started
    is told apart.
    """
    peer = stage.peer(slots=2, drain_timeout="300ms" if how == "timeout" else "1h")
    stopped = [stage.submit(kind, {"gate": stage.gate()}) for kind in ("held", "async.held")]
    stage.until_started(*stopped)
    behind = [stage.submit("held", {"gate": stage.gate()}) for _ in range(3)]
    peer.process.terminate()
    if how == "second signal":
        peer.await_event("peer_draining")
        peer.process.terminate()
    assert peer.wait() == 0
    told = {event["task_id"]: event for event in peer.events("task_stopped")}
    assert set(told) == set(stopped)
    for task_id in stopped:
        task = stage.task(task_id)
        assert (task["state"], task["attempt"]) == ("ready", 0)
        said = f"stopped by a draining peer on host {socket.gethostname()} at "
        assert task["stopped_because"].startswith(said)
        assert said in stage.row("select peers.explain(%s)", task_id)["explain"]
        assert (told[task_id]["kind"], told[task_id]["attempt"]) == (task["kind"], 1)
        assert told[task_id]["seconds"] >= 0
        assert stage.failures(task_id) == []
    for task_id in behind:
        assert stage.task(task_id)["stopped_because"] is None
    stage.open(stage.gate())
    stage.peer(slots=2)
    stage.until_state("completed", *stopped, *behind)
    assert [stage.task(task_id)["attempt"] for task_id in stopped] == [1, 1]
    stage.assert_clean()


def test_ctrl_c_drains_as_well(stage: Stage) -> None:
    """SIGINT does what SIGTERM does."""
    peer = stage.peer()
    task_id = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(task_id)
    peer.send(signal.SIGINT)
    peer.await_event("peer_draining")
    stage.open(stage.gate())
    assert peer.wait() == 0
    assert stage.task(task_id)["state"] == "completed"


def test_an_idle_peer_leaves_at_once(stage: Stage) -> None:
    """Without work, SIGTERM ends the peer with exit 0, and nothing is left of it."""
    peer = stage.peer()
    workers = peer.workers()
    assert peer.terminate() == 0
    assert stage.rows("select id from peers.peer") == []
    until(lambda: not peer.workers(), f"the end of {workers}")
