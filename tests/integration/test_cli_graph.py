"""`peers graph`, and what other commands do with graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from peers.cli.output import WIDTH
from tests.support.cli import Answer, Here, bury, join, state

if TYPE_CHECKING:
    from tests.support.server import Connection

DIGITS = "0.1234567890123456789012345678901234567890"


@pytest.fixture
def here(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Run commands on the test's database."""
    return Here(database_url, monkeypatch, capsys)


def submit_graph(db: Connection, name: str, metadata: str | None = None) -> tuple[int, list[int]]:
    """Submit two tasks of kind a and a child of both; return the graph's id and theirs."""
    nodes = (
        '[{"name": "1", "kind": "a"}, {"name": "2", "kind": "a"},'
        ' {"name": "3", "kind": "b", "after": ["1", "2"]}]'
    )
    found = db.execute(
        "select task_id, graph_id from peers.submit_graph(%s, name => %s, metadata => %s::jsonb)"
        " order by task_id",
        (nodes, name, metadata),
    ).fetchall()
    return found[0]["graph_id"], [row["task_id"] for row in found]


def done(answer: Answer) -> str:
    """Return the output of a command that has succeeded."""
    assert answer.code == 0, answer
    return answer.out


def test_graphs_are_listed_newest_first(
    here: Here, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list says how many there are, and filters by name and by pause."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    assert here("graph", "list").err == "no graphs\n"
    graphs = [submit_graph(db, name)[0] for name in ("nightly " + "x" * 150, "hourly", "hourly")]
    db.execute("select peers.pause_graph(%s)", (graphs[1],))
    lines = done(here("graph", "list")).splitlines()
    assert [line.split()[0] for line in lines] == ["GRAPH", *map(str, reversed(graphs))]
    assert all(len(line) <= WIDTH for line in lines)
    assert "paused" in lines[2]
    assert "2 more: --limit 3 shows all" in here("graph", "list", "--limit", "1").err

    def ids(*options: str) -> list[int]:
        found = here("graph", "list", "--json", *options).document
        assert found["total"] == len(found["graphs"])
        return [graph["graph_id"] for graph in found["graphs"]]

    assert ids("--name", "hourly") == [graphs[2], graphs[1]]
    assert ids("--paused") == [graphs[1]]
    assert ids("--name", "daily") == []


def test_a_graph_is_shown_with_its_progress(here: Here, db: Connection) -> None:
    """It is found by its id and by its name; --json keeps every digit of its metadata."""
    submit_graph(db, "nightly")
    graph, _ = submit_graph(db, "nightly", f'{{"n": {DIGITS}}}')
    by_id = done(here("graph", "show", str(graph)))
    for expected in (f"graph {graph}, nightly", "tasks    3: 1 blocked, 2 ready", "done     0%"):
        assert expected in by_id
    by_name = here("graph", "show", "nightly", "--json")
    assert by_name.document["graph_id"] == graph
    assert f'"metadata": {{"n": {DIGITS}}}' in by_name.out


@pytest.mark.parametrize("verb", ["show", "cancel", "pause", "resume", "retry"])
@pytest.mark.parametrize("graph", ["99", "nightly"])
def test_a_graph_that_does_not_exist_is_an_error(here: Here, verb: str, graph: str) -> None:
    """The exit code is 4, as for a task."""
    answer = here("graph", verb, graph)
    assert (answer.code, answer.out) == (4, "")
    assert "there is no graph" in answer.err


def test_a_graph_is_paused_resumed_and_cancelled(here: Here, db: Connection) -> None:
    """Each says what it did; status names a paused graph and the command that resumes it."""
    join(db, "a", "b")
    graph, tasks = submit_graph(db, "nightly")
    other, _ = submit_graph(db, "hourly")
    assert done(here("graph", "pause", "nightly")) == f"graph {graph}: paused; 2 tasks ready\n"
    status = here("status")
    assert status.code == 1
    assert f'! graph {graph} "nightly" is paused: peers graph resume {graph}' in status.out
    assert [row["graph_id"] for row in here("status", "--json").document["paused_graphs"]] == [
        graph
    ]
    assert done(here("graph", "resume", str(graph))) == f"graph {graph}: resumed; 2 tasks ready\n"
    assert here("status").code == 0
    cancelled = done(here("graph", "cancel", str(graph)))
    assert cancelled == f"graph {graph}: 3 tasks cancelled or asked to stop\n"
    assert {state(db, task) for task in tasks} == {"cancelled"}
    assert here("graph", "show", "hourly", "--json").document["ready"] == 2
    db.execute("select peers.pause_graph(%s)", (graph,))
    assert here("status").code == 0, "a finished graph that is paused is no problem"
    assert other != graph


def test_many_paused_graphs_are_counted(here: Here, db: Connection) -> None:
    """Status names five of them and says how to list all."""
    join(db, "a", "b")
    for _ in range(7):
        db.execute("select peers.pause_graph(%s)", (submit_graph(db, "nightly")[0],))
    problems = here("status", "--json").document["problems"]
    assert len(problems) == 6
    assert problems[-1] == "2 more graphs paused: peers graph list --paused"


def test_dead_letters_of_one_graph(here: Here, db: Connection) -> None:
    """They are listed, retried and discarded apart from those of other graphs."""
    peer = join(db, "a", "b")
    graph, tasks = submit_graph(db, "nightly")
    other, others = submit_graph(db, "nightly")
    assert len(bury(db, peer)) == 4
    listed = here("dead", "list", "--graph", str(graph), "--json").document
    assert sorted(letter["task_id"] for letter in listed["dead_letters"]) == tasks[:2]
    assert listed["total"] == 2
    assert f"peers graph retry {graph}" in here("graph", "show", str(graph)).err
    retried = here("dead", "retry", "--graph", str(graph), "--kind", "a", "--args", '{"n": 2}')
    assert done(retried) == "retried 2 dead letters; 1 held child can run after them\n"
    assert db.execute("select args from peers.task where id = %s", (tasks[0],)).fetchall() == [
        {"args": {"n": 2}}
    ]
    assert {state(db, task) for task in others[:2]} == {"dead"}
    none = here("dead", "retry", "--graph", str(other), "--kind", "b")
    assert done(none) == "retried 0 dead letters\n"
    discarded = here("dead", "discard", "--graph", str(other))
    assert done(discarded) == "discarded 2 dead letters; 1 held child also cancelled\n"
    assert [state(db, task) for task in others] == ["cancelled"] * 3
    assert here("dead", "list", "--graph", "99").code == 4
    assert here("dead", "discard", "--graph", "99").code == 4
    bury(db, peer)
    assert done(here("graph", "retry", str(graph))) == f"graph {graph}: 2 tasks retried\n"


def test_a_task_is_added_to_a_graph(here: Here, db: Connection) -> None:
    """`submit --graph` takes the id of a graph that exists."""
    graph, _ = submit_graph(db, "nightly")
    task = int(done(here("submit", "c", "--graph", str(graph))))
    [row] = db.execute("select graph_id from peers.task where id = %s", (task,))
    assert row == {"graph_id": graph}
    missing = here("submit", "c", "--graph", "99")
    assert missing.code != 0
    assert "there is no graph 99" in missing.err
