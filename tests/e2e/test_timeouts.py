"""Timeouts and cancellation: asked first where that is possible, then by force; siblings do not
pay.
"""

from __future__ import annotations

import pytest

from tests.e2e import ledger
from tests.e2e.harness import Stage, until


def events_of(stage: Stage, task_id: int) -> list[str]:
    """What the handler of a task noted, in order."""
    return [entry.event for entry in ledger.read(stage.ledger) if entry.task_id == task_id]


# ---------------------------------------------------------------------------------------- timeouts


def test_a_sync_handler_that_overruns_is_killed(shared: Stage) -> None:
    """Its worker is killed, and the attempt is a failure of type timeout; the other
    slot goes on.
    """
    gate = shared.gate("sibling of a late one")
    sibling = shared.submit("held", {"gate": gate})
    late = shared.submit("held", {"gate": shared.gate("never")}, timeout="300 ms", max_attempts=1)
    shared.until_started(sibling, late)
    shared.until_state("dead", late)
    [failure] = shared.failures(late)
    assert (failure["error_type"], failure["exit_signal"]) == ("timeout", "SIGKILL")
    assert "0.3 s" in failure["error_message"]
    shared.open(gate)
    shared.until_state("completed", sibling)
    assert shared.task(sibling)["attempt"] == 1
    assert len(shared.started(sibling)) == 1


def test_a_timeout_is_tried_again_like_any_failure(shared: Stage) -> None:
    """The kind's backoff and the task's max_attempts hold for timeouts too."""
    task_id = shared.submit(
        "held", {"gate": shared.gate("never")}, timeout="100 ms", max_attempts=2
    )
    shared.until_state("dead", task_id)
    assert [failure["error_type"] for failure in shared.failures(task_id)] == ["timeout"] * 2


def test_an_async_handler_that_overruns_is_cancelled_alone(shared: Stage) -> None:
    """Its worker lives on, and so does a sibling on the same loop."""
    gate = shared.gate("sibling on the loop")
    sibling = shared.submit("async.held", {"gate": gate})
    late = shared.submit(
        "async.held", {"gate": shared.gate("never")}, timeout="300 ms", max_attempts=1
    )
    shared.until_state("dead", late)
    [failure] = shared.failures(late)
    assert (failure["error_type"], failure["exit_signal"]) == ("timeout", None)
    assert events_of(shared, late) == ["start", "stop"]
    shared.open(gate)
    shared.until_state("completed", sibling)
    [only] = shared.started(sibling)
    assert only.pid == shared.started(late)[0].pid


def test_an_async_handler_that_blocks_the_loop_is_killed(shared: Stage) -> None:
    """One that never yields cannot be cancelled: its worker is killed and it fails with timeout;
    the sibling that had to die with it runs again, uncounted.
    """
    gate = shared.gate("sibling of a blocker")
    sibling = shared.submit("async.held", {"gate": gate})
    shared.until_started(sibling)
    blocker = shared.submit(
        "async.blocks", {"gate": shared.gate("never")}, timeout="200 ms", max_attempts=1
    )
    shared.until_state("dead", blocker)
    [failure] = shared.failures(blocker)
    assert (failure["error_type"], failure["exit_signal"]) == ("timeout", "SIGKILL")
    shared.open(gate)
    shared.until_state("completed", sibling)
    assert shared.task(sibling)["attempt"] == 1
    assert shared.failures(sibling) == []


def test_an_async_handler_that_ignores_its_cancellation_is_killed(shared: Stage) -> None:
    """It yields, but goes on: after a grace its worker is killed, and the failure
    is its timeout.
    """
    deaf = shared.submit(
        "async.deaf", {"gate": shared.gate("never")}, timeout="200 ms", max_attempts=1
    )
    shared.until_state("dead", deaf)
    [failure] = shared.failures(deaf)
    assert (failure["error_type"], failure["exit_signal"]) == ("timeout", "SIGKILL")
    assert "deaf" in events_of(shared, deaf)


def test_a_handler_is_killed_at_the_limit_that_it_has_set_itself(shared: Stage) -> None:
    """Though no signal reaches its process; and it is a timeout like others."""
    late = shared.submit("limits.itself", {"gate": shared.gate("never"), "limits": [60, 0.2]})
    shared.until_state("dead", late)
    [failure] = shared.failures(late)
    assert (failure["error_type"], failure["exit_signal"]) == ("timeout", "SIGKILL")
    assert "kill_after" in failure["error_message"]


@pytest.mark.parametrize("limit", [60, None])
def test_the_limit_that_a_handler_has_set_last_counts(shared: Stage, limit: float | None) -> None:
    """An earlier one that was shorter kills nobody; nor does that of a handler which has ended."""
    gate = shared.gate(f"at {limit}")
    task_id = shared.submit("limits.itself", {"gate": gate, "limits": [0.2, limit]})
    shared.until_started(task_id)
    overrun = shared.submit("limits.itself", {"gate": shared.gate("never"), "limits": [0.5]})
    shared.until_state("dead", overrun)  # more than 0.2 s later
    shared.open(gate)
    shared.until_state("completed", task_id)


def test_an_async_handler_is_limited_while_it_keeps_the_loop_to_itself(shared: Stage) -> None:
    """One that blocks it is killed; one that only waits for longer than its limit is not."""
    gate = shared.gate("of a patient one")
    patient = shared.submit(
        "async.limits.itself", {"gate": gate, "seconds": 0.2, "patiently": True}
    )
    shared.until_started(patient)
    hog = shared.submit(
        "async.limits.itself", {"gate": shared.gate("never"), "seconds": 0.2, "patiently": False}
    )
    shared.until_state("dead", hog)
    [failure] = shared.failures(hog)
    assert (failure["error_type"], failure["exit_signal"]) == ("timeout", "SIGKILL")
    shared.open(gate)
    shared.until_state("completed", patient)
    assert shared.failures(patient) == []


# ------------------------------------------------------------------------------------ cancellation


def test_a_running_handler_that_looks_stops_by_itself(shared: Stage) -> None:
    """current_task().cancelled turns true; what the handler does then, it does in
    its own worker.
    """
    task_id = shared.submit("cooperative", {"gate": shared.gate("never")})
    shared.until_started(task_id)
    pid = shared.started(task_id)[0].pid
    shared.db.execute("select peers.cancel(%s)", (task_id,))
    shared.until_state("cancelled", task_id)
    assert events_of(shared, task_id) == ["start", "stop"]
    assert pid in shared.peers[0].workers()


def test_a_running_handler_that_does_not_look_is_killed(shared: Stage) -> None:
    """After cancel_grace the worker is killed; the task is cancelled, not tried again."""
    task_id = shared.submit("held", {"gate": shared.gate("never")})
    shared.until_started(task_id)
    shared.db.execute("select peers.cancel(%s)", (task_id,))
    shared.until_state("cancelled", task_id)
    [failure] = shared.failures(task_id)
    assert (failure["error_type"], failure["exit_signal"]) == ("cancelled", "SIGKILL")


def test_a_running_async_handler_is_cancelled_on_its_loop(shared: Stage) -> None:
    """It gets CancelledError at its next await; its worker lives on."""
    task_id = shared.submit("async.held", {"gate": shared.gate("never")})
    shared.until_started(task_id)
    shared.db.execute("select peers.cancel(%s)", (task_id,))
    shared.until_state("cancelled", task_id)
    assert events_of(shared, task_id) == ["start", "stop"]
    assert shared.failures(task_id)[0]["error_type"] == "cancelled"


def test_a_task_that_waits_behind_a_running_one_is_cancelled_before_it_starts(
    shared: Stage,
) -> None:
    """Claimed or not, it never runs, and the one before it is not disturbed."""
    gate = shared.gate("before a cancelled one")
    before = [shared.submit("held", {"gate": gate}) for _ in range(2)]
    shared.until_started(*before)
    task_id = shared.submit("noop", {"n": 1})
    shared.db.execute("select peers.cancel(%s)", (task_id,))
    shared.until_state("cancelled", task_id)
    shared.open(gate)
    shared.until_state("completed", *before)
    assert shared.started(task_id) == []
    assert [shared.task(one)["attempt"] for one in before] == [1, 1]


def test_a_completion_that_comes_first_wins(shared: Stage) -> None:
    """A handler that returns although it was told to stop completes its task."""
    gate = shared.gate("wins")
    task_id = shared.submit("held", {"gate": gate})
    shared.until_started(task_id)
    shared.open(gate)
    until(lambda: "end" in events_of(shared, task_id), "the end of the handler")
    shared.db.execute("select peers.cancel(%s)", (task_id,))
    shared.until_state("completed", task_id)


def test_the_gil_does_not_hold_up_the_heartbeat(stage: Stage) -> None:
    """A handler that holds the GIL for longer than a lease keeps its lease: the heartbeat is
    sent by another process. It completes at the first attempt, though another peer waits to
    reclaim.
    """
    stage.peer(lease_timeout="2s")
    task_id = stage.submit("holds.the.gil", {"seconds": 2.6})
    stage.until_started(task_id)
    other = stage.peer(lease_timeout="2s")
    stage.until_state("completed", task_id)
    assert stage.task(task_id)["attempt"] == 1
    assert stage.task(task_id)["result"]["seconds"] > 2.6
    assert other.events("task_reclaimed") == []
    stage.assert_clean()


def test_a_worker_that_the_peer_itself_killed_is_no_error_in_the_log(shared: Stage) -> None:
    """The log says why; that of a worker that died by itself is an error."""
    task_id = shared.submit("held", {"gate": shared.gate("never")})
    shared.until_started(task_id)
    shared.db.execute("select peers.cancel(%s)", (task_id,))
    shared.until_state("cancelled", task_id)
    told = shared.peers[0].await_event("worker_killed")
    assert (told["level"], told["reason"]) == ("info", "stopped on request")
    assert shared.peers[0].events("worker_died") == []


def test_all_of_this_has_left_the_books_in_order(shared: Stage) -> None:
    """After all the timeouts and cancellations above: nothing lost, nothing twice."""
    shared.until_ended()
    shared.assert_clean()
