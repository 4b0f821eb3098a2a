"""Async handlers that would end their loop, or all that is on it: only they pay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.harness import Stage, until
from tests.support.server import Databases

SIBLINGS = 40

IN_PROCESS = [
    "child exits", "child is awaited", "child interrupts", "callback exits", "timer exits",
    "stops the loop", "stops the loop later", "stops the loop from a thread", "closes the loop",
    "cancels all", "child cancels all", "ends the executor", "ends the generators", "unwatches",
    "a policy", "interrupts the main thread",
]  # fmt: skip


@pytest.fixture(scope="module")
def shared(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage with one peer, whose only worker has a loop."""
    with databases.clone() as url, Stage(url, tmp_path_factory.mktemp("siblings")) as made:
        made.peer("tests.e2e.app_siblings", slots=SIBLINGS + 2)
        yield made


def submit_siblings(stage: Stage, how: str) -> tuple[list[int], int, str]:
    """Siblings that all run, with one attempt each, and then the crasher; the siblings' gate."""
    gate, signal = stage.gate(f"siblings of {how}"), stage.gate(f"crasher {how}")
    siblings = [stage.submit("damaged.sibling", {"gate": gate}) for _ in range(SIBLINGS)]
    crasher = stage.submit("damaged.crasher", {"how": how, "gate": signal})
    stage.until_started(*siblings, crasher)
    stage.open(signal)
    return siblings, crasher, gate


@pytest.mark.parametrize("how", IN_PROCESS)
def test_a_handler_that_would_end_the_loop_fails_alone(shared: Stage, how: str) -> None:
    """Exits, interrupts, and whatever else ends a loop or all that is on it: the handler's own
    attempt fails, and its siblings do not even notice.
    """
    siblings, crasher, gate = submit_siblings(shared, how)
    shared.until_state("dead", crasher)
    shared.open(gate)
    shared.until_state("completed", *siblings)
    assert {shared.task(one)["attempt"] for one in siblings} == {1}
    assert {len(shared.started(one)) for one in siblings} == {1}
    assert len(shared.failures(crasher)) == 1


def test_of_all_that_died_with_their_loop_only_the_crasher_fails(shared: Stage) -> None:
    """A thread kills the process while no handler has the loop, and 41 may have been it. They run
    again in isolation, by halves, until the crasher is alone: it fails, and the others complete at
    their first attempt, though they only end when it is over. Newcomers do not wait for that.
    """
    siblings, crasher, gate = submit_siblings(shared, "kills itself from a thread")
    shared.open(shared.gate("open"))
    newcomer = shared.submit("damaged.sibling", {"gate": shared.gate("open")})
    shared.until_state("completed", newcomer)
    assert shared.task(crasher)["state"] == "running", "the search is quicker than this test"
    shared.until_state("dead", crasher)
    [failure] = shared.failures(crasher)
    assert (failure["error_type"], failure["exit_signal"]) == ("crash", "SIGKILL")
    shared.open(gate)
    shared.until_state("completed", *siblings)
    assert {shared.task(one)["attempt"] for one in siblings} == {1}
    assert shared.rows("select 1 from peers.failure where task_id = any (%s)", siblings) == []


def test_a_batch_among_the_isolated_is_bisected_as_well(stage: Stage) -> None:
    """One of the tasks of a batch kills the process from a thread: it is found among its batch, and
    the others, and a handler that ran beside them, complete at their first attempt.
    """
    stage.peer("tests.e2e.app_siblings", slots=4)
    sibling = stage.submit("damaged.sibling", {"gate": stage.gate()})
    stage.until_started(sibling)
    with stage.db.transaction():
        batch = [stage.submit("damaged.rows", {"kills": number == 5}) for number in range(8)]
    killer = batch.pop(5)
    stage.until_state("dead", killer)
    stage.until_state("completed", *batch)
    stage.open(stage.gate())
    stage.until_state("completed", sibling)
    assert {stage.task(one)["attempt"] for one in [sibling, killer, *batch]} == {1}
    assert [failure["error_type"] for failure in stage.failures(killer)] == ["crash"]
    assert stage.rows("select 1 from peers.failure where task_id <> %s", killer) == []
    assert stage.rows("select * from peers.check()") == []


def test_all_of_this_has_left_the_books_in_order(shared: Stage) -> None:
    """Nothing lost, no outcome twice, no worker for isolated tasks left over."""
    shared.until_ended()
    shared.assert_clean()
    until(lambda: len(shared.peers[0].workers()) == 1, "the end of the workers apart")
