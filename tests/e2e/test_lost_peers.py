"""Peers that are killed or stopped: others take over, and what comes late is void."""

from __future__ import annotations

import signal
import socket
import time

import pytest

from tests.e2e import ledger
from tests.e2e.disasters import LEASE, NO_FENCE, stop_past_the_lease
from tests.e2e.harness import Stage, until, workers_end
from tests.support.world import advance, apply_patches


def holder(stage: Stage, task_id: int) -> str:
    """The identity of the peer that holds the task."""
    return str(
        stage.row("select peer_id from peers.running where task_id = %s", task_id)["peer_id"]
    )


def test_a_peer_killed_in_the_middle_of_a_task(stage: Stage) -> None:
    """The peer that runs a task is killed with SIGKILL. Its worker dies with it; another peer
    reclaims the task and completes it. The lost attempt is a failure that names the peer and its
    host.
    """
    first = stage.peer(**LEASE)
    task_id = stage.submit("held.once", {"gate": stage.gate()})
    stage.until_started(task_id)
    lost, workers = first.joined(), first.workers()
    second = stage.peer(**LEASE)
    first.kill()
    workers_end(workers)
    stage.until_state("completed", task_id)
    [failure] = stage.failures(task_id)
    assert failure["error_type"] == "lost"
    assert (failure["peer_id"], failure["host"]) == (lost, socket.gethostname())
    assert failure["pid"] == first.pid
    assert str(lost) in failure["error_message"]
    assert socket.gethostname() in failure["error_message"]
    assert stage.task(task_id)["attempt"] == 2
    assert second.await_event("task_reclaimed")["lost_peer_id"] == str(lost)
    stage.assert_clean()


def test_a_clock_that_is_set_forward_costs_no_attempt(stage: Stage) -> None:
    """Every lease seems to have expired while its peer lives: the peer stops what runs, gives it
    back, joins again and runs it again; what was over is recorded, and no attempt is charged.
    """
    peer = stage.peer(slots=3, lease_timeout="6s", poll_interval="20ms")
    task_ids = [stage.submit("held", {"gate": stage.gate()}, max_attempts=1) for _ in range(2)]
    stage.until_started(*task_ids)
    # a claim notices it, unless a heartbeat comes first
    while len(peer.events("peer_joined")) < 2:
        advance(stage.db, "1 hour")
        noticed = time.monotonic() + 1
        while len(peer.events("peer_joined")) < 2 and time.monotonic() < noticed:
            time.sleep(0.01)
    stage.until_started(*task_ids, times=2)
    stage.open(stage.gate())
    stage.until_state("completed", *task_ids)
    assert [stage.failures(task_id) for task_id in task_ids] == [[], []]
    stage.assert_clean()


def test_all_that_a_killed_peer_had_claimed_runs_elsewhere(stage: Stage) -> None:
    """A whole backlog was claimed by a peer that is killed: every task completes on
    the other one.
    """
    first = stage.peer(slots=2, **LEASE)
    stuck = [stage.submit("held.once", {"gate": stage.gate()}) for _ in range(2)]
    stage.until_started(*stuck)
    stage.peer(slots=2, **LEASE)
    first.kill()
    more = [stage.submit("noop", {"n": n}) for n in range(20)]
    stage.until_state("completed", *stuck, *more)
    stage.assert_clean()


def test_a_task_that_kills_its_peer_does_not_do_so_for_ever(stage: Stage) -> None:
    """Each peer that starts the task is killed. Lost attempts count: after the last one it is dead,
    and its dead letter shows the loss.
    """
    task_id = stage.submit("held", {"gate": stage.gate()}, max_attempts=2)
    killer = [stage.peer(**LEASE), stage.peer(**LEASE)]
    for times in (1, 2):
        stage.until_started(task_id, times=times)
        held_by = holder(stage, task_id)
        [victim] = [peer for peer in killer if str(peer.joined()) == held_by]
        killer.remove(victim)
        victim.kill()
        killer.append(stage.peer(**LEASE))
    stage.until_state("dead", task_id)
    letter = stage.row("select * from peers.dead_letter where task_id = %s", task_id)
    assert (letter["error_type"], letter["attempts"]) == ("lost", 2)


def test_a_stop_that_is_shorter_than_the_lease_is_no_disaster(stage: Stage) -> None:
    """SIGSTOP, and SIGCONT well within the lease: nothing is reclaimed, nothing runs twice, the
    peer keeps its identity.
    """
    first = stage.peer(lease_timeout="30s")
    stage.peer(lease_timeout="30s")
    task_id = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(task_id)
    [stopped] = [peer for peer in stage.peers if str(peer.joined()) == holder(stage, task_id)]
    stopped.send(signal.SIGSTOP)
    stage.open(stage.gate())
    until(
        lambda: any(e.event == "end" for e in ledger.read(stage.ledger)), "the end of the handler"
    )
    assert stage.task(task_id)["state"] == "running", "nobody else may settle it"
    stopped.send(signal.SIGCONT)
    stage.until_state("completed", task_id)
    assert stage.task(task_id)["attempt"] == 1
    assert [len(peer.events("peer_joined")) for peer in stage.peers] == [1, 1]
    assert first.events("peer_lost") == []
    stage.assert_clean()


def test_a_peer_stopped_past_its_lease(stage: Stage) -> None:
    """SIGSTOP past the lease, then SIGCONT: another peer has the task, the first one's late outcome
    is void, its workers are killed, and it joins again under a new identity, with which it works.
    """
    stopped, task_id = stop_past_the_lease(stage)
    [before, after] = [event["peer_id"] for event in stopped.events("peer_joined")]
    assert before != after
    [failure] = stage.failures(task_id)
    assert (failure["error_type"], str(failure["peer_id"])) == ("lost", before)
    first, second = stage.started(task_id)
    assert str(stage.task(task_id)["token"]) == second.token
    assert stage.task(task_id)["result"] == {"token": second.token}
    workers_end([first.pid])
    stage.peers[-1].terminate()
    again = stage.submit("noop")
    stage.until_state("completed", again)
    stage.assert_clean()


def test_without_the_fence_the_same_disaster_is_seen(stage: Stage) -> None:
    """With a settle that asks neither for the token nor for the peer, the late outcome is taken:
    the audit must say so, or it proves nothing.
    """
    apply_patches(stage.db, [NO_FENCE])
    stop_past_the_lease(stage)
    assert not stage.audit().clean


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_no_worker_outlives_its_peer(stage: Stage, number: signal.Signals) -> None:
    """However the peer dies, its workers go with it, even one that holds the GIL."""
    peer = stage.peer(slots=2, lease_timeout="30s")
    ids = [
        stage.submit("holds.the.gil", {"seconds": 30}),
        stage.submit("held", {"gate": stage.gate()}),
    ]
    stage.until_started(*ids)
    workers = peer.workers()
    assert len(workers) >= 2
    peer.send(number)
    peer.wait()
    workers_end(workers)
