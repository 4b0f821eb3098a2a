"""Unique keys: how long a task holds its key, and what a duplicate does."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.support.unique import (
    Answer,
    debounce,
    holder,
    replace,
    submit_batch,
    submit_unique,
)
from tests.support.world import (
    Peer,
    advance,
    column,
    problems,
    promote,
    refusal,
    row,
    rows,
    run,
    state,
    submit,
    value,
)

if TYPE_CHECKING:
    from tests.support.server import Connection


def bring_to(db: Connection, peer: Peer, task_id: int, wanted: str) -> None:
    """Bring a task that is ready into this state."""
    if wanted == "blocked":
        parent = submit(db, "other")
        run(db, "insert into peers.dependency (parent_id, child_id) values (%s, %s)",
            parent, task_id)  # fmt: skip
    elif wanted == "scheduled":
        run(db, "select peers.change(%s, scheduled_at => now() + interval '1 day')", task_id)
    elif wanted == "cancelled":
        run(db, "select peers.cancel(%s)", task_id)
    elif wanted != "ready":
        [claim] = peer.claim()
        if wanted == "completed":
            peer.complete(claim)
        elif wanted == "dead":
            peer.fail(claim, reject=True)
        elif wanted == "waits for a retry":
            peer.fail(claim, retry_in=60)


WAITING = ["blocked", "scheduled", "ready", "waits for a retry"]
ENDED = ["completed", "dead", "cancelled"]
HELD = {
    "waiting": WAITING,
    "unfinished": [*WAITING, "running"],
    "1 hour": [*WAITING, "running", *ENDED],
}


@pytest.mark.parametrize("wanted", [*WAITING, "running", *ENDED])
@pytest.mark.parametrize("rule", HELD)
def test_a_task_holds_its_key_as_long_as_its_rule_says(
    db: Connection, peer: Peer, rule: str, wanted: str
) -> None:
    """While it does, a duplicate changes nothing; after that, a new task takes the key."""
    first = submit_unique(db, unique_while=rule, args={"n": 1})
    assert first.is_new
    bring_to(db, peer, first.id, wanted)
    before = row(db, "select * from peers.task where id = %s", first.id)
    second = submit_unique(db, unique_while=rule, args={"n": 2}, priority=1)
    assert row(db, "select * from peers.task where id = %s", first.id) == before
    if wanted in HELD[rule]:
        assert second == Answer(first.id, is_new=False, replaced=False)
    else:
        assert second.is_new
        assert second.id != first.id
        assert holder(db) == second.id
    assert problems(db) == []


def test_the_default_rule_is_waiting(db: Connection, peer: Peer) -> None:
    """No submission is lost: one that comes after the start of the task makes another one."""
    first = submit_unique(db)
    assert submit_unique(db) == (first.id, False, False)
    peer.claim()
    assert submit_unique(db).is_new


def test_submit_returns_the_id_only(db: Connection) -> None:
    """peers.submit takes the same arguments."""
    first = submit(db, unique_key="k")
    assert submit(db, unique_key="k") == first
    assert submit(db, unique_key="other") != first
    assert column(db, "select id from peers.task order by id")[0] == first


def test_each_kind_has_its_own_keys(db: Connection) -> None:
    """The same key of another kind is another key."""
    assert submit_unique(db, kind="a").is_new
    assert submit_unique(db, kind="b").is_new


def test_an_interval_holds_whatever_became_of_the_task(db: Connection, peer: Peer) -> None:
    """Completed and pruned, the task holds its key until the interval is over."""
    first = submit_unique(db, unique_while="1 hour")
    peer.complete(*peer.claim())
    advance(db, "59 minutes")
    run(db, "select * from peers.prune('0 s')")
    assert value(db, "select count(*) from peers.task") == 0
    assert submit_unique(db, unique_while="1 hour") == (first.id, False, False)
    advance(db, "2 minutes")
    assert submit_unique(db, unique_while="1 hour").is_new


def test_of_two_rules_the_weaker_one_counts(db: Connection, peer: Peer) -> None:
    """A key is held only while its task's rule and the submission's rule both say so."""
    first = submit_unique(db, unique_while="1 day")
    peer.claim()
    assert submit_unique(db, unique_while="unfinished") == (first.id, False, False)
    second = submit_unique(db)
    assert second.is_new
    advance(db, "2 hours")
    assert submit_unique(db, unique_while="3 hours") == (second.id, False, False)
    assert submit_unique(db, unique_while="1 hour").is_new


# ---------------------------------------------------------------------------------------- replacing


def test_a_replaced_task_has_everything_that_the_newest_submission_says(
    db: Connection, peer: Peer
) -> None:
    """As if it had come in place of the first one, under the first one's id."""
    first = submit_unique(db, args={"n": 1}, queue="x", priority=9, metadata='{"m": 1}',
                          max_attempts=2, timeout="3 s", scheduled_at="2099-01-01")  # fmt: skip
    assert state(db, first.id) == "scheduled"
    assert replace(db, args={"n": 2}) == Answer(first.id, is_new=False, replaced=True)
    task = row(db, "select * from peers.task where id = %s", first.id)
    assert (task["args"], task["queue"], task["priority"]) == ({"n": 2}, "default", 100)
    assert (task["max_attempts"], task["timeout"], task["metadata"]) == (None, None, None)
    assert (task["state"], value(db, "select count(*) from peers.task")) == ("ready", 1)
    [claim] = peer.claim()
    assert (claim.task_id, claim.args) == (first.id, {"n": 2})
    promote(db)
    assert (rows(db, "select * from peers.scheduled"), problems(db)) == ([], [])


def test_a_replaced_task_keeps_its_turn(db: Connection, peer: Peer) -> None:
    """With the same queue and priority it stays where it is."""
    first, other = submit_unique(db), submit(db)
    replace(db, args={"n": 2})
    assert [claim.task_id for claim in peer.claim()] == [first.id, other]
    assert value(db, "select count(*) from peers.ready") == 0


def test_a_replaced_task_moves_to_its_new_place(db: Connection, peer: Peer) -> None:
    """Another priority or queue makes its old row in ready stale."""
    first, other = submit_unique(db), submit(db)
    replace(db, priority=200)
    assert [claim.task_id for claim in peer.claim()] == [other, first.id]
    second = submit_unique(db)
    replace(db, queue="media")
    assert peer.claim() == []
    assert problems(db) == []
    assert state(db, second.id) == "ready"


def test_a_running_task_is_not_replaced(db: Connection, peer: Peer) -> None:
    """Under "waiting" a new task comes; under "unfinished" the submission is dropped."""
    first = submit_unique(db, "w", args={"n": 1})
    third = submit_unique(db, "u", unique_while="unfinished", args={"n": 1})
    peer.claim()
    second = replace(db, "w", args={"n": 2})
    assert second.is_new
    assert second.id != first.id
    dropped = replace(db, "u", unique_while="unfinished", args={"n": 2})
    assert dropped == Answer(third.id, is_new=False, replaced=False)
    assert value(db, "select count(*) from peers.task where args = '{\"n\": 2}'") == 1


def test_a_blocked_task_keeps_its_parents(db: Connection, peer: Peer) -> None:
    """It gets the new args and waits on; in its new queue it is counted."""
    parent = submit(db)
    first = submit_unique(db, depends_on=[parent], args={"n": 1}, kind="b")
    replace(db, kind="b", args={"n": 2}, queue="x")
    assert state(db, first.id) == "blocked"
    assert column(db, "select queue from peers.blocked") == ["x"]
    peer.complete(*peer.claim())
    assert row(db, "select state, args from peers.task where id = %s", first.id) == {
        "state": "ready", "args": {"n": 2},
    }  # fmt: skip
    assert problems(db) == []


def test_a_replaced_task_has_new_attempts(db: Connection, peer: Peer) -> None:
    """One that failed with the old args starts again at once, and its failures stay."""
    first = submit_unique(db, max_attempts=2)
    peer.fail(*peer.claim(), retry_in=3600)
    assert replace(db, max_attempts=2) == (first.id, False, True)
    [claim] = peer.claim()
    assert (claim.task_id, claim.attempt) == (first.id, 1)
    assert value(db, "select count(*) from peers.failure") == 1
    peer.fail(claim)
    assert state(db, first.id) == "scheduled"
    assert problems(db) == []


# --------------------------------------------------------------------------------------- debouncing


@pytest.mark.usefixtures("_stopped_clock")
def test_each_submission_postpones_the_start(db: Connection, peer: Peer) -> None:
    """The task starts once, when it has been quiet for `wait`, with the newest args."""
    first = debounce(db, args={"n": 0})
    assert first.is_new
    for n in range(1, 4):
        advance(db, "4 s")
        assert (promote(db), peer.claim()) == (0, [])
        assert debounce(db, args={"n": n}) == (first.id, False, True)
        assert value(db, "select count(*) from peers.scheduled") == 1
    advance(db, "4 s")
    promote(db)
    assert peer.claim() == []
    advance(db, "2 s")
    promote(db)
    [claim] = peer.claim()
    assert (claim.task_id, claim.args) == (first.id, {"n": 3})
    assert problems(db) == []


@pytest.mark.usefixtures("_stopped_clock")
def test_it_starts_at_the_latest_after_max_wait(db: Connection, peer: Peer) -> None:
    """However often it is submitted: max_wait after the first submission it starts."""
    first = debounce(db, max_wait="10 s")
    for _ in range(4):
        advance(db, "3 s")
        peer.heartbeat()
        assert debounce(db, max_wait="10 s", args={"n": 9}).id == first.id
    promote(db)
    [claim] = peer.claim()
    assert (claim.task_id, claim.args) == (first.id, {"n": 9})
    due = value(db, "select scheduled_at - created_at from peers.task where id = %s", first.id)
    assert timedelta(seconds=9.5) < due < timedelta(seconds=12.5)


@pytest.mark.usefixtures("_stopped_clock")
def test_what_comes_after_the_start_is_the_next_burst(db: Connection, peer: Peer) -> None:
    """Its max_wait counts from its own first submission. Nothing is lost: no throttling."""
    debounce(db, max_wait="10 s")
    advance(db, "6 s")
    promote(db)
    [claim] = peer.claim()
    advance(db, "3 s")
    second = debounce(db, max_wait="10 s", args={"n": 2})
    assert second.is_new
    peer.complete(claim)
    advance(db, "4 s")
    assert debounce(db, max_wait="10 s", args={"n": 3}) == (second.id, False, True)
    assert (promote(db), peer.claim()) == (0, [])
    advance(db, "5.1 s")
    promote(db)
    [claim] = peer.claim()
    assert (claim.task_id, claim.args) == (second.id, {"n": 3})


@pytest.mark.usefixtures("_stopped_clock")
def test_a_task_that_waits_for_a_retry_begins_a_new_burst(db: Connection, peer: Peer) -> None:
    """Its last burst ended with the start, so max_wait counts from now."""
    first = debounce(db, max_wait="10 s")
    advance(db, "6 s")
    promote(db)
    peer.fail(*peer.claim(), retry_in=3600)
    advance(db, "20 s")
    peer.heartbeat()
    for _ in range(2):
        assert debounce(db, max_wait="10 s") == (first.id, False, True)
        assert (promote(db), peer.claim()) == (0, [])
        advance(db, "4 s")
    assert state(db, first.id) == "scheduled"


@pytest.mark.usefixtures("_stopped_clock")
def test_a_task_that_is_ready_is_postponed(db: Connection, peer: Peer) -> None:
    """It has not started, so a peer that is busy does not end the burst."""
    first = debounce(db)
    advance(db, "6 s")
    promote(db)
    assert state(db, first.id) == "ready"
    assert debounce(db) == (first.id, False, True)
    assert (state(db, first.id), peer.claim()) == ("scheduled", [])
    advance(db, "6 s")
    promote(db)
    assert [claim.task_id for claim in peer.claim()] == [first.id]
    assert problems(db) == []


# ------------------------------------------------------------------------------------------ batches


def test_a_batch_may_contain_duplicates_of_itself(db: Connection) -> None:
    """Of several submissions of one key, the first makes the task; the others stand for it."""
    old = submit_unique(db, "old")
    answers = submit_batch(db, ["x", "y", "x", None, "old", None, "x"])
    assert [answer.is_new for answer in answers] == [True, True, False, True, False, True, False]
    x, y, again, free, known, other, last = (answer.id for answer in answers)
    assert (again, last, known) == (x, x, old.id)
    assert len({x, y, free, other}) == 4
    found = column(db, "select args ->> 'n' from peers.task where id <> %s order by id", old.id)
    assert found == ["0", "1", "3", "5"]


def test_the_last_of_a_batch_replaces(db: Connection, peer: Peer) -> None:
    """Also where the task is new in the same batch."""
    old = submit_unique(db, "old")
    answers = submit_batch(db, ["x", "old", "x", "old", "x"], on_duplicate="replace")
    assert [(answer.is_new, answer.replaced) for answer in answers] == [
        (True, False), (False, True), (False, True), (False, True), (False, True),
    ]  # fmt: skip
    assert {claim.task_id: claim.args["n"] for claim in peer.claim()} == {
        old.id: 3, answers[0].id: 4,
    }  # fmt: skip


def test_a_batch_is_debounced(db: Connection) -> None:
    """All keys of the batch start when it has been quiet; what has no key starts now."""
    answers = submit_batch(db, ["x", "x", None], on_duplicate="debounce", wait="5 s")
    assert [state(db, answer.id) for answer in answers] == ["scheduled", "scheduled", "ready"]


def test_a_large_batch_takes_linear_time(db: Connection) -> None:
    """10,000 keys, and all of them again."""
    keys: list[str | None] = [f"key {n % 5000}" for n in range(10_000)]
    assert sum(answer.is_new for answer in submit_batch(db, keys)) == 5000
    again = submit_batch(db, keys, on_duplicate="replace")
    assert all(answer.replaced for answer in again)
    assert value(db, "select count(*) from peers.task") == 5000
    assert value(db, "select min((args ->> 'n')::integer) from peers.task") == 5000


def test_an_empty_batch_is_nothing(db: Connection) -> None:
    """No args, no answers."""
    assert submit_batch(db, []) == []


# --------------------------------------------------------------------------------- other features


def test_the_idempotency_key_is_looked_up_first(db: Connection, peer: Peer) -> None:
    """It returns its task whatever holds the unique key, and it is stored with a new task only."""
    first = submit_unique(db, "k", idempotency_key="call 1")
    assert first.is_new
    peer.claim()
    assert submit_unique(db, "k", idempotency_key="call 1") == (first.id, False, False)
    second = submit_unique(db, "k", idempotency_key="call 2")
    assert second.is_new
    assert submit_unique(db, "k", idempotency_key="call 3") == (second.id, False, False)
    stored = column(db, "select idempotency_key from peers.task order by id")
    assert stored == ["call 1", "call 2"]


def test_without_a_unique_key_it_tells_whether_the_task_is_new(db: Connection) -> None:
    """peers.submit_unique with an idempotency_key only, or with no key."""
    first = submit_unique(db, None, idempotency_key="once")
    assert first == (first.id, True, False)
    assert submit_unique(db, None, idempotency_key="once") == (first.id, False, False)
    assert submit_unique(db, None).is_new


def test_only_a_new_task_gets_parents(db: Connection) -> None:
    """The task that is kept waits for what it waited for before."""
    one, other = submit(db), submit(db)
    first = submit_unique(db, depends_on=[one])
    assert submit_unique(db, depends_on=[other]) == (first.id, False, False)
    assert column(db, "select parent_id from peers.dependency") == [one]


def submit_graph(db: Connection, *nodes: dict[str, Any]) -> dict[str, Answer]:
    """Submit nodes of kind `a`; the answer for each name."""
    graph = json.dumps([{"kind": "a", **node} for node in nodes])
    found = rows(db, "select name, task_id, is_new from peers.submit_graph(%s::jsonb)", graph)
    return {each["name"]: Answer(each["task_id"], each["is_new"], False) for each in found}


def test_a_batch_gives_no_parents_to_a_task_that_is_there(db: Connection, peer: Peer) -> None:
    """Whether it has started or not; the new tasks of the batch get them."""
    running = submit_unique(db, "running", unique_while="unfinished").id
    peer.claim()
    waiting = submit_unique(db, "waiting", unique_while="unfinished").id
    parent = submit(db)
    found = rows(
        db,
        "select * from peers.submit_many_unique('a', '[{}, {}, {}, {}]', %s, depends_on => %s,"
        " unique_while => 'unfinished')",
        ["running", "waiting", "new", None],
        [parent],
    )
    assert [each["id"] for each in found[:2]] == [running, waiting]
    assert [each["is_new"] for each in found] == [False, False, True, True]
    children = column(db, "select child_id from peers.dependency order by child_id")
    assert children == [each["id"] for each in found[2:]]
    assert state(db, waiting) == "ready"
    assert problems(db) == []


def test_a_node_whose_unique_task_has_started_waits_for_no_parent(
    db: Connection, peer: Peer
) -> None:
    """Its children wait for it and for the parents of the node."""
    running = submit_unique(db, "k", unique_while="unfinished").id
    peer.claim()
    nodes = submit_graph(
        db,
        {"name": "x"},
        {"name": "y", "after": ["x"], "unique_key": "k", "unique_while": "unfinished"},
        {"name": "z", "after": ["y"]},
    )
    assert nodes["y"].id == running
    parents = column(
        db, "select parent_id from peers.dependency where child_id = %s", nodes["z"].id
    )
    assert set(parents) == {nodes["x"].id, running}
    assert value(db, "select count(*) from peers.dependency") == 2


def test_a_node_stands_for_the_task_that_holds_its_key(db: Connection) -> None:
    """Its children wait for that task, and for the parents that the node would have had."""
    older = submit(db)
    first = submit_unique(db, "report")
    nodes = submit_graph(
        db,
        {"name": "extract"},
        {"name": "report", "after": ["extract"], "unique_key": "report", "depends_on": [older]},
        {"name": "again", "after": ["report"], "unique_key": "report"},
        {"name": "mail", "after": ["again"]},
    )
    assert nodes["report"] == nodes["again"] == Answer(first.id, is_new=False, replaced=False)
    assert nodes["mail"].is_new
    edges = rows(db, "select parent_id, child_id from peers.dependency")
    assert {(edge["parent_id"], edge["child_id"]) for edge in edges} == {
        (nodes["extract"].id, nodes["mail"].id), (first.id, nodes["mail"].id),
        (older, nodes["mail"].id),
    }  # fmt: skip
    assert value(db, "select count(*) from peers.task") == 4
    assert problems(db) == []


def test_a_graph_may_contain_duplicates_of_itself(db: Connection) -> None:
    """The node that comes first in the order of the edges makes the task."""
    nodes = submit_graph(
        db,
        {"name": "late", "after": ["early"], "unique_key": "x", "args": {"n": 1}},
        {"name": "early", "unique_key": "x", "args": {"n": 2}},
        {"name": "end", "after": ["late"]},
    )
    assert nodes["early"].is_new
    assert nodes["late"] == Answer(nodes["early"].id, is_new=False, replaced=False)
    edges = rows(db, "select parent_id, child_id from peers.dependency")
    assert [(edge["parent_id"], edge["child_id"]) for edge in edges] == [
        (nodes["early"].id, nodes["end"].id)
    ]
    assert problems(db) == []


def test_nodes_without_parents_replace_and_debounce(db: Connection) -> None:
    """They change the task that waits; several of one graph leave what the last one says."""
    first, second = submit_unique(db, "x"), debounce(db, "y", wait="1 s")
    nodes = submit_graph(
        db,
        {"name": "x", "unique_key": "x", "on_duplicate": "replace", "args": {"n": 1}},
        {"name": "y", "unique_key": "y", "on_duplicate": "debounce", "wait": 3600},
        {"name": "z", "unique_key": "z", "on_duplicate": "replace", "args": {"n": 3}},
        {"name": "z2", "unique_key": "z", "on_duplicate": "replace", "args": {"n": 4}},
        {"name": "end", "after": ["x", "y", "z", "z2"]},
    )
    assert (nodes["x"].id, nodes["y"].id) == (first.id, second.id)
    assert (nodes["z"].is_new, nodes["z2"].id) == (True, nodes["z"].id)
    query = "select args ->> 'n' from peers.task where id = any (%s) order by id"
    assert column(db, query, [first.id, nodes["z"].id]) == ["1", "4"]
    advance(db, "10 s")
    assert promote(db) == 0 or state(db, second.id) == "scheduled"
    assert state(db, second.id) == "scheduled"
    assert value(db, "select pending_parents from peers.task where id = %s", nodes["end"].id) == 3
    assert problems(db) == []


def test_a_node_whose_task_was_pruned(db: Connection, peer: Peer) -> None:
    """An interval outlasts the task: the graph is accepted, and its children need not wait."""
    first = submit_unique(db, "k", unique_while="1 day")
    peer.complete(*peer.claim())
    advance(db, "2 s")
    run(db, "select peers.prune('1 s')")
    nodes = submit_graph(
        db,
        {"name": "x", "unique_key": "k", "unique_while": "1 day"},
        {"name": "y"},
        {"name": "z", "after": ["x", "y"]},
        {"name": "end", "after": ["x"]},
    )
    assert nodes["x"] == Answer(first.id, is_new=False, replaced=False)
    assert [state(db, nodes[name].id) for name in ("y", "z", "end")] == [
        "ready",
        "blocked",
        "ready",
    ]
    peer.complete(*peer.claim())
    assert state(db, nodes["z"].id) == "ready"
    assert problems(db) == []


def test_a_node_with_both_keys(db: Connection) -> None:
    """The idempotency_key decides first; a task that it finds takes no unique key."""
    nodes = submit_graph(db, {"name": "x", "unique_key": "k", "idempotency_key": "call 1"})
    assert nodes["x"].is_new
    again = submit_graph(db, {"name": "x", "unique_key": "other", "idempotency_key": "call 1"})
    assert again["x"] == Answer(nodes["x"].id, is_new=False, replaced=False)
    assert holder(db, "other") is None


# ------------------------------------------------------------------------- retries and what is kept


def test_a_retry_does_not_ask_for_the_key(db: Connection, peer: Peer) -> None:
    """The key of a dead task may be another one's by now: both run, the newer one holds it."""
    first = submit_unique(db, unique_while="unfinished")
    peer.fail(*peer.claim(), reject=True)
    second = submit_unique(db, unique_while="unfinished")
    assert second.is_new
    run(db, "select peers.retry(%s)", first.id)
    assert submit_unique(db, unique_while="unfinished") == (second.id, False, False)
    assert len(peer.claim()) == 2


def test_a_retried_task_holds_the_key_that_nobody_took(db: Connection, peer: Peer) -> None:
    """Maintenance leaves the row of a dead task, so that this does not depend on its timing."""
    first = submit_unique(db, unique_while="unfinished")
    peer.fail(*peer.claim(), reject=True)
    run(db, "select * from peers.prune('0 s')")
    run(db, "select peers.retry(%s)", first.id)
    assert submit_unique(db, unique_while="unfinished") == (first.id, False, False)


@pytest.mark.parametrize("how", ["fail", "release", "reclaim"])
def test_a_task_that_waits_again_beside_another_one(db: Connection, peer: Peer, how: str) -> None:
    """Both run; new submissions meet the newer one, which holds the key."""
    first = submit_unique(db)
    [claim] = peer.claim()
    second = submit_unique(db)
    assert second.is_new
    if how == "fail":
        peer.fail(claim, retry_in=0)
    elif how == "release":
        peer.release(claim)
    else:
        peer = Peer.join(db)
        peer.advance_steadily(60)
        assert [lost["task_id"] for lost in peer.reclaim()] == [first.id]
    assert submit_unique(db) == (second.id, False, False)
    assert {claim.task_id for claim in peer.claim()} == {first.id, second.id}


def test_maintenance_deletes_the_keys_that_no_task_can_hold_again(db: Connection) -> None:
    """What waits, runs or is dead keeps its row; so does an interval that is not over."""
    states = ["ready", "running", "dead", "completed", "cancelled", "waits for a retry"]
    for wanted in states:
        task = submit_unique(db, wanted, kind=f"kind of {wanted}")
        bring_to(db, Peer.join(db, f"kind of {wanted}"), task.id, wanted)
    submit_unique(db, "interval", unique_while="1 hour")
    submit_unique(db, "is over", unique_while="1 minute")
    advance(db, "2 minutes")
    run(db, "select * from peers.prune('1 day')")
    assert column(db, "select key from peers.unique_key order by key") == [
        "dead", "interval", "ready", "running", "waits for a retry",
    ]  # fmt: skip


def test_what_happens_to_a_task_does_not_touch_its_key(db: Connection, peer: Peer) -> None:
    """A claim, a failure, a promotion and a completion leave the row as it is."""
    submit_unique(db, unique_while="unfinished")
    query = "select ctid::text, xmin::text from peers.unique_key"
    before = row(db, query)
    peer.fail(*peer.claim(), retry_in=1)
    advance(db, "2 s")
    promote(db)
    peer.complete(*peer.claim())
    assert row(db, query) == before


def test_no_index_mentions_what_changes(db: Connection) -> None:
    """A key that goes to another task is a HOT update: the only index is the primary key's."""
    query = (
        "select indexdef from pg_indexes where schemaname = 'peers' and tablename = 'unique_key'"
    )
    assert [definition.split("(")[1] for definition in column(db, query)] == ["kind, key)"]


# ---------------------------------------------------------------------------------------- refusals


BAD: dict[str, dict[str, Any]] = {
    "unique_key must have 1 to 400 characters, not 0": {"unique_key": ""},
    "unique_key must have 1 to 400 characters, not 401": {"unique_key": "x" * 401},
    "unique_key must not contain control characters": {"unique_key": "a\nb"},
    'must be "waiting", "unfinished" or an interval of 1 millisecond to 365 days such as "10': {
        "unique_while": "sometimes"
    },
    '365 days such as "10 minutes", not "0 s"': {"unique_while": "0 s"},
    '365 days such as "10 minutes", not "2 years"': {"unique_while": "2 years"},
    'on_duplicate must be "keep", "replace" or "debounce", not "merge"': {"on_duplicate": "merge"},
    'on_duplicate "debounce" needs a wait': {"on_duplicate": "debounce"},
    'wait and max_wait need on_duplicate "debounce"': {"wait": "5 s"},
    "wait must be 1 millisecond to 365 days, not 00:00:00": {
        "on_duplicate": "debounce", "wait": "0 s",
    },
    "max_wait must be at least wait (00:00:05) and at most 365 days, not 00:00:04": {
        "on_duplicate": "debounce", "wait": "5 s", "max_wait": "4 s",
    },
    'on_duplicate "debounce" needs unique_while "waiting"': {
        "on_duplicate": "debounce", "wait": "5 s", "unique_while": "unfinished",
    },
    'on_duplicate "debounce" sets the time of the start itself': {
        "on_duplicate": "debounce", "wait": "5 s", "scheduled_at": "2099-01-01",
    },
    'on_duplicate must be "keep" for a task with parents': {
        "on_duplicate": "replace", "depends_on": [1],
    },
    "unique_while, on_duplicate, wait and max_wait need a unique_key": {
        "unique_key": None, "unique_while": "waiting",
    },
    "priority must be -32768 to 32767": {"priority": 40_000},
    "max_attempts must be 1 to 1000, not 0": {"max_attempts": 0},
    "kind must have 1 to 200 characters, not 201": {"kind": "x" * 201},
}  # fmt: skip


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_refused(db: Connection, words: str) -> None:
    """With the name, the bound and the remedy; nothing is submitted."""
    submit(db)
    options: dict[str, Any] = {"unique_key": "k", "kind": "a", **BAD[words]}
    with pytest.raises(psycopg.DatabaseError) as caught:
        submit_unique(db, **options)
    assert caught.value.sqlstate == "PE009"
    assert words in str(caught.value)
    assert value(db, "select count(*) from peers.task") == 1
    assert rows(db, "select * from peers.unique_key") == []


def test_the_longest_key_and_kind_fit(db: Connection) -> None:
    """In characters of four bytes each."""
    longest = {"unique_key": "𐍈" * 400, "kind": "𐍈" * 200}
    first = submit_unique(db, **longest)
    assert submit_unique(db, **longest) == (first.id, False, False)


def test_args_that_replace_are_checked(db: Connection) -> None:
    """As those of a new task are."""
    submit_unique(db)
    bad = "select peers.submit('a', '[1]', unique_key => 'k', on_duplicate => 'replace')"
    sqlstate, words = refusal(db, bad)
    assert (sqlstate, "args must be a JSON object" in words) == ("PE009", True)


def test_a_batch_needs_a_key_for_each_task(db: Connection) -> None:
    """The numbers are named, and how to leave one out."""
    call = "select peers.submit_many_unique('a', '[{}, {}]', array['x'])"
    sqlstate, words = refusal(db, call)
    assert sqlstate == "PE009"
    assert "unique_keys must have one element for each of the 2 args, not 1" in words
    assert "null in unique_keys" in words


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"unique_key": 3}, "unique_key, unique_while and on_duplicate must be strings"),
        ({"unique_key": "k", "wait": "soon"}, "wait and max_wait must be intervals"),
        ({"unique_while": "waiting"}, "need a unique_key"),
        ({"unique_key": "k", "unique_while": "x"}, 'unique_while must be "waiting", "unfinished"'),
        (
            {"unique_key": "k", "on_duplicate": "replace", "depends_on": [1]},
            'on_duplicate must be "keep" for a task with parents',
        ),
    ],
)
def test_a_bad_node_is_named(db: Connection, node: dict[str, object], words: str) -> None:
    """With its place and its name."""
    graph = json.dumps([{"name": "n", "kind": "a", **node}])
    sqlstate, said = refusal(db, "select peers.submit_graph(%s::jsonb)", graph)
    assert sqlstate == "PE007"
    assert 'node 1 "n" cannot be submitted: ' in said
    assert words in said


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_another_isolation_level_is_refused(db: Connection, level: str) -> None:
    """A submission has to see what was committed while it waited for its key."""
    run(db, f"set default_transaction_isolation = '{level}'")
    with pytest.raises(psycopg.DatabaseError, match="unique keys and verbs need READ COMMITTED"):
        submit_unique(db)
