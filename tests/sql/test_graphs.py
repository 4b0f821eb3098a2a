"""Graphs: their tasks, their progress, and what operators do with all of them at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

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
    states,
    stop_clock,
    submit,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.server import Connection


def new_graph(db: Connection, name: str = "nightly") -> int:
    """Create a graph with a plain INSERT; its id."""
    graph: int = value(db, "insert into peers.graph (name) values (%s) returning id", name)
    return graph


def status(db: Connection, graph: int) -> dict[str, Any]:
    """The row of graph_status."""
    return row(db, "select * from peers.graph_status where graph_id = %s", graph)


def act(db: Connection, verb: str, graph: int) -> int:
    """Call a verb; how many tasks it changed."""
    changed: int = value(db, f"select peers.{verb}_graph(%s)", graph)
    return changed


def submit_graph(db: Connection, *names: str, **options: object) -> list[dict[str, Any]]:
    """Submit nodes of kind `a` without edges."""
    nodes = json.dumps([{"name": name, "kind": "a"} for name in names])
    named = "".join(f", {name} => %s" for name in options)
    query = f"select * from peers.submit_graph(%s::jsonb{named})"
    return rows(db, query, nodes, *options.values())


# ------------------------------------------------------------------------------------- submission


def test_plain_inserts_make_a_graph(db: Connection) -> None:
    """One statement inserts the graph and its tasks; any of them may have edges."""
    run(
        db,
        """with g as (insert into peers.graph (name, metadata) values ('etl', '{"x": 1}')
                      returning id),
                extract as (insert into peers.task (kind, graph_id) select 'a', g.id from g
                            returning id),
                load as (insert into peers.task (kind, graph_id) select 'a', g.id from g
                         returning id)
           insert into peers.dependency (parent_id, child_id)
           select extract.id, load.id from extract, load""",
    )
    [graph] = rows(db, "select * from peers.graph")
    assert (graph["name"], graph["metadata"]) == ("etl", {"x": 1})
    found = status(db, graph["id"])
    assert (found["tasks"], found["ready"], found["blocked"]) == (2, 1, 1)
    assert problems(db) == []


def test_a_graph_that_does_not_exist_is_refused(db: Connection) -> None:
    """By INSERT, COPY and submit, with the id and the remedy."""
    for statement in (
        "insert into peers.task (kind, graph_id) values ('a', 7)",
        "select peers.submit('a', graph_id => 7)",
    ):
        sqlstate, words = refusal(db, statement)
        assert sqlstate == "PE011"
        assert "there is no graph 7" in words
        assert "creates one" in words
    assert value(db, "select count(*) from peers.task") == 0


@pytest.mark.parametrize(
    ("columns", "values", "words"),
    [
        ("name", "''", "name must have 1 to 200 characters"),
        ("name", "repeat('x', 201)", "name must have 1 to 200 characters"),
        ("name", "E'a\\nb'", "no control characters"),
        ("name, idempotency_key", "'a', repeat('x', 501)", "idempotency_key must have 1 to 500"),
        ("name, metadata", "'a', '[]'", "metadata must be a JSON object"),
        ("name, paused_at", "'a', now()", "kept by the scheduler"),
        ("name, nodes", "'a', '{}'", "kept by the scheduler"),
        ("name, submitter", "'a', 'mallory'", "kept by the scheduler"),
        ("name, created_at", "'a', 'yesterday'", "kept by the scheduler"),
    ],
)
def test_a_malformed_graph_is_refused(
    db: Connection, columns: str, values: str, words: str
) -> None:
    """With what is wrong and its bound."""
    sqlstate, said = refusal(db, f"insert into peers.graph ({columns}) values ({values})")
    assert sqlstate == "PE009"
    assert words in said


def test_a_task_stays_in_its_graph(db: Connection) -> None:
    """A task is not moved by hand, and the scheduler's columns of a graph are not changed."""
    first, second = new_graph(db), new_graph(db)
    submit(db, graph_id=first)
    for statement in (
        f"update peers.task set graph_id = {second}",
        "update peers.task set graph_id = null",
        "update peers.graph set paused_at = now()",
        "update peers.graph set idempotency_key = 'x'",
        "delete from peers.graph",
        "truncate peers.graph",
    ):
        assert refusal(db, statement)[0] == "PE005", statement
    run(db, "update peers.graph set name = 'weekly', metadata = '{}' where id = %s", first)
    assert status(db, first)["name"] == "weekly"


def test_submit_graph_makes_a_graph(db: Connection) -> None:
    """With its name and metadata; each node has the graph's id."""
    made = submit_graph(db, "x", "y", name="etl", metadata='{"m": 1}')
    [graph] = {each["graph_id"] for each in made}
    assert [each["name"] for each in made] == ["x", "y"]
    assert column(db, "select graph_id from peers.task") == [graph, graph]
    assert (status(db, graph)["name"], status(db, graph)["metadata"]) == ("etl", {"m": 1})
    [unnamed] = submit_graph(db, "x")
    assert status(db, unnamed["graph_id"])["name"] == "graph"


def test_a_key_submits_a_graph_once(db: Connection) -> None:
    """Again under the key: the same ids, nothing is inserted, whatever became of the tasks."""
    first = submit_graph(db, "x", "y", idempotency_key="night 1")
    run(db, "select peers.cancel(%s)", first[0]["task_id"])
    known = [{**node, "is_new": False} for node in first]
    assert submit_graph(db, "x", "y", idempotency_key="night 1") == known
    assert submit_graph(db, "y", idempotency_key="night 1") == known[1:]
    assert value(db, "select count(*) from peers.task") == 2
    assert submit_graph(db, "x", "y", idempotency_key="night 2") != first


def test_a_key_refuses_other_nodes(db: Connection) -> None:
    """A node that the graph did not have is named; nothing is inserted."""
    [first] = submit_graph(db, "x", idempotency_key="k")
    nodes = '[{"name": "x", "kind": "a"}, {"name": "z", "kind": "a"}]'
    sqlstate, words = refusal(
        db, "select peers.submit_graph(%s::jsonb, idempotency_key => 'k')", nodes
    )
    assert sqlstate == "PE007"
    assert f'graph {first["graph_id"]} was submitted under the idempotency_key "k"' in words
    assert 'without a node "z"' in words
    assert value(db, "select count(*) from peers.task") == 1


# ----------------------------------------------------------------------------------------- status


def test_graph_status_counts_every_state(db: Connection, peer: Peer) -> None:
    """Each state once, the share of what has ended, and since when the oldest has been running."""
    graph = new_graph(db)
    completed, dead, running, cancelled, ready = (submit(db, graph_id=graph) for _ in range(5))
    submit(db, graph_id=graph, depends_on=[ready])
    run(db, "insert into peers.task (kind, graph_id, scheduled_at) values ('a', %s, now() + '1 d')",
        graph)  # fmt: skip
    submit(db)  # no graph
    submit(db, graph_id=new_graph(db))
    claims = {claim.task_id: claim for claim in peer.claim(3)}
    assert peer.complete(claims[completed]) == {}
    assert peer.fail(claims[dead], reject=True) == {}
    run(db, "select peers.cancel(%s)", cancelled)
    found = status(db, graph)
    counted = {name: found[name] for name in ("blocked", "scheduled", "ready", "running",
                                              "completed", "dead", "cancelled")}  # fmt: skip
    assert counted == dict.fromkeys(counted, 1)
    assert (found["tasks"], found["done_share"]) == (7, pytest.approx(2 / 7))
    started = value(db, "select started_at from peers.task where id = %s", running)
    assert found["oldest_running_since"] == started
    assert found["finished_at"] is None
    assert found["last_change"] >= started


def test_a_graph_finishes_with_its_last_task(db: Connection, peer: Peer) -> None:
    """finished_at needs every task completed or cancelled; a dead one holds it open."""
    graph = new_graph(db)
    assert (status(db, graph)["done_share"], status(db, graph)["finished_at"]) == (0, None)
    one, two = submit(db, graph_id=graph), submit(db, graph_id=graph)
    first, second = peer.claim()
    assert peer.complete(first) == {}
    assert peer.fail(second, reject=True) == {}
    assert status(db, graph)["finished_at"] is None
    run(db, "select peers.discard(%s)", two)
    found = status(db, graph)
    assert found["done_share"] == 1
    assert found["finished_at"] == value(db, "select max(finished_at) from peers.task")
    assert state(db, one) == "completed"


def test_the_eta_goes_on_at_the_rate_so_far(db: Connection, peer: Peer) -> None:
    """One of four took ten seconds: thirty more. Without a rate, or paused, it is unknown."""
    graph = new_graph(db)
    for _ in range(4):
        submit(db, graph_id=graph)
    assert status(db, graph)["eta"] is None
    [claim] = peer.claim(1)
    stop_clock(db, "(select max(started_at) from peers.task)")
    advance(db, "10 s")
    peer.complete(claim)
    left = "select extract(epoch from eta - peers.now())::float from peers.graph_status"
    assert value(db, left) == pytest.approx(30)
    act(db, "pause", graph)
    assert status(db, graph)["eta"] is None


# ---------------------------------------------------------------------------------------- pausing


def test_a_paused_graph_is_not_claimed_and_others_are(db: Connection, peer: Peer) -> None:
    """Its rows leave the table ready at once; resuming puts them back."""
    graph = new_graph(db)
    held = [submit(db, graph_id=graph) for _ in range(3)]
    other = submit(db)
    assert act(db, "pause", graph) == 3
    assert act(db, "pause", graph) == 0
    assert column(db, "select task_id from peers.ready") == [other]
    assert [claim.task_id for claim in peer.claim()] == [other]
    assert status(db, graph)["paused"]
    assert states(db, *held) == ["ready"] * 3
    assert problems(db) == []
    assert act(db, "resume", graph) == 3
    assert act(db, "resume", graph) == 0
    assert [claim.task_id for claim in peer.claim()] == held
    assert problems(db) == []


def test_what_runs_when_a_graph_is_paused_runs_on(db: Connection, peer: Peer) -> None:
    """And completes; its child is unblocked, and waits for the graph."""
    graph = new_graph(db)
    parent = submit(db, graph_id=graph)
    child = submit(db, graph_id=graph, depends_on=[parent])
    [claim] = peer.claim()
    assert act(db, "pause", graph) == 0
    assert peer.complete(claim) == {}
    assert state(db, child) == "ready"
    assert peer.claim() == []
    assert act(db, "resume", graph) == 1
    assert [claim.task_id for claim in peer.claim()] == [child]


def released(db: Connection, peer: Peer, graph: int) -> Iterator[int]:
    """Its peer gives it back."""
    task = submit(db, graph_id=graph)
    [claim] = peer.claim()
    yield task
    assert peer.release(claim) == {}


def failed(db: Connection, peer: Peer, graph: int) -> Iterator[int]:
    """Its attempt fails, and the next one is due at once."""
    task = submit(db, graph_id=graph)
    [claim] = peer.claim()
    yield task
    assert peer.fail(claim, retry_in=0) == {}


def reclaimed(db: Connection, peer: Peer, graph: int) -> Iterator[int]:
    """Its peer is lost."""
    task = submit(db, graph_id=graph)
    assert len(peer.claim()) == 1
    yield task
    steady = Peer.join(db)
    steady.advance_steadily(60)
    assert len(steady.reclaim()) == 1


def retried(db: Connection, peer: Peer, graph: int) -> Iterator[int]:
    """It is dead, and an operator retries it."""
    task = submit(db, graph_id=graph)
    [claim] = peer.claim()
    assert peer.fail(claim, reject=True) == {}
    yield task
    run(db, "select peers.retry(%s)", task)


def promoted(db: Connection, peer: Peer, graph: int) -> Iterator[int]:
    """Its time comes."""
    later = value(db, "select peers.now() + interval '5 s'")
    task = submit(db, graph_id=graph, scheduled_at=later)
    assert peer.claim() == []
    yield task
    advance(db, "6 s")
    assert promote(db) == 1


def unblocked(db: Connection, peer: Peer, graph: int) -> Iterator[int]:
    """Its parent, which belongs to no graph, completes."""
    task = submit(db, graph_id=graph, depends_on=[submit(db)])
    [claim] = peer.claim()
    yield task
    assert peer.complete(claim) == {}


def changed(db: Connection, peer: Peer, graph: int) -> Iterator[int]:
    """An operator changes its priority."""
    task = submit(db, graph_id=graph)
    assert peer.heartbeat()["alive"]
    yield task
    run(db, "select peers.change(%s, priority => 3)", task)


def moved_and_changed(db: Connection, peer: Peer, graph: int) -> Iterator[int]:
    """An operator makes it due now."""
    later = value(db, "select peers.now() + interval '1 day'")
    task = submit(db, graph_id=graph, scheduled_at=later)
    assert peer.heartbeat()["alive"]
    yield task
    run(db, "select peers.change(%s, scheduled_at => peers.now())", task)


@pytest.mark.parametrize(
    "way",
    [released, failed, reclaimed, retried, promoted, unblocked, changed, moved_and_changed],
    ids=lambda way: str(way.__name__),
)
def test_no_verb_starts_a_task_of_a_paused_graph(
    db: Connection, peer: Peer, way: Callable[[Connection, Peer, int], Iterator[int]]
) -> None:
    """Whatever makes it ready while its graph is paused, it runs after resume and not before."""
    graph = new_graph(db)
    makes_ready = way(db, peer, graph)
    task = next(makes_ready)
    act(db, "pause", graph)
    assert list(makes_ready) == []
    claimer = Peer.join(db)
    assert state(db, task) == "ready"
    assert claimer.claim() == []
    assert problems(db) == []
    assert act(db, "resume", graph) == 1
    assert [claim.task_id for claim in claimer.claim()] == [task]


def test_a_task_that_is_submitted_to_a_paused_graph_waits(db: Connection, peer: Peer) -> None:
    """With those that were there before."""
    graph = new_graph(db)
    first = submit(db, graph_id=graph)
    act(db, "pause", graph)
    second = submit(db, graph_id=graph)
    assert peer.claim() == []
    assert problems(db) == []
    assert act(db, "resume", graph) == 2
    assert [claim.task_id for claim in peer.claim()] == [first, second]


def test_rows_of_a_paused_graph_are_dropped_once(db: Connection, peer: Peer) -> None:
    """What becomes ready while it is paused does not stay at the head of the queue."""
    graph = new_graph(db)
    act(db, "pause", graph)
    run(db, "insert into peers.task (kind, graph_id, priority) select 'a', %s, 1"
            " from generate_series(1, 3000)", graph)  # fmt: skip
    late = submit(db)
    calls = 1
    while not (claims := peer.claim(1)):  # each call drops rows for a tenth of a second
        calls += 1
    assert calls < 20
    assert [claim.task_id for claim in claims] == [late]
    assert value(db, "select count(*) from peers.ready") == 0
    assert act(db, "resume", graph) == 3000
    assert len(peer.claim(1000)) == 1000


def test_explain_names_the_paused_graph(db: Connection, peer: Peer) -> None:
    """With the call that resumes it, for a task that is ready and for one that waits."""
    graph = new_graph(db)
    parent = submit(db, graph_id=graph)
    child = submit(db, graph_id=graph, depends_on=[parent])
    act(db, "pause", graph)
    for task in (parent, child):
        words = value(db, "select peers.explain(%s)", task)
        assert f'graph {graph} ("nightly") is paused: peers.resume_graph({graph})' in words
    act(db, "resume", graph)
    assert "paused" not in value(db, "select peers.explain(%s)", parent)
    assert peer.claim()


def test_queue_status_sets_paused_graphs_apart(db: Connection) -> None:
    """Their ready tasks are counted, and make no queue look late."""
    graph = new_graph(db)
    submit(db, graph_id=graph)
    act(db, "pause", graph)
    advance(db, "1 h")
    submit(db, "b", graph_id=graph)
    found = row(db, "select * from peers.queue_status")
    assert (found["ready"], found["ready_in_paused_graphs"]) == (0, 2)
    assert found["oldest_ready"] is None
    assert rows(db, "select * from peers.unrunnable()") == []


def test_check_finds_a_ready_task_of_a_graph_that_is_not_paused(db: Connection) -> None:
    """A row that is missing is a problem unless the graph is paused; repair puts it back."""
    graph = new_graph(db)
    task = submit(db, graph_id=graph)
    act(db, "pause", graph)
    assert problems(db) == []
    with db.transaction():
        run(db, "set local session_replication_role = replica")
        run(db, "update peers.graph set paused_at = null")
    [found] = rows(db, "select * from peers.check(repair => true)")
    assert (found["task_id"], found["repaired"]) == (task, True)
    assert problems(db) == []
    assert value(db, "select count(*) from peers.ready") == 1


def test_check_creates_a_lost_graph_again(db: Connection) -> None:
    """After a partial restore, a task's graph may be missing."""
    graph = new_graph(db)
    submit(db, graph_id=graph)
    with db.transaction():
        run(db, "set local session_replication_role = replica")
        run(db, "delete from peers.graph")
    [found] = problems(db)
    assert found["problem"] == f"belongs to graph {graph}, which does not exist"
    run(db, "select * from peers.check(repair => true)")
    assert problems(db) == []
    assert status(db, graph)["tasks"] == 1


# ---------------------------------------------------------------------------------- cancel, retry


def test_cancel_graph_ends_everything(db: Connection, peer: Peer) -> None:
    """Waiting and dead tasks now, running ones by their peer, dependents outside with them."""
    graph = new_graph(db)
    dead, running = submit(db, graph_id=graph), submit(db, graph_id=graph)
    claims = {claim.task_id: claim for claim in peer.claim()}
    peer.fail(claims[dead], reject=True)
    ready = submit(db, graph_id=graph)
    blocked = submit(db, graph_id=graph, depends_on=[running, ready])
    outside = submit(db, depends_on=[blocked])
    runs_anyway = submit(db, depends_on=[blocked], on_parent_failure="run")
    bystander = submit(db)
    assert act(db, "cancel", graph) == 4
    assert states(db, dead, running, ready, blocked) == [
        "cancelled", "running", "cancelled", "cancelled",
    ]  # fmt: skip
    assert states(db, outside, runs_anyway, bystander) == ["cancelled", "ready", "ready"]
    assert peer.heartbeat()["cancelled_tasks"] == [running]
    assert peer.fail(claims[running]) == {}
    assert state(db, running) == "cancelled"
    assert act(db, "cancel", graph) == 0
    assert problems(db) == []


def test_retry_graph_runs_its_dead_letters_again(db: Connection, peer: Peer) -> None:
    """All of its own with new attempts, and nobody else's."""
    graph = new_graph(db)
    for _ in range(3):
        submit(db, graph_id=graph)
    submit(db)
    for claim in peer.claim():
        peer.fail(claim, reject=True)
    assert act(db, "retry", graph) == 3
    assert act(db, "retry", graph) == 0
    claims = peer.claim()
    assert [claim.attempt for claim in claims] == [1, 1, 1]
    assert value(db, "select count(*) from peers.dead_letter") == 1
    assert problems(db) == []


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume", "retry"])
def test_a_verb_refuses_a_graph_that_is_not_there(db: Connection, verb: str) -> None:
    """PE011 with the id."""
    sqlstate, words = refusal(db, f"select peers.{verb}_graph(7)")
    assert (sqlstate, "there is no graph 7" in words) == ("PE011", True)


# ------------------------------------------------------------------------------------------ prune


def test_prune_deletes_a_graph_with_its_last_task(db: Connection, peer: Peer) -> None:
    """Not before; its key is free then. An empty graph goes when it is old."""
    [first, second] = submit_graph(db, "x", "y", idempotency_key="k")
    young = new_graph(db)
    [claim] = peer.claim(1)
    peer.complete(claim)
    run(db, "select * from peers.prune('0 s')")
    assert column(db, "select id from peers.graph order by id") == [first["graph_id"]]
    assert young not in column(db, "select id from peers.graph")
    run(db, "select peers.cancel(%s)", second["task_id"])
    advance(db, "1 s")
    run(db, "select * from peers.prune('1 h')")
    assert column(db, "select id from peers.graph") == [first["graph_id"]]
    run(db, "select * from peers.prune('0 s')")
    assert column(db, "select id from peers.graph") == []
    assert submit_graph(db, "x", idempotency_key="k")[0]["graph_id"] != first["graph_id"]
