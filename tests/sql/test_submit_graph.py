"""submit_graph: whole graphs in one call, checked before anything is inserted."""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.support.world import (
    Peer,
    advance,
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
    from tests.support.server import Connection


def submit_graph(db: Connection, nodes: object) -> dict[str, int]:
    """The ids by name."""
    answer = rows(db, "select * from peers.submit_graph(%s::jsonb)", json.dumps(nodes))
    return {each["name"]: each["task_id"] for each in answer}


def node(name: str, *after: str, **more: object) -> dict[str, Any]:
    """One node of kind a."""
    return {"name": name, "kind": "a", "after": list(after), **more}


def test_names_answer_ids_and_children_wait(db: Connection, peer: Peer) -> None:
    """Each name has its id, whatever the order of the array; only the top is ready."""
    ids = submit_graph(
        db,
        [node("bottom", "left", "right"), node("left", "top"), node("right", "top"), node("top")],
    )
    assert set(ids) == {"top", "left", "right", "bottom"}
    order: list[int] = []
    while claims := peer.claim():
        order += [claim.task_id for claim in claims]
        peer.complete(*claims)
    assert order[0] == ids["top"]
    assert order[-1] == ids["bottom"]
    assert sorted(order) == sorted(ids.values())


def test_ids_grow_from_parent_to_child(db: Connection) -> None:
    """The numbering alone proves that there is no cycle."""
    names = [f"n{number}" for number in range(100)]
    nodes = [node(name, *names[:number][-3:]) for number, name in enumerate(names)]
    random.Random(7).shuffle(nodes)
    submit_graph(db, nodes)
    assert value(db, "select count(*) from peers.dependency where parent_id >= child_id") == 0
    assert value(db, "select count(*) from peers.dependency") == 3 * 97 + 3


def test_every_field_reaches_its_task(db: Connection) -> None:
    """A node has the fields of submit."""
    parent = submit(db)
    fields = {
        "args": {"x": 1},
        "queue": "q",
        "priority": 3,
        "scheduled_at": "2030-01-01T00:00:00Z",
        "max_attempts": 2,
        "timeout": "7 s",
        "idempotency_key": "k",
        "metadata": {"m": 1},
        "depends_on": [parent],
        "on_parent_failure": "run",
    }
    [task_id] = submit_graph(db, [node("n", **fields)]).values()
    [task] = rows(db, "select * from peers.task where id = %s", task_id)
    for name in ("args", "queue", "priority", "max_attempts", "idempotency_key", "metadata"):
        assert task[name] == fields[name]
    assert (task["timeout"].total_seconds(), task["scheduled_at"].year) == (7, 2030)
    [edge] = rows(db, "select * from peers.dependency")
    assert (edge["parent_id"], edge["on_parent_failure"]) == (parent, "run")


def test_an_empty_graph_is_nothing(db: Connection) -> None:
    """No nodes, no tasks, no error."""
    assert submit_graph(db, []) == {}


def test_ten_thousand_tasks_in_a_random_graph(db: Connection, peer: Peer) -> None:
    """Every count is right, and the graph runs to its end in the right order."""
    luck = random.Random(20261123)
    total = 10_000
    nodes = []
    for number in range(total):
        parents = {luck.randrange(max(0, number - 500), number) for _ in range(2) if number}
        nodes.append(node(f"n{number}", *(f"n{parent}" for parent in parents)))
    edges = sum(len(each["after"]) for each in nodes)
    luck.shuffle(nodes)
    submit_graph(db, nodes)
    assert value(db, "select count(*) from peers.task") == total
    assert value(db, "select count(*) from peers.dependency") == edges
    assert value(db, "select sum(pending_parents) from peers.task") == edges
    assert problems(db) == []
    finished: dict[int, int] = {}
    while claims := peer.claim(2000):
        assert peer.complete(*claims) == {}
        finished |= {claim.task_id: len(finished) + place for place, claim in enumerate(claims)}
    assert len(finished) == total
    for edge in rows(db, "select parent_id, child_id from peers.dependency"):
        assert finished[edge["parent_id"]] < finished[edge["child_id"]]


BAD = {
    "no array": ({"name": "a"}, "JSON array"),
    "node is no object": ([7], "node 1 .*object"),
    "no name": ([{"kind": "a"}], 'node 1 has no "name"'),
    "no kind": ([{"name": "x"}], 'node 1 "x" has no "kind"'),
    "repeated name": ([node("x"), node("y"), node("x")], '"x"'),
    "unknown name": ([node("x"), node("y", "z")], '"y" is after "z"'),
    "unknown field": ([node("x", prio=1)], '"prio"'),
    "after no array": ([{"name": "x", "kind": "a", "after": "y"}], '"after"'),
    "depends_on no array": ([node("x", depends_on=5)], '"depends_on"'),
    "depends_on no id": ([node("x", depends_on=["y"])], "x"),
    "depends_on null": ([node("x", depends_on=[None])], "x"),
    "unknown task": ([node("x", depends_on=[4711])], "4711"),
    "unknown policy": ([node("x", on_parent_failure="explode")], "x"),
    "absurd priority": ([node("x"), node("y", priority=99_999)], "y"),
    "priority is text": ([node("x", priority="high")], "x"),
}


def test_a_bad_graph_is_named_and_leaves_nothing(db: Connection) -> None:
    """The refusal names the node and what is wrong with it."""
    for case, (nodes, words) in BAD.items():
        sqlstate, said = refusal(db, "select peers.submit_graph(%s::jsonb)", json.dumps(nodes))
        assert sqlstate in ("PE007", "PE009"), f"{case}: {said}"
        assert re.search(words, said), f"{case}: {said}"
    assert value(db, "select count(*) from peers.task") == 0


def test_malformed_fields_are_refused_as_in_an_insert(db: Connection) -> None:
    """The bounds of a node's fields are those of a task."""
    for field, wrong in {"args": [], "max_attempts": 0, "timeout": "-1 s", "queue": ""}.items():
        graph = json.dumps([node("x", **{field: wrong})])
        sqlstate, said = refusal(db, "select peers.submit_graph(%s::jsonb)", graph)
        assert sqlstate in ("PE007", "PE009"), field
        assert field in said


def test_a_cycle_is_named_with_its_nodes(db: Connection) -> None:
    """The whole path is told in the names of the graph, and nothing else."""
    nodes = [node("top"), node("a", "top", "c"), node("b", "a"), node("c", "b"), node("end", "c")]
    with pytest.raises(psycopg.DatabaseError) as refused:
        submit_graph(db, nodes)
    assert refused.value.sqlstate == "PE001"
    path = str(refused.value).splitlines()[0].split(": ")[1].split(" -> ")
    assert path[0] == path[-1]
    turned = path.index("a")
    assert path[:-1][turned:] + path[:-1][:turned] == ["a", "b", "c"]


def test_a_long_cycle_is_named_by_its_ends(db: Connection) -> None:
    """Of 5,000 nodes in a ring, the first and the last few are named, the others counted."""
    names = [f"a node with quite a long name {number}" for number in range(5000)]
    nodes = [node(name, names[number - 1]) for number, name in enumerate(names)]
    sqlstate, said = refusal(db, "select peers.submit_graph(%s::jsonb)", json.dumps(nodes))
    assert sqlstate == "PE001"
    words = said.splitlines()[0]
    assert "-> (4991 more) ->" in words
    assert len(words) < 600
    path = words.split(": ")[1].split(" -> ")
    assert path[0] == path[-1]
    assert len(path) == 11
    long = json.dumps([node("x" * 100_000, "x" * 100_000)])
    assert len(refusal(db, "select peers.submit_graph(%s::jsonb)", long)[1]) < 1000


def test_a_node_after_itself(db: Connection) -> None:
    """A self-edge is a cycle."""
    with pytest.raises(psycopg.DatabaseError, match="x -> x") as refused:
        submit_graph(db, [node("x", "x")])
    assert refused.value.sqlstate == "PE001"


def test_a_keyed_node_stands_for_the_task_that_has_the_key(db: Connection, peer: Peer) -> None:
    """Submitting a keyed graph again adds only what is new, with edges to what was there."""
    first = submit_graph(
        db, [node("a", idempotency_key="ka"), node("b", "a", idempotency_key="kb")]
    )
    second = submit_graph(
        db,
        [
            node("a", idempotency_key="ka"),
            node("b", "a", idempotency_key="kb"),
            node("c", "a", "b", idempotency_key="kc"),
        ],
    )
    assert second == first | {"c": second["c"]}
    assert value(db, "select count(*) from peers.task") == 3
    peer.complete(*peer.claim())
    assert states(db, first["b"], second["c"]) == ["ready", "blocked"]
    peer.complete(*peer.claim())
    assert state(db, second["c"]) == "ready"
    assert problems(db) == []


def test_a_cycle_through_a_keyed_node_is_refused(db: Connection) -> None:
    """An existing task may not come to wait for its own descendant."""
    ids = submit_graph(db, [node("a", idempotency_key="ka"), node("b", "a", idempotency_key="kb")])
    nodes = [node("x", idempotency_key="kb"), node("y", "x"), node("z", "y", idempotency_key="ka")]
    with pytest.raises(psycopg.DatabaseError) as refused:
        submit_graph(db, nodes)
    assert refused.value.sqlstate == "PE001"
    assert column(db, "select id from peers.task order by id") == sorted(ids.values())


def started(db: Connection, peer: Peer, key: str) -> int:
    """Submit a task with this idempotency_key, and let it start; return its id."""
    task_id: int = value(db, "select peers.submit('a', idempotency_key => %s)", key)
    claims = peer.claim()
    assert [claim.task_id for claim in claims] == [task_id]
    return task_id


@pytest.mark.parametrize("ended", [False, True])
def test_a_keyed_node_whose_task_has_started_waits_for_no_parent(
    db: Connection, peer: Peer, ended: bool
) -> None:
    """It stays as it is; its children wait for it, and for the parents that the node names."""
    older = submit(db, queue="elsewhere")
    known = value(db, "select peers.submit('a', idempotency_key => 'k')")
    claims = peer.claim()
    if ended:
        peer.complete(*claims)
    nodes = [
        node("extract"),
        node("load", "extract", idempotency_key="k", depends_on=[older]),
        node("mail", "load"),
        node("report", "mail"),
    ]
    ids = submit_graph(db, nodes)
    assert ids["load"] == known
    edges = rows(db, "select parent_id, child_id from peers.dependency")
    assert {(edge["parent_id"], edge["child_id"]) for edge in edges} == {
        (ids["extract"], ids["mail"]), (older, ids["mail"]), (known, ids["mail"]),
        (ids["mail"], ids["report"]),
    }  # fmt: skip
    assert problems(db) == []


def test_a_keyed_graph_is_submitted_again_after_it_has_started(db: Connection, peer: Peer) -> None:
    """Nothing changes: neither tasks nor edges."""
    nodes = [
        node(name, *after, idempotency_key=name)
        for name, after in (("a", ""), ("b", "a"), ("c", "b"))
    ]
    ids = submit_graph(db, nodes)
    dump = (
        "select (select json_agg(t) from peers.task t),"
        " (select json_agg(d) from peers.dependency d)"
    )
    peer.complete(*peer.claim())
    peer.claim()
    before = rows(db, dump)
    assert submit_graph(db, nodes) == ids
    assert rows(db, dump) == before


def test_a_keyed_graph_is_submitted_again_after_its_first_task_was_pruned(
    db: Connection, peer: Peer
) -> None:
    """That task is new, and no task that has started waits for it."""
    nodes = [
        node("a", idempotency_key="a"),
        node("b", "a", idempotency_key="b"),
        node("c", "b", idempotency_key="c"),
    ]
    first = submit_graph(db, nodes)
    for _ in range(2):
        peer.complete(*peer.claim())
    advance(db, "2 s")
    run(db, "select peers.prune('1 s')")
    assert column(db, "select id from peers.task order by id") == [first["b"], first["c"]]
    again = submit_graph(db, nodes)
    assert again == first | {"a": again["a"]}
    assert again["a"] != first["a"]
    assert state(db, again["a"]) == "ready"
    assert problems(db) == []


def test_a_chain_of_started_nodes_passes_its_parents_on(db: Connection, peer: Peer) -> None:
    """However many of them are between a parent and the child that is new."""
    known = [started(db, peer, key) for key in "xyz"]
    nodes = [
        node("top"),
        node("x", "top", idempotency_key="x"),
        node("y", "x", idempotency_key="y"),
        node("z", "y", idempotency_key="z"),
        node("end", "z"),
    ]
    ids = submit_graph(db, nodes)
    parents = column(db, "select parent_id from peers.dependency where child_id = %s", ids["end"])
    assert set(parents) == {ids["top"], *known}
    assert value(db, "select count(*) from peers.dependency") == 4


def test_parents_of_a_started_node_that_were_pruned_do_not_matter(
    db: Connection, peer: Peer
) -> None:
    """Its children need not wait for what is gone."""
    started(db, peer, "k")
    ids = submit_graph(
        db, [node("x", idempotency_key="k", depends_on=[4711]), node("y", "x"), node("z", "x")]
    )
    assert column(db, "select count(*) from peers.dependency group by child_id") == [1, 1]
    assert state(db, ids["y"]) == "blocked"
