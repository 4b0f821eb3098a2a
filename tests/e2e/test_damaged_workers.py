"""A handler that damages its process: it is replaced, and other tasks do not fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.harness import Stage, until
from tests.support.server import Databases

APP = "tests.e2e.app_damaged"


@pytest.fixture(scope="module")
def shared(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage with one peer of one slot."""
    with databases.clone() as url, Stage(url, tmp_path_factory.mktemp("damaged")) as made:
        made.peer(APP)
        yield made


# ----------------------------------------------------------------------------- exhausted workers


@pytest.mark.parametrize("what", ["descriptors", "memory", "streams"])
@pytest.mark.parametrize("mode", ["", "async."])
def test_tasks_after_one_that_damaged_its_worker_do_not_fail(
    shared: Stage, mode: str, what: str
) -> None:
    """Where one handler leaves its process without descriptors, memory or standard streams, those
    behind it, with one attempt each, complete at that attempt in another process.
    """
    damager = shared.submit(f"damaged.{mode}by", {"what": what})
    shared.until_state("completed", damager)
    behind = [shared.submit(f"damaged.{mode}needs", {"what": what}) for _ in range(3)]
    shared.until_state("completed", *behind)
    assert [shared.task(one)["attempt"] for one in behind] == [1, 1, 1]
    damaged = shared.task(damager)["result"]["pid"]
    assert damaged not in {shared.task(one)["result"]["pid"] for one in behind}
    until(lambda: damaged not in shared.peers[0].workers(), "the end of the damaged worker")
    assert shared.peers[0].events("worker_died") == []


def test_what_is_behind_an_error_counts_as_well(shared: Stage) -> None:
    """A handler that wraps the OSError in an error of its own is spared like any other."""
    damager = shared.submit("damaged.by", {"what": "descriptors"})
    shared.until_state("completed", damager)
    wrapped = shared.submit("damaged.wrapped")
    shared.until_state("completed", wrapped)
    assert shared.task(wrapped)["attempt"] == 1


@pytest.mark.parametrize("mode", ["", "async."])
def test_who_exhausts_even_a_fresh_worker_has_itself_to_blame(shared: Stage, mode: str) -> None:
    """It is dead after its own attempts, each with its failure; there is no endless search."""
    before = shared.submit(f"damaged.{mode}needs", {"what": "nothing"})
    shared.until_state("completed", before)
    task_id = shared.submit(f"damaged.{mode}exhausts")
    shared.until_state("dead", task_id)
    assert [failure["error_type"] for failure in shared.failures(task_id)] == ["MemoryError"] * 2


def test_a_worker_in_which_one_kind_after_the_other_fails_is_replaced(shared: Stage) -> None:
    """Three kinds failed there and none completed in between: whatever ails it, another takes its
    place. The failures count.
    """
    failed = [shared.submit(kind) for kind in ("fails.1", "fails.2", "fails.3")]
    shared.until_state("dead", *failed)
    [pid] = {failure["error_message"] for one in failed for failure in shared.failures(one)}
    until(lambda: int(pid) not in shared.peers[0].workers(), "the end of the worker")
    assert "in a row" in shared.peers[0].await_event("worker_retired")["reason"]
    after = shared.submit("pid")
    shared.until_state("completed", after)
    assert shared.task(after)["result"]["pid"] != int(pid)


def test_a_worker_is_replaced_after_as_many_tasks_as_are_set(stage: Stage) -> None:
    """With worker_max_tasks=3, no process runs more than three, and all complete at once."""
    stage.peer(APP, slots=1, worker_max_tasks=3)
    tasks = [stage.submit("pid") for _ in range(9)]
    stage.until_state("completed", *tasks)
    pids = [stage.task(one)["result"]["pid"] for one in tasks]
    assert max(pids.count(pid) for pid in pids) <= 3
    assert [stage.task(one)["attempt"] for one in tasks] == [1] * 9
    assert stage.peers[0].events("worker_died") == []


def test_a_worker_that_holds_too_much_memory_is_replaced(stage: Stage) -> None:
    """With worker_max_memory, one that has grown beyond it runs nothing more."""
    stage.peer(APP, slots=1, worker_max_memory="200M")
    grown = stage.submit("grows", {"megabytes": 300})
    stage.until_state("completed", grown)
    pid = stage.task(grown)["result"]["pid"]
    until(lambda: pid not in stage.peers[0].workers(), "the end of the grown worker")
    assert "MiB" in stage.peers[0].await_event("worker_retired")["reason"]


def test_all_of_this_has_left_the_books_in_order(shared: Stage) -> None:
    """Nothing lost, no outcome twice."""
    shared.until_ended()
    shared.assert_clean()
