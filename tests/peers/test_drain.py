"""Stopping: what runs finishes, what waits goes back, and the peer leaves."""

from __future__ import annotations

import signal

import pytest

from tests.peers.harness import Stage, until


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
    peer.await_event("draining")
    stage.until_true("select not exists (select from peers.lease where task_id <> %s)", running)
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
    peer.await_event("draining")
    peer.process.terminate()
    assert peer.wait() == 0
    task = stage.task(task_id)
    assert (task["state"], task["attempt"]) == ("ready", 0)
    assert stage.rows("select id from peers.peer") == []
    assert stage.failures(task_id) == []
    assert stage.audit(ended=False).clean


def test_a_drain_does_not_take_longer_than_its_timeout(stage: Stage) -> None:
    """When the timeout of the drain is over, what still runs is killed and given
    back, uncounted.
    """
    peer = stage.peer(drain_timeout="300ms")
    task_id = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(task_id)
    assert peer.terminate() == 0
    task = stage.task(task_id)
    assert (task["state"], task["attempt"]) == ("ready", 0)


def test_ctrl_c_drains_as_well(stage: Stage) -> None:
    """SIGINT does what SIGTERM does."""
    peer = stage.peer()
    task_id = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(task_id)
    peer.send(signal.SIGINT)
    peer.await_event("draining")
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
