"""Dependencies: a child waits for its parents, and learns of their ends."""

from __future__ import annotations

import re
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.world import (
    Claim,
    Peer,
    World,
    column,
    problems,
    refusal,
    rows,
    run,
    state,
    states,
    submit,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.server import Connection


def add_edge(db: Connection, parent: int, child: int, policy: str = "hold") -> None:
    """An edge by plain INSERT."""
    columns = "(parent_id, child_id, on_parent_failure)"
    run(db, f"insert into peers.dependency {columns} values (%s, %s, %s)", parent, child, policy)


def pending(db: Connection, task_id: int) -> int:
    """How many parents hold a task."""
    count: int = value(db, "select pending_parents from peers.task where id = %s", task_id)
    return count


def claim_one(peer: Peer, task_id: int) -> Claim:
    """Claims until that task is held; the others go back."""
    claims = {claim.task_id: claim for claim in peer.claim()}
    found = claims.pop(task_id)
    peer.release(*claims.values())
    return found


def kill(peer: Peer, *task_ids: int) -> None:
    """Makes ready tasks dead letters."""
    for task_id in task_ids:
        peer.fail(claim_one(peer, task_id), reject=True)
        assert state(peer.db, task_id) == "dead"


def finish(peer: Peer, *task_ids: int) -> None:
    """Completes ready tasks."""
    for task_id in task_ids:
        assert peer.complete(claim_one(peer, task_id)) == {}


def run_everything(peer: Peer) -> list[int]:
    """Completes tasks until none is ready; their ids in the order of running."""
    done: list[int] = []
    while claims := peer.claim():
        assert peer.complete(*claims) == {}
        done += [claim.task_id for claim in claims]
    return done


def test_a_graph_in_one_plain_statement(db: Connection, peer: Peer) -> None:
    """The documented CTE makes a graph without any function."""
    run(
        db,
        """with extract as (insert into peers.task (kind) values ('a') returning id),
                load as (insert into peers.task (kind) values ('a') returning id)
           insert into peers.dependency (parent_id, child_id)
           select extract.id, load.id from extract, load""",
    )
    assert run_everything(peer) == column(
        db, "select unnest(array[parent_id, child_id]) from peers.dependency"
    )


def test_edges_come_in_by_copy(db: Connection, peer: Peer) -> None:
    """COPY of edges counts like INSERT, in one statement for all."""
    parents = [submit(db) for _ in range(10)]
    children = [submit(db) for _ in range(10)]
    with db.cursor().copy("copy peers.dependency (parent_id, child_id) from stdin") as copy:
        for parent in parents:
            for child in children:
                copy.write_row((parent, child))
    assert {pending(db, child) for child in children} == {10}
    assert run_everything(peer) == [*parents, *children]
    assert problems(db) == []


def test_fan_in_waits_for_the_last_parent(db: Connection, peer: Peer) -> None:
    """A child of many parents is released by the last one, whichever that is."""
    parents = [submit(db) for _ in range(20)]
    child = submit(db, depends_on=parents)
    assert (pending(db, child), state(db, child)) == (20, "blocked")
    for left, parent in enumerate(reversed(parents)):
        finish(peer, parent)
        assert pending(db, child) == 19 - left
    assert state(db, child) == "ready"


def test_fan_in_within_one_batch(db: Connection, peer: Peer) -> None:
    """Parents that complete together count as many as they are."""
    parents = [submit(db) for _ in range(50)]
    child = submit(db, depends_on=parents)
    claims = peer.claim()
    peer.complete(*claims[:49])
    assert (pending(db, child), state(db, child)) == (1, "blocked")
    peer.complete(*claims[49:])
    assert [claim.task_id for claim in peer.claim()] == [child]


def test_fan_out_releases_all_children(db: Connection, peer: Peer) -> None:
    """A parent's end releases every child, in the order of their ids."""
    parent = submit(db)
    children = [submit(db, depends_on=[parent]) for _ in range(30)]
    finish(peer, parent)
    assert [claim.task_id for claim in peer.claim()] == children


def test_a_diamond_joins_once(db: Connection, peer: Peer) -> None:
    """Top, two sides, bottom: the bottom runs once, last."""
    top = submit(db)
    sides = [submit(db, depends_on=[top]) for _ in range(2)]
    bottom = submit(db, depends_on=sides)
    assert run_everything(peer) == [top, *sides, bottom]
    assert problems(db) == []


def test_children_read_their_parents_results(db: Connection, peer: Peer) -> None:
    """parent_results has every parent with its state; only completed ones have a result."""
    parents = [submit(db), submit(db)]
    child = submit(db, depends_on=parents, on_parent_failure="run")
    peer.complete(claim_one(peer, parents[0]), result={"n": 1})
    kill(peer, parents[1])
    assert [
        tuple(each.values()) for each in rows(db, "select * from peers.parent_results(%s)", child)
    ] == [
        (parents[0], "a", "completed", {"n": 1}),
        (parents[1], "a", "dead", None),
    ]
    assert state(db, child) == "ready"


def test_a_released_child_keeps_its_own_time(db: Connection, peer: Peer) -> None:
    """A child for later is scheduled, not ready, when its parents end early."""
    parent = submit(db)
    child = value(
        db,
        "select peers.submit('a', depends_on => array[%s], scheduled_at => now() + interval '1 h')",
        parent,
    )
    assert state(db, child) == "blocked"
    finish(peer, parent)
    assert state(db, child) == "scheduled"
    assert problems(db) == []


END = {"death": "dead", "cancellation": "cancelled"}
EXPECTED = {
    ("hold", "dead"): "blocked",
    ("hold", "cancelled"): "cancelled",
    ("cancel", "dead"): "cancelled",
    ("cancel", "cancelled"): "cancelled",
    ("run", "dead"): "ready",
    ("run", "cancelled"): "ready",
}


def end(peer: Peer, task_id: int, how: str) -> None:
    """Ends a ready task as asked."""
    if how == "dead":
        kill(peer, task_id)
    elif how == "cancelled":
        run(peer.db, "select peers.cancel(%s)", task_id)
    else:
        finish(peer, task_id)


@pytest.mark.parametrize(("policy", "how"), EXPECTED)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_parents_end_does(
    db: Connection, peer: Peer, policy: str, how: str, when: str
) -> None:
    """The edge's policy holds for ends after its insertion and before it alike."""
    parent = submit(db)
    if when == "before":
        end(peer, parent, how)
    child = submit(db, depends_on=[parent], on_parent_failure=policy)
    if when == "after":
        end(peer, parent, how)
    assert state(db, child) == EXPECTED[policy, how]
    waived = value(db, "select waived from peers.dependency")
    assert waived is (policy == "run")
    assert problems(db) == []


@pytest.mark.parametrize(("policy", "how"), EXPECTED)
def test_another_parent_still_holds(db: Connection, peer: Peer, policy: str, how: str) -> None:
    """One parent's failure releases no child that waits for another parent."""
    failing, other = submit(db), submit(db)
    child = submit(db, depends_on=[failing, other], on_parent_failure=policy)
    end(peer, failing, how)
    expected = EXPECTED[policy, how]
    assert state(db, child) == ("blocked" if expected == "ready" else expected)
    finish(peer, other)
    assert state(db, child) == expected
    assert problems(db) == []


def test_a_completed_parent_does_not_count(db: Connection, peer: Peer) -> None:
    """An edge from what is done holds nobody."""
    parent = submit(db)
    finish(peer, parent)
    child = submit(db, depends_on=[parent])
    assert (state(db, child), pending(db, child)) == ("ready", 0)
    assert problems(db) == []


def test_a_held_child_flows_after_retry(db: Connection, peer: Peer) -> None:
    """hold: the child waits through death and retry, and runs when the parent completes."""
    parent = submit(db)
    child = submit(db, depends_on=[parent])
    kill(peer, parent)
    run(db, "select peers.retry(%s)", parent)
    assert state(db, child) == "blocked"
    assert run_everything(peer) == [parent, child]
    assert problems(db) == []


def test_a_held_child_is_cancelled_by_discard(db: Connection, peer: Peer) -> None:
    """discard: what was held goes down with the parent, to the last descendant."""
    parent = submit(db)
    child = submit(db, depends_on=[parent])
    grandchild = submit(db, depends_on=[child])
    kill(peer, parent)
    run(db, "select peers.discard(%s)", parent)
    assert states(db, parent, child, grandchild) == ["cancelled"] * 3
    assert problems(db) == []


def test_a_waived_edge_never_counts_again(db: Connection, peer: Peer) -> None:
    """run: after retry and completion of the parent, the child is not counted down once more."""
    parent, other = submit(db), submit(db)
    child = submit(db, depends_on=[parent, other], on_parent_failure="run")
    kill(peer, parent)
    assert pending(db, child) == 1
    run(db, "select peers.retry(%s)", parent)
    finish(peer, parent)
    assert (pending(db, child), state(db, child)) == (1, "blocked")
    assert problems(db) == []
    finish(peer, other)
    assert run_everything(peer) == [child]


def test_cancellation_reaches_the_last_descendant_and_stops_at_run(
    db: Connection, peer: Peer
) -> None:
    """A cascade follows hold and cancel edges; where an edge says run, the child runs."""
    top = submit(db)
    one = submit(db, depends_on=[top], on_parent_failure="cancel")
    two = submit(db, depends_on=[one], on_parent_failure="hold")
    saved = submit(db, depends_on=[two], on_parent_failure="run")
    after = submit(db, depends_on=[saved])
    kill(peer, top)
    assert states(db, top, one, two, saved, after) == [
        "dead",
        "cancelled",
        "cancelled",
        "ready",
        "blocked",
    ]
    assert run_everything(peer) == [saved, after]
    assert problems(db) == []


def test_a_deep_and_wide_cascade(db: Connection, peer: Peer) -> None:
    """A cancellation runs down 200 levels and 1,000 children in one go."""
    top = submit(db)
    last = top
    for _ in range(200):
        last = submit(db, depends_on=[last])
    run(
        db,
        "with leaf as (insert into peers.task (kind) select 'a' from generate_series(1, 1000)"
        " returning id) insert into peers.dependency (parent_id, child_id)"
        " select %s, id from leaf",
        last,
    )
    run(db, "select peers.cancel(%s)", top)
    assert rows(db, "select state, count(*) as n from peers.task group by state") == [
        {"state": "cancelled", "n": 1201}
    ]
    assert peer.claim() == []
    assert problems(db) == []


def test_an_edge_may_be_added_to_what_has_not_started(db: Connection, peer: Peer) -> None:
    """A ready, scheduled or blocked task can be made to wait for one more parent."""
    parent = submit(db)
    ready = submit(db)
    later = value(db, "select peers.submit('a', scheduled_at => now() + interval '1 h')")
    blocked = submit(db, depends_on=[submit(db)])
    for child in (ready, later, blocked):
        add_edge(db, parent, child)
    assert states(db, ready, later, blocked) == ["blocked"] * 3
    assert pending(db, blocked) == 2
    finish(peer, parent)
    assert states(db, ready, later, blocked) == ["ready", "scheduled", "blocked"]
    assert problems(db) == []


@pytest.mark.parametrize("child_is", ["running", "retrying", "completed", "dead", "cancelled"])
def test_an_edge_into_a_started_or_ended_child_is_refused(
    db: Connection, peer: Peer, child_is: str
) -> None:
    """Who has begun or ended cannot begin to wait: PE002 names the child."""
    child = submit(db)
    if child_is in ("running", "retrying"):
        claims = peer.claim()
        if child_is == "retrying":
            peer.fail(*claims, retry_in=100)
    else:
        end(peer, child, child_is)
    parent = submit(db)
    with pytest.raises(psycopg.DatabaseError, match=f"task {child} ") as refused:
        add_edge(db, parent, child)
    assert refused.value.sqlstate == "PE002"
    assert rows(db, "select * from peers.dependency") == []


@pytest.mark.parametrize("unknown", ["parent", "child"])
def test_an_unknown_end_of_an_edge_is_named(db: Connection, unknown: str) -> None:
    """There is no task 4711: PE007."""
    task_id = submit(db)
    ends = (4711, task_id) if unknown == "parent" else (task_id, 4711)
    with pytest.raises(psycopg.DatabaseError, match="no task 4711") as refused:
        add_edge(db, *ends)
    assert refused.value.sqlstate == "PE007"


def test_an_edge_twice_is_refused_or_ignored_on_request(db: Connection) -> None:
    """An edge counts once, however often it is inserted."""
    parent = submit(db)
    child = submit(db, depends_on=[parent, parent])
    with pytest.raises(psycopg.errors.UniqueViolation):
        add_edge(db, parent, child)
    run(db, "insert into peers.dependency values (%s, %s) on conflict do nothing", parent, child)
    assert pending(db, child) == 1


@pytest.mark.parametrize("field", ["waived", "added_later", "created_xid"])
def test_edges_forge_nothing(db: Connection, field: str) -> None:
    """What the scheduler keeps on an edge cannot be inserted."""
    parent, child = submit(db), submit(db)
    forged = "'1'" if field == "created_xid" else "true"
    statement = (
        f"insert into peers.dependency (parent_id, child_id, {field}) values (%s, %s, {forged})"
    )
    with pytest.raises(psycopg.DatabaseError, match=field) as refused:
        run(db, statement, parent, child)
    assert refused.value.sqlstate == "PE009"
    run(db, "set role peers_submitter")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(db, statement, parent, child)


def test_a_task_cannot_wait_for_itself(db: Connection) -> None:
    """A self-edge is the shortest cycle."""
    task_id = submit(db)
    with pytest.raises(psycopg.DatabaseError, match=f"{task_id} -> {task_id}") as refused:
        add_edge(db, task_id, task_id)
    assert refused.value.sqlstate == "PE001"


def cycle_in(message: str) -> list[int]:
    """The path that an error names."""
    sentence = message.splitlines()[0]
    return [int(step) for step in sentence.split(": ", 1)[1].split(" -> ")]


def assert_names_cycle(error: psycopg.Error, edges: Sequence[tuple[int, int]]) -> None:
    """The error is PE001, and its path is closed and made of these edges."""
    assert error.sqlstate == "PE001"
    path = cycle_in(str(error))
    assert path[0] == path[-1]
    assert len(set(path)) == len(path) - 1
    assert {*pairwise(path)} <= set(edges)


@pytest.mark.parametrize("length", [2, 3, 11])
@pytest.mark.parametrize("own", [True, False])
def test_a_cycle_is_refused_with_its_whole_path(db: Connection, length: int, own: bool) -> None:
    """Within one transaction and across older tasks alike; nothing is left of the statement."""
    with db.transaction() if own else nullcontext():
        ring = [submit(db) for _ in range(length)]
        edges = [*pairwise(ring)]
        for edge in [*edges, (ring[-1], submit(db))]:
            add_edge(db, *edge)
        with pytest.raises(psycopg.DatabaseError) as refused, db.transaction():
            add_edge(db, ring[-1], ring[0])
    assert_names_cycle(refused.value, [*edges, (ring[-1], ring[0])])
    assert value(db, "select count(*) from peers.dependency") == length
    assert problems(db) == []


def test_a_long_cycle_is_named_by_its_ends(db: Connection) -> None:
    """Of 3,000 tasks in a ring, the first and the last few are named, the others counted."""
    edges = (
        "insert into peers.dependency (parent_id, child_id)"
        " select t.id, coalesce(lead(t.id) over (order by t.id), %s) from peers.task t"
    )
    run(db, "insert into peers.task (kind) select 'a' from generate_series(1, 3000)")
    first = value(db, "select min(id) from peers.task")
    sqlstate, said = refusal(db, edges, first)
    assert sqlstate == "PE001"
    words = said.splitlines()[0]
    assert len(words) < 200
    assert "-> (2991 more) ->" in words
    steps = [int(step) for step in re.findall(r"\d+(?= ->|$)", words)]
    assert len(steps) == 10
    assert steps[0] == steps[-1]
    assert [later - one for one, later in pairwise(steps[:5])] in ([1] * 4, [-2999, 1, 1, 1])


def test_a_cycle_within_one_statement(db: Connection) -> None:
    """All edges of a statement are looked at together."""
    one, two, three = (submit(db) for _ in range(3))
    with pytest.raises(psycopg.DatabaseError) as refused:
        run(
            db,
            "insert into peers.dependency select unnest(%s::bigint[]), unnest(%s::bigint[])",
            [one, two, three],
            [two, three, one],
        )
    assert_names_cycle(refused.value, [(one, two), (two, three), (three, one)])


def test_a_cycle_through_older_and_new_tasks(db: Connection) -> None:
    """New tasks between old ones close a cycle as well as old ones do."""
    first, last = submit(db), submit(db)
    add_edge(db, first, last)
    with db.transaction(force_rollback=True):
        between = submit(db, depends_on=[last])
        with pytest.raises(psycopg.DatabaseError) as refused, db.transaction():
            add_edge(db, between, first)
    assert_names_cycle(refused.value, [(first, last), (last, between), (between, first)])
    assert value(db, "select count(*) from peers.task") == 2


def transaction_id(db: Connection) -> int:
    """The id of this transaction."""
    xid: int = value(db, "select pg_current_xact_id()::text::bigint")
    return xid


@contextmanager
def restored_from_a_larger_server(db: Connection, *tasks: int) -> Iterator[None]:
    """A transaction whose id is, by chance, the one that older tasks have brought in a dump."""
    while True:
        now = transaction_id(db)
        coming = now + 20  # other sessions take some, too
        with db.transaction():
            run(db, "set local search_path = pg_catalog, peers, pg_temp")
            forge = "update peers.task set created_xid = %s::text::xid8 where id = any (%s)"
            run(db, forge, coming, list(tasks))
        while now < coming:
            with db.transaction():
                now = transaction_id(db)
                if now == coming:
                    yield
                    return


@pytest.mark.parametrize("locked", ["parent", "child"])
def test_a_restored_task_is_locked_by_a_new_edge(
    db: Connection, connect: Callable[[], Connection], locked: str
) -> None:
    """It is old, although its transaction id is that of the transaction that adds the edge."""
    parent, child = submit(db), submit(db)
    with restored_from_a_larger_server(db, parent, child):
        add_edge(db, parent, child)
        task = parent if locked == "parent" else child
        update = "select from peers.task where id = %s for no key update skip locked"
        assert rows(connect(), update, task) == []
    assert column(db, "select added_later from peers.dependency") == [True]
    assert problems(db) == []


def test_a_cycle_through_restored_tasks_is_refused(db: Connection) -> None:
    """The edge could be left unchecked if its child were a new task."""
    one, two = submit(db), submit(db)
    add_edge(db, two, one)
    with (
        restored_from_a_larger_server(db, one, two),
        pytest.raises(psycopg.DatabaseError) as refused,
        db.transaction(),
    ):
        add_edge(db, one, two)
    assert_names_cycle(refused.value, [(one, two), (two, one)])


def test_a_restored_task_of_another_role_cannot_be_made_to_wait(db: Connection) -> None:
    """Its submitter decides what it waits for."""
    child = submit(db)
    run(db, "create role other_app in role peers_submitter")
    try:
        with restored_from_a_larger_server(db, child):
            run(db, "set local session authorization other_app")
            parent = submit(db)
            with pytest.raises(psycopg.DatabaseError) as refused, db.transaction():
                add_edge(db, parent, child)
            run(db, "reset session authorization")
        assert refused.value.sqlstate == "PE005"
    finally:
        run(db, "drop role other_app")


def test_edges_in_any_order_within_a_transaction(db: Connection, peer: Peer) -> None:
    """Children before parents, edges bottom-up: only the whole graph counts."""
    with db.transaction():
        bottom, middle, top = (submit(db) for _ in range(3))
        add_edge(db, middle, bottom)
        add_edge(db, top, middle)
        add_edge(db, top, bottom)
    assert run_everything(peer) == [top, middle, bottom]
    assert problems(db) == []


def test_edges_in_savepoints(db: Connection, peer: Peer) -> None:
    """A savepoint that is rolled back takes its edges and their counts with it."""
    with db.transaction():
        parent, other, child = (submit(db) for _ in range(3))
        with db.transaction():
            add_edge(db, parent, child)
        with db.transaction(force_rollback=True):
            add_edge(db, other, child)
            assert pending(db, child) == 2
        with pytest.raises(psycopg.DatabaseError), db.transaction():
            add_edge(db, child, parent)
    assert (pending(db, child), state(db, child)) == (1, "blocked")
    finish(peer, parent)
    assert state(db, child) == "ready"
    assert problems(db) == []


def test_a_rolled_back_edge_leaves_the_child_ready(world: World) -> None:
    """Who rolls back has held nobody."""
    parent, child = submit(world.db), submit(world.db)
    application = world.connect()
    with application.transaction(force_rollback=True):
        add_edge(application, parent, child)
    assert state(world.db, child) == "ready"
    assert len(world.peer().claim()) == 2


GUARDED = [
    "insert into peers.dependency (parent_id, child_id) values (1, 2)",
    "select peers.submit('a', depends_on => array[1])",
    """select peers.submit_graph('[{"name": "x", "kind": "a", "depends_on": [1]}]')""",
    "select peers.cancel(1)",
    "select peers.retry(1)",
    "select peers.discard(1)",
    "select peers.change(1, priority => 2)",
    "select peers.claim(peer.id, 'default', 1) from peers.peer",
    "select peers.complete(peer.id, array[token], task_ids, null) from peers.peer, peers.lease",
    """select peers.fail(peer.id, jsonb_build_array(jsonb_build_object(
           'task_id', task_ids[1], 'token', token))) from peers.peer, peers.lease""",
    "select peers.release(peer.id, task_ids, array[token]) from peers.peer, peers.lease",
    "select peers.reclaim(peer.id) from peers.peer",
    "select peers.leave(peer.id) from peers.peer",
    "select peers.promote()",
    "select peers.prune('1 day')",
    "select peers.prune_dead('1 day')",
    "select peers.apply_retention('1 day', null)",
    """select peers.retry_dead('{"all": true}')""",
    """select peers.discard_dead('{"all": true}')""",
    """select peers.cancel_tasks('{"all": true}')""",
    "select peers.check()",
]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_edges_and_verbs_refuse_other_isolation_levels(
    db: Connection, peer: Peer, level: str
) -> None:
    """Under REPEATABLE READ and SERIALIZABLE they would strand children: PE003 before anything."""
    submit(db)
    submit(db)
    peer.claim(1)
    run(db, f"set session characteristics as transaction isolation level {level}")
    for statement in GUARDED:
        sqlstate, words = refusal(db, statement)
        assert sqlstate == "PE003", statement
        assert "READ COMMITTED" in words
    assert rows(db, "select * from peers.dependency") == []


@pytest.mark.parametrize("way", ["one statement", "two statements", "submit", "submit_graph"])
def test_new_children_leave_no_row_in_ready(db: Connection, way: str) -> None:
    """A claim would drop such a row, and a chain would take twice the time to claim."""
    parent = submit(db)
    if way == "one statement":
        run(
            db,
            "with child as (insert into peers.task (kind) select 'a' from generate_series(1, 500)"
            " returning id) insert into peers.dependency (parent_id, child_id)"
            " select %s, id from child",
            parent,
        )
    elif way == "two statements":
        with db.transaction():
            run(
                db,
                "insert into peers.task (kind, priority) select 'a', 5 from generate_series(1, 9)",
            )
            run(
                db,
                "insert into peers.dependency (parent_id, child_id)"
                " select %s, id from peers.task where priority = 5",
                parent,
            )
    elif way == "submit":
        submit(db, depends_on=[parent])
    else:
        run(db, """select peers.submit_graph('[{"name": "a", "kind": "a", "depends_on": [1]}]')""")
    assert value(db, "select count(*) from peers.blocked") > 0
    assert column(db, "select task_id from peers.ready") == [parent]


def test_rows_of_other_tasks_stay_in_ready(db: Connection) -> None:
    """Tasks without parents are still claimed, those of the same transaction too."""
    before, parent = submit(db), submit(db)
    with db.transaction():
        first, child, last = submit(db), submit(db), submit(db)
        add_edge(db, parent, child)
    ready = column(db, "select task_id from peers.ready order by position")
    assert ready == [before, parent, first, last]
