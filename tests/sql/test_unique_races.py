"""Unique keys while several sessions act at once: interleavings, and variants that they catch."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

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
    Patch,
    advance,
    apply_patches,
    problems,
    promote,
    result,
    rows,
    run,
    state,
    submit,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.world import World

UNIQUE: Final = "23_unique_key.sql"
REPLACE: Final = "23_replace_waiting.sql"


def count(world: World) -> int:
    """How many tasks there are."""
    return int(value(world.db, "select count(*) from peers.task"))


# ------------------------------------------------------------------------------- submit with submit


def two_sessions_submit_a_key_for_the_first_time(world: World) -> None:
    """The second one waits for the first one's transaction, and then stands for its task."""
    one, two = world.connect(), world.connect()
    with one.transaction():
        first = submit_unique(one)
        work = world.background(submit_unique, two)
        world.until_waiting(two)
    assert first.is_new
    assert result(work) == Answer(first.id, is_new=False, replaced=False)
    assert count(world) == 1


def two_sessions_take_a_key_that_is_free_again(world: World) -> None:
    """Exactly one of them makes the next task."""
    submit_unique(world.db)
    peer, one, two = world.peer(), world.connect(), world.connect()
    peer.complete(*peer.claim())
    with one.transaction():
        second = submit_unique(one)
        assert second.is_new
        work = world.background(submit_unique, two)
        world.until_waiting_or_done(two, work)
    assert result(work) == Answer(second.id, is_new=False, replaced=False)
    assert count(world) == 2


def the_first_session_rolls_back(world: World) -> None:
    """Its task never existed: the second session makes one of its own."""
    one, two = world.connect(), world.connect()
    with one.transaction(force_rollback=True):
        first = submit_unique(one)
        work = world.background(submit_unique, two)
        world.until_waiting(two)
    second = result(work)
    assert (first.is_new, second.is_new, count(world)) == (True, True, 1)
    assert holder(world.db) == second.id


def a_session_that_replaces_rolls_back(world: World) -> None:
    """The old args stay, and the session that waited replaces them."""
    first = submit_unique(world.db, args={"n": 1})
    one, two = world.connect(), world.connect()
    with one.transaction(force_rollback=True):
        replace(one, args={"n": 2}, priority=7)
        work = world.background(replace, two, args={"n": 3})
        world.until_waiting(two)
    assert result(work) == Answer(first.id, is_new=False, replaced=True)
    [claim] = world.peer().claim()
    assert (claim.args, claim.priority) == ({"n": 3}, 100)


def two_sessions_replace(world: World) -> None:
    """The task has the args of the session that got the key last."""
    first = submit_unique(world.db)
    one, two = world.connect(), world.connect()
    with one.transaction():
        replace(one, args={"n": 1})
        work = world.background(replace, two, args={"n": 2})
        world.until_waiting(two)
    assert result(work).id == first.id
    [claim] = world.peer().claim()
    assert claim.args == {"n": 2}
    assert problems(world.db) == []


def batches_in_different_order(world: World) -> None:
    """They take their keys in the same order, so that they wait and do not deadlock."""
    for key in "abm":
        submit_unique(world.db, key)
    blocker, one, two = world.connect(), world.connect(), world.connect()
    with blocker.transaction():
        replace(blocker, "m")
        first = world.background(submit_batch, one, ["a", "m", "b"], on_duplicate="replace")
        world.until_waiting(one)
        second = world.background(submit_batch, two, ["b", "m", "a"], on_duplicate="replace")
        world.until_waiting(two)
    for work in (first, second):
        assert all(answer.replaced for answer in result(work))
    assert count(world) == 3


def batches_with_new_keys_in_different_order(world: World) -> None:
    """Keys that nobody had before are taken in the same order, too."""
    blocker, one, two = world.connect(), world.connect(), world.connect()
    with blocker.transaction():
        submit_unique(blocker, "m")
        first = world.background(submit_batch, one, ["a", "m", "b"])
        world.until_waiting(one)
        second = world.background(submit_batch, two, ["b", "m", "a"])
        world.until_waiting(two)
    answers = [answer.is_new for work in (first, second) for answer in result(work)]
    assert (sum(answers), count(world)) == (2, 3)


# -------------------------------------------------------------------------------- submit with peers


def a_claim_comes_before_a_replacement(world: World) -> None:
    """The task has started with the old args: the new ones get a task of their own."""
    first = submit_unique(world.db, args={"n": 1})
    peer, application = world.peer(), world.connect()
    with peer.db.transaction():
        [claim] = peer.claim()
        work = world.background(replace, application, args={"n": 2})
        world.until_waiting(application)
    second = result(work)
    assert (second.is_new, second.id != first.id) == (True, True)
    assert (state(world.db, first.id), claim.args) == ("running", {"n": 1})
    assert [each.args for each in peer.claim()] == [{"n": 2}]
    assert problems(world.db) == []


def a_replacement_comes_before_a_claim(world: World) -> None:
    """No claim gets the task before the new args are committed; then it has these."""
    first = submit_unique(world.db, args={"n": 1})
    peer, application = world.peer(), world.connect()
    with application.transaction():
        assert replace(application, args={"n": 2}).replaced
        assert peer.claim() == []
    [claim] = peer.claim()
    assert (claim.task_id, claim.args) == (first.id, {"n": 2})


def a_task_that_is_kept_starts_after_the_commit(world: World) -> None:
    """Its handler sees what the transaction wrote that has found it waiting."""
    first = submit_unique(world.db)
    peer, application = world.peer(), world.connect()
    with application.transaction():
        assert submit_unique(application) == Answer(first.id, is_new=False, replaced=False)
        assert peer.claim() == []
    assert [claim.task_id for claim in peer.claim()] == [first.id]


def a_claim_comes_before_a_submission_that_keeps(world: World) -> None:
    """Whoever waits for a claim to commit is not told that the task still waits."""
    first = submit_unique(world.db)
    peer, application = world.peer(), world.connect()
    with peer.db.transaction():
        peer.claim()
        work = world.background(submit_unique, application)
        world.until_waiting(application)
    assert result(work).is_new
    assert result(work).id != first.id


def a_task_completes_while_its_key_is_taken(world: World) -> None:
    """A submission does not lock the task that runs: the outcome is recorded at once."""
    first = submit_unique(world.db)
    peer, application = world.peer(), world.connect()
    [claim] = peer.claim()
    with application.transaction():
        assert submit_unique(application).is_new
        work = world.background(peer.complete, claim)
        world.until_waiting_or_done(peer.db, work)
        assert result(work) == {}
    assert state(world.db, first.id) == "completed"


def a_submission_does_not_wait_for_a_completion(world: World) -> None:
    """Under "unfinished" it stands for the task as long as the completion is not committed."""
    first = submit_unique(world.db, unique_while="unfinished")
    peer, application = world.peer(), world.connect()
    claims = peer.claim()
    with peer.db.transaction():
        peer.complete(*claims)
        work = world.background(submit_unique, application, unique_while="unfinished")
        world.until_waiting_or_done(application, work)
        assert result(work) == Answer(first.id, is_new=False, replaced=False)
    assert submit_unique(application, unique_while="unfinished").is_new


def submissions_that_keep_an_unfinished_task_do_not_wait(world: World) -> None:
    """A transaction that stays open after such a submission holds up no other one."""
    submit_unique(world.db, unique_while="unfinished")
    one, two = world.connect(), world.connect()
    with one.transaction():
        submit_unique(one, unique_while="unfinished")
        work = world.background(submit_unique, two, unique_while="unfinished")
        world.until_waiting_or_done(two, work)
        assert work.done(), "it waited for the other submission"
    assert not result(work).is_new


def a_promotion_comes_before_a_postponement(world: World) -> None:
    """The task is ready and has not started, so the submission postpones it after all."""
    first = debounce(world.db)
    advance(world.db, "6 s")
    peer, application = world.peer(), world.connect()
    with peer.db.transaction():
        assert promote(peer.db) == 1
        work = world.background(debounce, application, args={"n": 2})
        world.until_waiting(application)
    assert result(work) == Answer(first.id, is_new=False, replaced=True)
    assert (peer.claim(), state(world.db, first.id)) == ([], "scheduled")
    advance(world.db, "6 s")
    assert promote(peer.db) == 1
    assert [claim.args for claim in peer.claim()] == [{"n": 2}]
    assert problems(world.db) == []


def a_postponement_comes_before_a_promotion(world: World) -> None:
    """A promotion passes over the task until the commit, and then finds its new time."""
    first = debounce(world.db)
    advance(world.db, "6 s")
    peer, application = world.peer(), world.connect()
    with application.transaction():
        assert debounce(application).replaced
        assert promote(peer.db) == 0
    assert (promote(peer.db), peer.claim()) == (0, [])
    advance(world.db, "6 s")
    assert promote(peer.db) == 1
    assert [claim.task_id for claim in peer.claim()] == [first.id]


# --------------------------------------------------------------- submit with operators, maintenance


def a_cancellation_comes_before_a_submission(world: World) -> None:
    """The submission waits for it, and gets a task of its own."""
    first = submit_unique(world.db)
    operator, application = world.connect(), world.connect()
    with operator.transaction():
        run(operator, "select peers.cancel(%s)", first.id)
        work = world.background(submit_unique, application)
        world.until_waiting(application)
    second = result(work)
    assert second.is_new
    assert (state(world.db, first.id), state(world.db, second.id)) == ("cancelled", "ready")


def two_submissions_wait_for_a_cancellation(world: World) -> None:
    """One of them makes a task, the other one stands for it."""
    first = submit_unique(world.db)
    operator, one, two = world.connect(), world.connect(), world.connect()
    with operator.transaction():
        run(operator, "select peers.cancel(%s)", first.id)
        work = []
        for session in (one, two):
            work.append(world.background(submit_unique, session))
            world.until_waiting(session)
    answers = [result(each) for each in work]
    assert sorted(answer.is_new for answer in answers) == [False, True]
    assert (answers[0].id == answers[1].id, count(world)) == (True, 2)


def a_submission_comes_before_a_cancellation(world: World) -> None:
    """The operator cancels the task with its newest args: nobody wanted it to run."""
    first = submit_unique(world.db)
    operator, application = world.connect(), world.connect()
    with application.transaction():
        assert replace(application, args={"n": 2}).replaced
        work = world.background(value, operator, "select peers.cancel(%s)", first.id)
        world.until_waiting(operator)
    assert result(work) == "cancelled"
    assert replace(application, args={"n": 3}).is_new


def a_dead_task_is_retried_while_its_key_is_taken(world: World) -> None:
    """The retry neither waits nor is refused; the key belongs to the newer task."""
    first = submit_unique(world.db, unique_while="unfinished")
    peer, application, operator = world.peer(), world.connect(), world.connect()
    peer.fail(*peer.claim(), reject=True)
    with application.transaction():
        second = submit_unique(application, unique_while="unfinished")
        assert second.is_new
        work = world.background(value, operator, "select peers.retry(%s)", first.id)
        world.until_waiting_or_done(operator, work)
        assert work.done()
    assert holder(world.db) == second.id
    assert {claim.task_id for claim in peer.claim()} == {first.id, second.id}
    assert problems(world.db) == []


def maintenance_meets_a_submission_that_takes_a_key(world: World) -> None:
    """A row that has just been given to a new task stays, whatever maintenance saw before."""
    submit_unique(world.db)
    peer, application, keeper = world.peer(), world.connect(), world.connect()
    peer.complete(*peer.claim())
    with application.transaction():
        second = submit_unique(application)
        work = world.background(rows, keeper, "select * from peers.prune('1 day')")
        world.until_waiting_or_done(keeper, work)
    result(work)
    assert second.is_new
    assert submit_unique(world.db) == Answer(second.id, is_new=False, replaced=False)


def a_submission_meets_maintenance_that_deletes_the_key(world: World) -> None:
    """It waits for the deletion, and inserts the key again."""
    submit_unique(world.db)
    peer, application, keeper = world.peer(), world.connect(), world.connect()
    peer.complete(*peer.claim())
    with keeper.transaction():
        run(keeper, "select * from peers.prune('1 day')")
        work = world.background(submit_unique, application)
        world.until_waiting_or_done(application, work)
    second = result(work)
    assert second.is_new
    assert submit_unique(world.db) == Answer(second.id, is_new=False, replaced=False)


def two_calls_meet_under_one_idempotency_key(world: World) -> None:
    """With different unique keys: both stand for one task, which holds both keys."""
    one, two = world.connect(), world.connect()
    with one.transaction():
        first = submit_unique(one, "k", idempotency_key="call")
        work = world.background(submit_unique, two, "other", idempotency_key="call")
        world.until_waiting(two)
    assert result(work) == Answer(first.id, is_new=False, replaced=False)
    assert holder(world.db, "k") == holder(world.db, "other") == first.id
    assert count(world) == 1


def two_kinds_meet_under_one_idempotency_key(world: World) -> None:
    """The key of the second one stays free: nothing may replace a task of another kind."""
    for key, query in {
        "one": "select id from peers.submit_unique('a', unique_key => 'one',"
        " idempotency_key => 'one')",
        "graph": 'select task_id as id from peers.submit_graph(\'[{"name": "x", "kind": "a",'
        ' "unique_key": "graph", "idempotency_key": "graph"}]\')',
    }.items():
        one, two = world.connect(), world.connect()
        with one.transaction():
            first = submit_unique(one, None, "b", idempotency_key=key, args={"of": "b"})
            work = world.background(value, two, query)
            world.until_waiting(two)
        assert result(work) == first.id
        assert holder(world.db, key) is None
        assert replace(world.db, key, args={"of": "a"}).is_new
        args = value(world.db, "select args from peers.task where id = %s", first.id)
        assert args == {"of": "b"}


def two_nodes_share_a_key_whose_idempotency_key_another_session_takes(world: World) -> None:
    """Both stand for that session's task."""
    one, two = world.connect(), world.connect()
    nodes = """[
        {"name": "x", "kind": "a", "unique_key": "k", "idempotency_key": "call"},
        {"name": "y", "kind": "a", "unique_key": "k"},
        {"name": "z", "kind": "a", "after": ["x", "y"]}
    ]"""
    with one.transaction():
        first = submit_unique(one, None, idempotency_key="call")
        work = world.background(rows, two, "select * from peers.submit_graph(%s)", nodes)
        world.until_waiting(two)
    found = {node["name"]: node["task_id"] for node in result(work)}
    assert found["x"] == found["y"] == holder(world.db, "k") == first.id
    assert state(world.db, found["z"]) == "blocked"
    assert problems(world.db) == []


def graphs_in_different_order(world: World) -> None:
    """Two graphs with the same keys in opposite orders take them one after the other."""
    blocker, one, two = world.connect(), world.connect(), world.connect()
    nodes = [f'{{"name": "{key}", "kind": "a", "unique_key": "{key}"}}' for key in "amb"]
    call = "select * from peers.submit_graph(%s::jsonb)"
    with blocker.transaction():
        submit_unique(blocker, "m")
        first = world.background(rows, one, call, f"[{', '.join(nodes)}]")
        world.until_waiting(one)
        second = world.background(rows, two, call, f"[{', '.join(reversed(nodes))}]")
        world.until_waiting(two)
    found = [*result(first), *result(second)]
    assert sum(node["is_new"] for node in found) == 2
    assert (len({node["task_id"] for node in found}), count(world)) == (3, 3)


def a_submission_waits_for_a_task_that_is_locked(world: World) -> None:
    """An application that adds an edge to the task goes first, and the task is then replaced."""
    first = submit_unique(world.db, kind="b")
    one, two = world.connect(), world.connect()
    with one.transaction():
        parent = submit(one)
        run(one, "insert into peers.dependency (parent_id, child_id) values (%s, %s)",
            parent, first.id)  # fmt: skip
        work = world.background(replace, two, kind="b", args={"n": 2})
        world.until_waiting(two)
    assert result(work).replaced
    assert state(world.db, first.id) == "blocked"
    assert problems(world.db) == []


def a_task_is_claimed_while_a_graph_gives_it_a_parent(world: World) -> None:
    """The graph waits for a session that adds edges; meanwhile the task starts, and gets none."""
    peer, graph, other = world.peer(), world.connect(), world.connect()
    known = value(world.db, "select peers.submit('a', idempotency_key => 'k')")
    nodes = """[
        {"name": "first", "kind": "a", "queue": "other"},
        {"name": "known", "kind": "a", "after": ["first"], "idempotency_key": "k"},
        {"name": "last", "kind": "a", "after": ["known"]}
    ]"""
    with other.transaction():
        run(other, "lock table peers.dependency_lock in share row exclusive mode")
        work = world.background(rows, graph, "select * from peers.submit_graph(%s)", nodes)
        world.until_waiting(graph)
        assert [claim.task_id for claim in peer.claim()] == [known]
    ids = {each["name"]: each["task_id"] for each in result(work)}
    assert ids["known"] == known
    edges = rows(world.db, "select parent_id, child_id from peers.dependency")
    assert {(edge["parent_id"], edge["child_id"]) for edge in edges} == {
        (ids["first"], ids["last"]),
        (known, ids["last"]),
    }


# ---------------------------------------------------------------------------------------- the tests

SCENARIOS = {
    name: function
    for name, function in inspect.getmembers(sys.modules[__name__], inspect.isfunction)
    if list(inspect.signature(function).parameters) == ["world"] and name != "count"
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_must_hold_holds(world: World, name: str) -> None:
    """See the scenario's own docstring."""
    SCENARIOS[name](world)


class Variant(NamedTuple):
    """Patches that take one safeguard out, and the scenario that must notice."""

    scenario: Callable[[World], None]
    patches: list[Patch]
    fails_with: type[Exception] = AssertionError


_KEYS_IN_ORDER: Final = [
    Patch(
        UNIQUE,
        'select distinct on (s.kind collate "C", s.key collate "C")\n           s.kind',
        "select s.kind",
    ),
    Patch(UNIQUE, 'order by s.kind collate "C", s.key collate "C", s.place', "order by s.place"),
]
_NO_TASK_LOCK: Final = Patch(
    UNIQUE, "        order by t.id for no key update\n", "        order by t.id\n"
)

VARIANTS: dict[str, Variant] = {
    "a key that exists is not locked": Variant(
        two_submissions_wait_for_a_cancellation,
        [Patch(UNIQUE, "do update set task_id = k.task_id where false", "do nothing")],
    ),
    "keys are locked in the order of the batch": Variant(
        batches_in_different_order, _KEYS_IN_ORDER, psycopg.errors.DeadlockDetected
    ),
    "new keys are inserted in the order of the batch": Variant(
        batches_with_new_keys_in_different_order, _KEYS_IN_ORDER, psycopg.errors.DeadlockDetected
    ),
    "a task that waits is not locked before it is replaced": Variant(
        a_claim_comes_before_a_replacement, [_NO_TASK_LOCK]
    ),
    "a task that is kept is not locked": Variant(
        a_task_that_is_kept_starts_after_the_commit, [_NO_TASK_LOCK]
    ),
    "a submission trusts a task that is being claimed": Variant(
        a_claim_comes_before_a_submission_that_keeps, [_NO_TASK_LOCK]
    ),
    "a submission trusts a task that is being cancelled": Variant(
        a_cancellation_comes_before_a_submission, [_NO_TASK_LOCK]
    ),
    "a task that runs is locked": Variant(
        a_task_completes_while_its_key_is_taken,
        [
            Patch(
                UNIQUE,
                "          and t.state in ('blocked', 'scheduled', 'ready')\n"
                "        order by t.id for",
                "        order by t.id for",
            )
        ],
    ),
    "every submission locks its key": Variant(
        submissions_that_keep_an_unfinished_task_do_not_wait,
        [Patch(UNIQUE, "where k.kind = s.kind and k.key = s.key\n              and s.on_dup",
               "where false and k.kind = s.kind and k.key = s.key\n              and s.on_dup")],
    ),
    "a replacement does not leave ready": Variant(
        a_promotion_comes_before_a_postponement,
        [Patch(REPLACE, "when f.scheduled_at > greatest(_now, t.created_at) then 'scheduled'",
               "when false then 'scheduled'")],
    ),
    "maintenance does not look again": Variant(
        maintenance_meets_a_submission_that_takes_a_key,
        [
            Patch(UNIQUE, "        for update skip locked\n", "        for update\n"),
            Patch(UNIQUE, "    where k.ctid = any (_rows)\n      and (k.until <= _now\n",
                  "    where k.ctid = any (_rows)\n      and (true or k.until <= _now\n"),
        ],
    ),
    "the unique key of a lost race stays with a task that does not exist": Variant(
        two_calls_meet_under_one_idempotency_key,
        [Patch(UNIQUE, "k.task_id = o.id and t.kind = o.kind",
               "k.task_id = o.id and t.kind = o.kind and false")],
    ),
    "the unique key of a lost race goes to a task of another kind": Variant(
        two_kinds_meet_under_one_idempotency_key,
        [Patch(UNIQUE, "k.task_id = o.id and t.kind = o.kind", "k.task_id = o.id")],
    ),
    "a node stands for a task that was not inserted": Variant(
        two_nodes_share_a_key_whose_idempotency_key_another_session_takes,
        [Patch("25_insert_nodes.sql", "coalesce((_instead ->> ids[n.place]::text)::bigint, ids[",
               "coalesce(null, ids[")],
    ),
    "a graph does not look again which tasks have started": Variant(
        a_task_is_claimed_while_a_graph_gives_it_a_parent,
        [Patch("25_graph_edges.sql",
               "if peers._started_nodes(_ids, _is_new) = _started", "if true")],
        psycopg.DatabaseError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_without_the_safeguard_it_is_noticed(world: World, name: str) -> None:
    """The scenario that passes with the shipped SQL fails with this change of it."""
    variant = VARIANTS[name]
    apply_patches(world.db, variant.patches)
    with pytest.raises(variant.fails_with):
        variant.scenario(world)


def test_maintenance_that_waits_still_looks_again(world: World) -> None:
    """The second look alone protects the row, even without the first one's SKIP LOCKED."""
    patch = Patch(UNIQUE, "        for update skip locked\n", "        for update\n")
    apply_patches(world.db, [patch])
    maintenance_meets_a_submission_that_takes_a_key(world)
