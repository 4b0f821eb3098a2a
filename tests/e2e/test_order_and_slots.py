"""Which task comes next, how many run at once, and who runs them."""

from __future__ import annotations

import pytest

from tests.e2e import ledger
from tests.e2e.harness import Stage


def order(stage: Stage) -> list[int]:
    """The tasks in the order in which their handlers started."""
    return [entry.task_id for entry in ledger.read(stage.ledger) if entry.event == "start"]


def most_at_once(stage: Stage, ids: set[int]) -> int:
    """How many of these tasks' handlers ran at the same time, at most."""
    now = most = 0
    for entry in ledger.read(stage.ledger):
        if entry.task_id in ids:
            now += 1 if entry.event == "start" else -1
            most = max(most, now)
    return most


def test_urgent_work_starts_first_and_equals_in_their_order(stage: Stage) -> None:
    """A backlog of three priorities starts by priority, then in the order of submission."""
    stage.peer(slots=1)
    stage.db.execute("select peers.pause('default')")
    with stage.db.transaction():
        ids = {
            priority: [stage.submit("noop", {"n": n}, priority=priority) for n in range(20)]
            for priority in (100, 5, 1000)
        }
    stage.db.execute("select peers.resume('default')")
    stage.until_state("completed", *ids[5], *ids[100], *ids[1000])
    assert order(stage) == [*ids[5], *ids[100], *ids[1000]]


def test_urgent_work_overtakes_a_backlog_that_is_under_way(stage: Stage) -> None:
    """A peer takes no more than what it finishes soon: urgent work that comes in the middle of a
    long backlog overtakes most of it.
    """
    stage.peer(slots=1)
    warm_up = [stage.submit("nap", {"seconds": 0.05}) for _ in range(3)]
    stage.until_state("completed", *warm_up)
    with stage.db.transaction():
        first = stage.submit("held", {"gate": stage.gate()})
        backlog = [stage.submit("nap", {"seconds": 0.05}) for _ in range(40)]
    stage.until_started(first)
    urgent = stage.submit("noop", {}, priority=1)
    stage.open(stage.gate())
    stage.until_state("completed", urgent)
    assert len([task_id for task_id in order(stage) if task_id in backlog]) <= 20


@pytest.mark.parametrize("kind", ["held", "async.held"])
def test_a_queue_never_has_more_handlers_than_slots(stage: Stage, kind: str) -> None:
    """With 2 slots for one queue and 1 for another, sync or async, no more than 2 and 1 of their
    handlers overlap in the ledger, and all slots are used.
    """
    stage.peer(slots="default=2,media=1")
    gate = stage.gate()
    default = [stage.submit(kind, {"gate": gate}) for _ in range(6)]
    media = [stage.submit(kind, {"gate": gate}, queue="media") for _ in range(4)]
    stage.until_true("select count(*) >= 3 from peers.task where state = 'running'")
    stage.until_started(default[0], default[1], media[0])
    assert set(order(stage)) == {default[0], default[1], media[0]}
    stage.open(gate)
    stage.until_state("completed", *default, *media)
    assert most_at_once(stage, set(default)) == 2
    assert most_at_once(stage, set(media)) == 1
    stage.assert_clean()


def test_as_many_handlers_run_at_once_as_there_are_slots(stage: Stage) -> None:
    """5,000 async handlers meet: each waits until all of them are there."""
    stage.db.execute(
        "insert into peers.task (kind, args) select 'meets', '{\"others\": 5000}'"
        " from generate_series(1, 5000)"
    )
    stage.peer("tests.e2e.app_many", slots=5000)
    stage.until_true("select count(*) = 5000 from peers.task where state = 'completed'")
    assert stage.rows("select id from peers.task where attempt <> 1") == []


def test_sync_and_async_handlers_share_the_slots(stage: Stage) -> None:
    """A queue's slots count for both together."""
    stage.peer(slots=2)
    ids = {stage.submit(kind, {"seconds": 0.01} if kind == "nap" else {"gate": stage.gate()})
           for _ in range(10) for kind in ("nap", "async.held")}  # fmt: skip
    stage.open(stage.gate())
    stage.until_state("completed", *ids)
    assert most_at_once(stage, ids) <= 2


def test_a_blocked_queue_does_not_block_the_other(stage: Stage) -> None:
    """Handlers that fill one queue's slots leave the other queue's slots free."""
    stage.peer(slots="default=1,media=1")
    blocking = [stage.submit("held", {"gate": stage.gate()}) for _ in range(3)]
    stage.until_started(blocking[0])
    others = [stage.submit("noop", {"n": n}, queue="media") for n in range(20)]
    stage.until_state("completed", *others)
    stage.open(stage.gate())
    stage.until_state("completed", *blocking)


def test_a_queue_that_nobody_serves_waits(stage: Stage) -> None:
    """A peer claims from its own queues only; a peer that serves the other takes
    what waits there.
    """
    stage.peer(slots="default=1")
    elsewhere = stage.submit("noop", {"n": 1}, queue="media")
    here = stage.submit("noop", {"n": 2})
    stage.until_state("completed", here)
    assert (stage.task(elsewhere)["state"], stage.task(elsewhere)["attempt"]) == ("ready", 0)
    stage.peer(slots="media=1")
    stage.until_state("completed", elsewhere)


def test_a_rolling_deploy_fails_no_task_for_being_unknown(stage: Stage) -> None:
    """A kind that only the next release knows waits at the head of the queue, untouched, while the
    old peer works on what is behind it; the first peer of the new release runs it.
    """
    old = stage.peer()
    new_kind = [stage.submit("brand.new", {}, priority=1) for _ in range(5)]
    known = [stage.submit("noop", {"n": n}) for n in range(20)]
    stage.until_state("completed", *known)
    for task_id in new_kind:
        assert (stage.task(task_id)["state"], stage.task(task_id)["attempt"]) == ("ready", 0)
    stage.peer("tests.e2e.app_newer")
    stage.until_state("completed", *new_kind)
    assert old.events("task_failed") == []
    stage.assert_clean()


def test_claimed_work_does_not_wait_behind_a_slow_handler_while_a_worker_is_idle(
    stage: Stage,
) -> None:
    """Quick tasks and slow ones come mixed: the slow one is alone in its worker, those that were
    handed out behind it are taken back and run on the other slot.
    """
    stage.peer(slots=2)
    warm_up = [stage.submit("held", {"gate": stage.gate("open")}) for _ in range(10)]
    stage.open(stage.gate("open"))
    stage.until_state("completed", *warm_up)  # "held" counts as quick now
    with stage.db.transaction():
        slow = stage.submit("held", {"gate": stage.gate()})
        quick = [stage.submit("held", {"gate": stage.gate("open")}) for _ in range(40)]
    stage.until_state("completed", *quick)
    assert stage.task(slow)["state"] == "running"
    stage.open(stage.gate())
    stage.until_state("completed", slow)
    assert stage.rows("select id from peers.task where attempt > 1") == []
    stage.assert_clean()


def test_a_busy_peer_does_not_claim_again_what_it_has_released(stage: Stage) -> None:
    """Its only slot is busy, and it holds many quick tasks that it took for quick ones: it releases
    them, and the other peer runs them.
    """
    stage.peer()
    many = "insert into peers.task (kind) select 'noop' from generate_series(1, 2000)"
    stage.db.execute(many)
    stage.until_ended()  # now it knows how quick they are
    with stage.db.transaction():
        slow = stage.submit("held", {"gate": stage.gate()})
        stage.db.execute(many)
    stage.until_started(slow)
    other = stage.peer()
    stage.until_true("select count(*) = 4000 from peers.task where state = 'completed'")
    claims = "select count(*) as n from journal.entry where state = 'running' group by task_id"
    assert max(row["n"] for row in stage.rows(claims)) == 2
    stage.open(stage.gate())
    stage.until_ended()
    assert other.process.poll() is None
    stage.assert_clean()
