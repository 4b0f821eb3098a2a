"""Batch handlers: many tasks in one call, each with its own outcome; poison is cornered."""

from __future__ import annotations

from math import ceil, log2

import pytest

from peers.types import BATCH_WAIT_MAX
from tests.e2e import app_batches
from tests.e2e.app_batches import SIZE
from tests.e2e.harness import Stage, until

APP = "tests.e2e.app_batches"
_ENDLESS = """
    create function public.again() returns trigger language plpgsql security definer as $$ begin
        insert into peers.task (kind, priority, args) values ('alone', 200, new.args);
        return null;
    end $$;
    create trigger again after update on peers.task for each row
        when (new.kind = 'alone' and new.state = 'completed') execute function public.again();
"""
"""Each quick task that completes submits another one."""


def submit_rows(
    stage: Stage, kind: str, count: int, poisons: dict[int, str] | None = None, priority: int = 100
) -> list[int]:
    """Submits tasks number 0 to count - 1 in one statement; their ids in this order."""
    poisons = poisons or {}
    found = stage.rows(
        "insert into peers.task (kind, priority, args)"
        " select %s, %s, jsonb_strip_nulls(jsonb_build_object('n', n,"
        "   'poison', %s::jsonb ->> n::text)) from generate_series(0, %s) n order by n"
        " returning id",
        kind, priority, _json(poisons), count - 1,
    )  # fmt: skip
    return [row["id"] for row in found]


def _json(poisons: dict[int, str]) -> str:
    return "{" + ", ".join(f'"{n}": "{how}"' for n, how in poisons.items()) + "}"


def paused(stage: Stage) -> None:
    """So that everything that follows is ready at once."""
    stage.db.execute("select peers.pause('default')")


def resumed(stage: Stage) -> None:
    """Claims go on."""
    stage.db.execute("select peers.resume('default')")


def warm_up(stage: Stage, kind: str) -> None:
    """So that the peer knows the kind and claims enough to fill a batch."""
    ids = submit_rows(stage, kind, 2 * SIZE)
    stage.until_state("completed", *ids)


def assert_isolated(stage: Stage, ids: list[int], bad_tasks: dict[int, str], error: str) -> None:
    """Only the bad tasks failed, at each of their attempts; the others took one attempt each."""
    good = [task_id for n, task_id in enumerate(ids) if n not in bad_tasks]
    stage.until_state("completed", *good)
    stage.until_state("dead", *(ids[n] for n in bad_tasks))
    tasks = {row["id"]: row for row in stage.rows("select * from peers.task")}
    for n, task_id in enumerate(ids):
        assert tasks[task_id]["attempt"] == (2 if n in bad_tasks else 1), n
        assert n in bad_tasks or tasks[task_id]["result"]["n"] == n
    for n in bad_tasks:
        failures = stage.failures(ids[n])
        assert [failure["error_type"] for failure in failures] == [error] * 2
    others = "select count(*) from peers.failure where task_id <> all (%s)"
    assert stage.row(others, [ids[n] for n in bad_tasks])["count"] == 0
    assert stage.rows("select * from peers.check()") == []


def test_many_tasks_come_in_one_call_and_each_gets_its_own_result(stage: Stage) -> None:
    """1,000 tasks are done in far fewer calls, each exactly once, none in a call beyond its size,
    every result with the token that the task was leased under.
    """
    stage.peer(APP, slots=2)
    ids = submit_rows(stage, "batch", 1000)
    stage.until_state("completed", *ids)
    calls = app_batches.calls(stage.ledger)
    assert sorted(n for call in calls for n in call) == list(range(1000))
    assert max(map(len, calls)) <= SIZE
    assert len(calls) < 1000 / 8
    wrong = "select count(*) from peers.task where result ->> 'token' <> token::text"
    assert stage.row(wrong)["count"] == 0


@pytest.mark.parametrize("kind", ["batch", "batch.async"])
@pytest.mark.parametrize(
    ("how", "error"), [("raise", "ValueError"), ("kill", "crash"), ("garble", "crash")]
)
def test_poison_is_cornered_and_takes_nobody_along(
    stage: Stage, kind: str, how: str, error: str
) -> None:
    """A row that makes a call raise, or kills its worker, fails alone and uses up its attempts; the
    others of its batch complete in the first one, after about 2·log₂(n) calls more.
    """
    stage.peer(APP, slots=1)
    warm_up(stage, kind)
    before = len(app_batches.calls(stage.ledger))
    paused(stage)
    ids = submit_rows(stage, kind, SIZE, {37: how})
    resumed(stage)
    assert_isolated(stage, ids, {37: how}, error)
    extra = len(app_batches.calls(stage.ledger)) - before - 1
    attempts = 2  # the second one is made alone, or with what else is there
    assert 2 <= extra <= 2 * ceil(log2(SIZE)) + attempts + 2


def test_several_poisons_of_different_ways_are_cornered_together(stage: Stage) -> None:
    """Two that kill and two that raise in the same 200 tasks: exactly these four are dead."""
    stage.peer(APP, slots=2)
    poisons = {3: "kill", 4: "raise", 90: "raise", 170: "kill"}
    ids = submit_rows(stage, "batch", 200, poisons)
    good = [task_id for n, task_id in enumerate(ids) if n not in poisons]
    stage.until_state("completed", *good)
    stage.until_state("dead", *(ids[n] for n in poisons))
    types = {n: {f["error_type"] for f in stage.failures(ids[n])} for n in poisons}
    assert types == {3: {"crash"}, 4: {"ValueError"}, 90: {"ValueError"}, 170: {"crash"}}
    assert stage.row("select max(attempt) from peers.task where state = 'completed'")["max"] == 1


def test_a_call_that_overruns_is_halved_too(stage: Stage) -> None:
    """The timeout is that of a call: the one that hangs dies of it, the rest is done."""
    stage.peer(APP, slots=1)
    paused(stage)
    ids = submit_rows(stage, "batch.hasty", 4, {2: "hang"})
    resumed(stage)
    stage.until_state("completed", ids[0], ids[1], ids[3])
    stage.until_state("dead", ids[2])
    assert [failure["error_type"] for failure in stage.failures(ids[2])] == ["timeout"]


def test_an_outcome_may_be_an_exception_of_one_task(stage: Stage) -> None:
    """Reject as a result kills its task at once; a result that is no JSON fails its own task only;
    args that do not fit never reach the handler.
    """
    stage.peer(APP, slots=1)
    paused(stage)
    ids = submit_rows(stage, "batch", 5, {1: "reject", 3: "unwritable"})
    misfit = stage.submit("batch", {"m": 1})
    resumed(stage)
    stage.until_state("completed", ids[0], ids[2], ids[4])
    stage.until_state("dead", ids[1], ids[3], misfit)
    errors = {i: [f["error_type"] for f in stage.failures(i)] for i in (ids[1], ids[3], misfit)}
    assert errors == {
        ids[1]: ["Reject"],
        ids[3]: ["ResultInvalid"] * 2,
        misfit: ["ArgsInvalid"] * 2,
    }


def test_retry_of_the_whole_call_is_not_divided(stage: Stage) -> None:
    """Retry is said on purpose and holds for each task of the call: no search for one task."""
    stage.peer(APP, slots=1)
    warm_up(stage, "batch")
    before = len(app_batches.calls(stage.ledger))
    paused(stage)
    ids = submit_rows(stage, "batch", 16, {5: "retry"})
    resumed(stage)
    stage.until_ended()
    assert {f["error_type"] for i in ids for f in stage.failures(i)} == {"Retry"}
    poisoned = next(call for call in app_batches.calls(stage.ledger)[before:] if 5 in call)
    assert all(stage.failures(ids[n]) for n in poisoned)
    assert stage.task(ids[5])["state"] == "dead"
    assert len(app_batches.calls(stage.ledger)) - before <= 2 * 3


def test_the_wrong_number_of_results_fails_all_and_says_so(stage: Stage) -> None:
    """Nobody can tell whose results they are; a search would hand a task the result of another."""
    stage.peer(APP, slots=1)
    paused(stage)
    ids = submit_rows(stage, "batch.short", 6)
    resumed(stage)
    stage.until_state("dead", *ids)
    messages = {f["error_message"] for i in ids for f in stage.failures(i)}
    assert all("it must be one for each" in message for message in messages), messages
    assert sum(map(len, app_batches.calls(stage.ledger))) == 6


def test_a_batch_waits_to_be_full_but_not_for_ever(stage: Stage) -> None:
    """A batch that is full goes at once, also when its tasks came one by one; what is left waits
    for others, and then goes as it is.
    """
    stage.peer(APP, slots=1)
    warm_up(stage, "batch")
    came = (
        "select max(created_at) - min(created_at) < '1 s' as soon from peers.task"
        " where id = any (%s)"
    )
    while True:
        before = len(app_batches.calls(stage.ledger))
        full = [stage.submit("batch.very_patient", {"n": n}) for n in range(8)]
        stage.until_state("completed", *full)
        if stage.row(came, full)["soon"]:
            break  # they came in time, also on a busy machine
    assert app_batches.calls(stage.ledger)[before:] == [list(range(8))]
    rest = submit_rows(stage, "batch.patient", 3)
    stage.until_state("completed", *rest)
    assert app_batches.calls(stage.ledger)[before + 1 :] == [[0, 1, 2]]
    waited = "select min(finished_at) - min(created_at) as wait from peers.task where id = any (%s)"
    assert stage.row(waited, rest)["wait"].total_seconds() >= 0.95
    assert stage.row(waited, full)["wait"].total_seconds() < BATCH_WAIT_MAX


@pytest.mark.parametrize(("poison", "error"), [("kill", "crash"), ("hang", "timeout")])
def test_args_that_are_dangerous_to_look_at_are_cornered(
    stage: Stage, poison: str, error: str
) -> None:
    """A check of args that kills the worker or hangs fails its own task, and no other."""
    stage.peer(APP, slots=1)
    paused(stage)
    ids = submit_rows(stage, "batch.dangerous", 4, {2: poison})
    resumed(stage)
    stage.until_state("completed", ids[0], ids[1], ids[3])
    stage.until_state("dead", ids[2])
    assert [failure["error_type"] for failure in stage.failures(ids[2])] == [error]


def test_a_handler_may_change_what_it_is_given(stage: Stage) -> None:
    """Further calls have the args as they were submitted: only the bad task fails, of its own."""
    stage.peer(APP, slots=1)
    paused(stage)
    ids = submit_rows(stage, "batch.altered", 8, {5: "raise"})
    resumed(stage)
    stage.until_state("completed", *(task_id for n, task_id in enumerate(ids) if n != 5))
    stage.until_state("dead", ids[5])
    assert [failure["error_type"] for failure in stage.failures(ids[5])] == ["ValueError"]


@pytest.mark.parametrize("kind", ["batch.odd", "batch.odd.async"])
def test_a_result_that_raises_when_it_is_written_fails_its_task_alone(
    stage: Stage, kind: str
) -> None:
    """And no worker, and no slot."""
    peer = stage.peer(APP, slots=1)
    ids = submit_rows(stage, kind, 4, {1: "odd"})
    stage.until_state("completed", ids[0], ids[2], ids[3])
    stage.until_state("dead", ids[1])
    assert [failure["error_type"] for failure in stage.failures(ids[1])] == ["KeyError"]
    assert peer.events("worker_died") == []


@pytest.mark.parametrize(("poison", "error"), [("kill", "crash"), ("hang", "timeout")])
def test_what_an_async_part_does_is_not_blamed_on_the_part_before(
    stage: Stage, poison: str, error: str
) -> None:
    """Two bad tasks in one batch; the row between them completes."""
    stage.peer(APP, slots=1)
    paused(stage)
    ids = submit_rows(stage, "batch.steps", 4, {0: "raise", 2: poison})
    resumed(stage)
    stage.until_state("completed", ids[1], ids[3])
    stage.until_state("dead", ids[0], ids[2])
    errors = [[failure["error_type"] for failure in stage.failures(ids[n])] for n in (0, 2)]
    assert errors == [["ValueError"], [error]]


def test_what_a_handlers_own_asyncio_tasks_do_is_its_own(stage: Stage) -> None:
    """A crash in one of them is its call's: neither the other rows nor another handler on the same
    loop pay for it; and a handler's coroutine is what libraries take it for.
    """
    stage.peer(APP, slots=4)
    gate = stage.gate()
    bystander = stage.submit("gated.async", {"gate": gate})
    stage.until_state("running", bystander)
    ids = submit_rows(stage, "batch.gathered", 16, {5: "kill"})
    assert_isolated(stage, ids, {5: "kill"}, "crash")
    stage.open(gate)
    stage.until_state("completed", bystander)
    assert stage.task(bystander)["result"] == "CORO_RUNNING"
    assert stage.failures(bystander) == []


@pytest.mark.parametrize("kind", ["batch.halves", "batch.halves.sync"])
def test_cancelling_reaches_the_task_it_is_meant_for(stage: Stage, kind: str) -> None:
    """One whose part still waits for its call is never called; the one that runs goes on."""
    stage.peer(APP, slots=1)
    gate = stage.gate()
    paused(stage)
    ids = [stage.submit(kind, {"n": n, "gate": gate}) for n in range(4)]
    resumed(stage)
    until(lambda: [0] in app_batches.calls(stage.ledger), "the first row alone")
    stage.db.execute("select peers.cancel(%s)", [ids[3]])
    # on a slow machine the peer may have released it before, as what waits for long
    until(
        lambda: peer_was_told(stage, ids[3]) or stage.task(ids[3])["state"] == "cancelled",
        "the cancellation to come through",
    )
    stage.open(gate)
    stage.until_state("completed", *ids[:3])
    stage.until_state("cancelled", ids[3])
    assert [3] not in app_batches.calls(stage.ledger)
    assert not any(stage.failures(task_id) for task_id in ids[:3])


def peer_was_told(stage: Stage, task_id: int) -> bool:
    """Whether the only peer knows that this task is cancelled."""
    [peer] = stage.peers
    return any(event["task_id"] == task_id for event in peer.events("task_cancelled"))


def test_parts_of_a_batch_do_not_starve_behind_less_urgent_tasks(stage: Stage) -> None:
    """While there is no end of quick tasks with a larger priority, poison is cornered."""
    stage.peer(APP, slots=1)
    warm_up(stage, "batch")
    stage.db.execute(_ENDLESS)
    stage.rows(
        "insert into peers.task (kind, priority, args)"
        " select 'alone', 200, jsonb_build_object('n', n) from generate_series(1, 5000) n"
        " returning id"
    )
    ids = submit_rows(stage, "batch", 8, {3: "kill"}, priority=1)
    assert_isolated(stage, ids, {3: "kill"}, "crash")
    ended = "select count(*) from peers.task where kind = 'alone' and state = 'completed'"
    assert stage.row(ended)["count"] > 0


def test_a_batch_kind_beyond_what_can_be_claimed_at_once_is_run(stage: Stage) -> None:
    """64 slots with batches of 1,000 would want more than one claim may bring."""
    stage.peer(APP, slots=16)
    ids = submit_rows(stage, "batch.large", 3000)
    stage.until_state("completed", *ids)
    assert len(app_batches.calls(stage.ledger)) <= 16 + 3000 / 100


def test_smaller_priorities_go_first_within_and_between_batches(stage: Stage) -> None:
    """Urgent tasks of a batch kind come before the others, and before less urgent other kinds."""
    stage.peer(APP, slots=1)
    warm_up(stage, "batch")
    before = len(app_batches.calls(stage.ledger))
    paused(stage)
    late = [stage.submit("alone", {"n": 1000 + n}, priority=200) for n in range(5)]
    usual = submit_rows(stage, "batch", SIZE)
    urgent = submit_rows(stage, "batch", SIZE, priority=1)
    resumed(stage)
    stage.until_state("completed", *late, *usual, *urgent)
    order = {
        name: stage.row("select max(finished_at) as at from peers.task where id = any (%s)", ids)
        for name, ids in (("urgent", urgent), ("usual", usual), ("late", late))
    }
    assert order["urgent"]["at"] <= order["usual"]["at"] <= order["late"]["at"]
    assert len(app_batches.calls(stage.ledger)) - before <= 5 + 4


def test_one_cancelled_task_does_not_take_its_batch_along(stage: Stage) -> None:
    """Stopped by force, its worker dies; the others run again under the same lease and complete."""
    stage.peer(APP, slots=1, cancel_grace="100ms")
    gate = stage.gate()
    paused(stage)
    ids = [stage.submit("batch.held", {"n": n, "gate": gate}) for n in range(2)]
    resumed(stage)
    until(lambda: len(app_batches.calls(stage.ledger)) >= 1, "the first call")
    first = app_batches.calls(stage.ledger)[0]
    stage.db.execute("select peers.cancel(%s)", [ids[first[-1]]])
    stage.until_state("cancelled", ids[first[-1]])
    stage.open(gate)
    others = [task_id for task_id in ids if task_id != ids[first[-1]]]
    stage.until_state("completed", *others)
    assert stage.row("select max(attempt) from peers.task")["max"] == 1
