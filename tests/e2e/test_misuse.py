"""Handlers that treat their peer badly, and applications that sit on rows: the peer lives on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e import ledger
from tests.e2e.harness import Stage, until


def assert_alive(stage: Stage) -> None:
    """The peer has its first identity, and works."""
    task_id = stage.submit("noop")
    stage.until_state("completed", task_id)
    assert [len(peer.events("peer_joined")) for peer in stage.peers] == [1]


@pytest.mark.parametrize(
    ("verb", "payload"),
    [
        ("conquer the world", None),
        ("progress", None),
        ("progress", {"done": 1}),
        ("progress", {"done": "all", "total": {}}),
        ("submit_graph", {"no": "list"}),
        ("submit_graph", [{"name": "a"}]),
        ("submit", None),
        ("submit", {"kind": "noop", "args": "no object"}),
        ("submit", {"kind": ""}),
        ("submit", {"kind": "noop", "scheduled_at": "tomorrow or so"}),
    ],
)
def test_what_makes_no_sense_to_the_peer_fails_the_task_alone(
    shared: Stage, verb: str, payload: Any
) -> None:
    """A handler that asks for something impossible gets an error; its peer does not."""
    task_id = shared.submit("asks.nonsense", {"verb": verb, "payload": payload})
    shared.until_state("dead", task_id)
    assert_alive(shared)


def test_a_progress_that_cannot_be_kept_does_no_harm(shared: Stage) -> None:
    """The handler goes on, and the peer too."""
    task_id = shared.submit("tells.nonsense")
    shared.until_state("completed", task_id)
    assert_alive(shared)


@pytest.mark.parametrize("numbers", [[0, 0, 0, 1, 255], [103] * 20, [255] * 64, [0]])
def test_a_worker_that_sends_garbage_is_replaced(shared: Stage, numbers: list[int]) -> None:
    """Whatever a handler writes into the worker's socket, its task comes to an end, dead or
    completed, and the slot is free for the next one.
    """
    task_id = shared.submit("writes.to.its.socket", {"numbers": numbers}, timeout="2 s")
    shared.until_true(
        "select state in ('dead', 'completed') from peers.task where id = %s", task_id
    )
    assert_alive(shared)


def test_a_handler_that_writes_everywhere_ends_alone(shared: Stage) -> None:
    """It destroys no record of what runs: its own attempt fails, and it is not run for ever."""
    task_ids = [shared.submit("writes.everywhere") for _ in range(3)]
    others = [shared.submit("noop", {"n": n}) for n in range(20)]
    shared.until_state("dead", *task_ids)
    shared.until_state("completed", *others)
    assert {len(shared.started(task_id)) for task_id in task_ids} == {1}
    [failure] = shared.failures(task_ids[0])
    assert "wrote into its connection" in failure["error_message"]


def test_a_handler_that_closes_every_descriptor_ends_alone(shared: Stage) -> None:
    """Its worker can say no more and is replaced; the task fails."""
    task_id = shared.submit("closes.everything")
    shared.until_state("dead", task_id)
    assert_alive(shared)


def test_a_handler_that_forks_completes(shared: Stage) -> None:
    """Children of a handler, dead or alive, do not keep its outcome from the peer."""
    task_id = shared.submit("forks")
    shared.until_state("completed", task_id)
    assert_alive(shared)


@pytest.mark.parametrize("kind", ["forks.leaves", "async.forks.leaves"])
@pytest.mark.parametrize("how", ["returns", "raises", "exits"])
def test_a_forked_child_that_leaves_the_handler_has_no_outcome(
    shared: Stage, kind: str, how: str
) -> None:
    """The task's outcome is that of the worker, and what waits behind it runs once."""
    with shared.db.transaction():
        task_id = shared.submit(kind, {"how": how}, priority=1)
        behind = [shared.submit("noop", {"n": n}) for n in range(20)]
    shared.until_state("completed", task_id, *behind)
    assert shared.task(task_id)["result"]["of"] == "parent"
    shared.assert_clean()
    assert_alive(shared)


def test_an_application_that_sits_on_a_task_keeps_nobody_else_waiting(stage: Stage) -> None:
    """While an open transaction locks the row of a running task, its outcome waits and others are
    settled; it is recorded, once, when the transaction ends.
    """
    stage.peer(slots=2)
    task_id = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(task_id)
    with stage.connect() as application, application.transaction():
        application.execute("select from peers.task where id = %s for update", (task_id,))
        stage.open(stage.gate())
        until(
            lambda: any(entry.event == "end" for entry in ledger.read(stage.ledger)),
            "the end of the handler",
        )
        others = [stage.submit("noop", {"n": n}) for n in range(20)]
        stage.until_state("completed", *others)
        assert stage.task(task_id)["state"] == "running"
    stage.until_state("completed", task_id)
    stage.assert_clean()


def test_an_operator_who_locks_the_row_of_a_peer_does_not_break_it(stage: Stage) -> None:
    """A lock that keeps the heartbeat waiting for longer than a lease has the peer fence itself;
    when it is gone, the peer works on, and what ran is run again.
    """
    peer = stage.peer(lease_timeout="1500ms")
    task_id = stage.submit("held.once", {"gate": stage.gate()})
    stage.until_started(task_id)
    with stage.connect() as operator, operator.transaction():
        operator.execute("select from peers.peer for update")
        peer.await_event("peer_fenced")
    stage.open(stage.gate())
    stage.until_state("completed", task_id)
    assert peer.process.poll() is None
    stage.assert_clean()


def test_all_of_this_has_left_the_books_in_order(shared: Stage) -> None:
    """After all the misuse above: nothing lost, nothing twice."""
    shared.until_ended()
    shared.assert_clean()
